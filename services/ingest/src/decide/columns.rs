//! Verdicts over columns. If everything is accepted, the request's own bytes are what goes onto the log.

use tidegauge_core::event::IndexRange;
use tidegauge_core::{Reason, ServiceError};
use tidegauge_proto::raw::{ColumnsView, Dictionary};

use super::draft::{Draft, Pairs, Remap};
use super::request::malformed;
use super::rules::{Refusal, Rules, TEXTS, check_dimensions, check_time, check_unique, check_value};
use super::{Accepted, Decision, Indexes, Verdicts};

/// Judges the events of a request sent as columns; `message` is what `view` shows.
///
/// # Errors
/// INVALID_ARGUMENT when the arrays do not fit together, or a dictionary entry that no event uses breaks a rule.
pub fn decide<'a>(
    rules: &Rules<'_>,
    message: &'a [u8],
    view: &'a ColumnsView<'a>,
) -> Result<Decision<'a>, ServiceError> {
    check_shape(view)?;
    let dictionaries = Dictionaries::check(view);
    if dictionaries.bad.is_empty() && all_times_and_values_good(rules, view) {
        let events = view.len() as u32;
        let accepted = if view.is_as_sent() && dictionaries.sets_as_sent {
            Accepted::AsSent { message, view }
        } else {
            Accepted::Built(build(view)?)
        };
        let indexes = vec![IndexRange { first: 0, count: events }];
        return Ok(Decision { received: events, rejected: Vec::new(), indexes, accepted });
    }
    judge(rules, view, &dictionaries.bad)
}

/// Columns with all events of the view.
///
/// # Errors
/// INVALID_ARGUMENT for ids that are no numbers; not after [`decide`].
pub fn build<'a>(view: &ColumnsView<'a>) -> Result<Draft<'a>, ServiceError> {
    let mut builder = Builder::new(view)?;
    for (event, (time, value)) in view.times().zip(view.values()).enumerate() {
        builder.push(event, time, value);
    }
    Ok(builder.draft)
}

fn wrong(field: &str, reason: Reason, description: String) -> ServiceError {
    ServiceError::invalid(format!("columns.{field}"), reason, description)
}

fn check_shape(view: &ColumnsView<'_>) -> Result<(), ServiceError> {
    let events = view.len();
    let length = |field, entries: usize| {
        let description = format!("has {entries} entries, but there are {events} events");
        Err(wrong(field, "LENGTH_MISMATCH", description))
    };
    if view.values_len() != events {
        return length("values", view.values_len());
    }
    for dictionary in Dictionary::ALL {
        let entries = match (dictionary, view.entries(dictionary)) {
            (Dictionary::EventTypes | Dictionary::Metrics, 0) => {
                let description = "is empty, but every event needs an entry".to_owned();
                return Err(wrong(dictionary.field(), "DICTIONARY_EMPTY", description));
            }
            // An empty dictionary stands for one empty entry.
            (_, entries) => entries.max(1),
        };
        let ids = view.id_summary(dictionary).map_err(malformed)?;
        if ids.count == 0 && entries == 1 {
            continue;
        }
        if ids.count != events {
            return length(dictionary.ids_field(), ids.count);
        }
        if ids.max as usize >= entries {
            let description = format!("holds {}, but {} has {entries} entries", ids.max, dictionary.field());
            return Err(wrong(dictionary.ids_field(), "ID_OUT_OF_RANGE", description));
        }
    }
    Ok(())
}

/// Without a branch per event, so that the compiler uses vectors.
fn all_times_and_values_good(rules: &Rules<'_>, view: &ColumnsView<'_>) -> bool {
    let (earliest, latest) = (rules.earliest_ns, rules.latest_ns);
    let times = view.times().fold(true, |good, time| good & (time >= earliest) & (time <= latest));
    times & view.values().fold(true, |good, value| good & value.is_finite())
}

/// What is wrong with the dictionaries.
struct Dictionaries {
    /// Per bad entry: dictionary, entry, why.
    bad: Vec<(Dictionary, usize, Refusal)>,
    /// Whether all sets were sent in canonical form.
    sets_as_sent: bool,
}

impl Dictionaries {
    fn check(view: &ColumnsView<'_>) -> Self {
        let mut found = Self { bad: Vec::new(), sets_as_sent: true };
        for (dictionary, rule) in Dictionary::ALL.into_iter().zip(&TEXTS) {
            for (entry, text) in view.texts[dictionary as usize].iter().enumerate() {
                if let Err(refusal) = rule.check(text) {
                    found.bad.push((dictionary, entry, refusal));
                }
            }
        }
        for entry in 0..view.sets.len() {
            let sent = view.sets.pairs(entry);
            let checked = if sent.is_sorted_by(|(one, _), (next, _)| one < next) {
                check_dimensions(sent, view.sets.sent(entry))
            } else {
                found.sets_as_sent = false;
                let pairs = canonical(sent);
                check_dimensions(&pairs, view.sets.sent(entry)).and_then(|()| check_unique(&pairs))
            };
            if let Err(refusal) = checked {
                found.bad.push((Dictionary::DimensionSets, entry, refusal));
            }
        }
        found
    }
}

/// The pairs sorted by key.
fn canonical<'a>(sent: &[(&'a str, &'a str)]) -> Pairs<'a> {
    let mut pairs = sent.to_vec();
    pairs.sort_by_key(|(key, _)| *key);
    pairs
}

/// Copies events of a view into new columns.
struct Builder<'a> {
    texts: [Vec<&'a str>; 4],
    sets: Vec<Pairs<'a>>,
    /// Ids per dictionary; empty where all are 0.
    ids: [Vec<u32>; 5],
    numbers: [Remap; 5],
    draft: Draft<'a>,
}

impl<'a> Builder<'a> {
    fn new(view: &ColumnsView<'a>) -> Result<Self, ServiceError> {
        let mut ids: [Vec<u32>; 5] = Default::default();
        for dictionary in Dictionary::ALL {
            ids[dictionary as usize] = view.ids(dictionary).map_err(malformed)?;
        }
        // An empty dictionary stands for one empty entry.
        let texts = view.texts.each_ref().map(|texts| if texts.is_empty() { vec![""] } else { texts.clone() });
        let sets: Vec<Pairs<'a>> = (0..view.sets.len()).map(|entry| canonical(view.sets.pairs(entry))).collect();
        let sets = if sets.is_empty() { vec![Vec::new()] } else { sets };
        let numbers = std::array::from_fn(|at| Remap::new(texts.get(at).map_or(sets.len(), Vec::len)));
        Ok(Self { texts, sets, ids, numbers, draft: Draft::with_capacity(view.len()) })
    }

    fn id(&self, dictionary: usize, event: usize) -> u32 {
        self.ids[dictionary].get(event).copied().unwrap_or(0)
    }

    fn push(&mut self, event: usize, time: i64, value: f64) {
        for at in 0..5 {
            let id = self.id(at, event);
            let draft = &mut self.draft;
            let number = self.numbers[at].get(id, |entry| match self.texts.get(at) {
                Some(texts) => draft.texts[at].push(texts[entry]),
                None => draft.sets.push(self.sets[entry].clone()),
            });
            draft.ids[at].push(number);
        }
        self.draft.times.push(time);
        self.draft.values.push(value);
    }
}

fn judge<'a>(
    rules: &Rules<'_>,
    view: &ColumnsView<'a>,
    bad: &[(Dictionary, usize, Refusal)],
) -> Result<Decision<'a>, ServiceError> {
    let mut refusals: [Vec<Option<usize>>; 5] = Default::default();
    for dictionary in Dictionary::ALL {
        refusals[dictionary as usize] = vec![None; view.entries(dictionary).max(1)];
    }
    for (number, (dictionary, entry, _)) in bad.iter().enumerate() {
        refusals[*dictionary as usize][*entry] = Some(number);
    }
    let mut used = vec![false; bad.len()];
    let mut builder = Builder::new(view)?;
    let mut verdicts = Verdicts::default();
    let mut indexes = Indexes::default();
    for (event, (time, value)) in view.times().zip(view.values()).enumerate() {
        let entries: [Option<usize>; 5] = std::array::from_fn(|at| {
            refusals[at][builder.id(at, event) as usize].inspect(|number| used[*number] = true)
        });
        let entry = |dictionary: Dictionary| match entries[dictionary as usize] {
            Some(number) => Err(bad[number].2.clone()),
            None => Ok(()),
        };
        // Of several problems the first in the order of the fields of a row is told.
        let verdict = entry(Dictionary::EventTypes)
            .and_then(|()| check_time(rules, time).map(drop))
            .and_then(|()| entry(Dictionary::Metrics))
            .and_then(|()| check_value(value))
            .and_then(|()| entry(Dictionary::DimensionSets))
            .and_then(|()| entry(Dictionary::Sources))
            .and_then(|()| entry(Dictionary::Versions));
        match verdict {
            Ok(()) => {
                indexes.push(event as u32);
                builder.push(event, time, value);
            }
            Err(refusal) => verdicts.push(event as u32, refusal),
        }
    }
    if let Some(unused) = used.iter().position(|used| !used) {
        let (dictionary, entry, refusal) = &bad[unused];
        return Err(wrong(&format!("{}[{entry}]", dictionary.field()), refusal.reason, refusal.message.clone()));
    }
    Ok(Decision {
        received: view.len() as u32,
        rejected: verdicts.into_refused(),
        indexes: indexes.into_ranges(),
        accepted: Accepted::Built(builder.draft),
    })
}
