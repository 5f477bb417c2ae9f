//! Verdicts over rows, and columns of those that are accepted.

use std::collections::HashMap;

use tidegauge_core::limits;
use tidegauge_proto::raw::{Malformed, RequestView, Row, RowDimensions};

use super::draft::{Draft, Pairs, Remap};
use super::interner::Interner;
use super::rules::{Refusal, Rules, TEXTS, TextRule, check_dimensions, check_tenant, check_timestamp, check_value};
use super::{Accepted, Decision, Indexes, Verdicts};

/// Entries of one map that are looked at; no encoder of a map sends a key twice, so more are simply too many.
const MAP_ENTRIES_MAX: usize = 16 * limits::DIMENSIONS_MAX;

/// Judges the rows of a request.
///
/// # Errors
/// [`Malformed`] when a row is no event message; then none of them is taken.
pub fn decide<'a>(rules: &Rules<'_>, request: &RequestView<'a>) -> Result<Decision<'a>, Malformed> {
    let mut builder = Builder::new(rules, request.rows);
    let mut verdicts = Verdicts::default();
    let mut indexes = Indexes::default();
    for (index, row) in request.rows().enumerate() {
        match builder.take(rules, &row?)? {
            Ok(()) => indexes.push(index as u32),
            Err(refusal) => verdicts.push(index as u32, refusal),
        }
    }
    Ok(Decision {
        received: request.rows as u32,
        rejected: verdicts.into_refused(),
        indexes: indexes.into_ranges(),
        accepted: Accepted::Built(builder.draft),
    })
}

/// One dictionary of texts: each different text is checked once.
struct Texts<'a> {
    rule: TextRule,
    interner: Interner<'a>,
    checked: Vec<Result<&'a str, Refusal>>,
    numbers: Remap,
}

impl<'a> Texts<'a> {
    fn new(rule: TextRule, seed: u64) -> Self {
        Self { rule, interner: Interner::new(seed), checked: Vec::new(), numbers: Remap::new(0) }
    }

    #[inline]
    fn look_up(&mut self, bytes: &'a [u8]) -> Result<usize, Malformed> {
        let (number, new) = self.interner.intern(bytes);
        if new {
            let text = Row::text(bytes)?;
            self.checked.push(self.rule.check(text).map(|()| text));
            self.numbers.grow();
        }
        Ok(number)
    }
}

/// The dictionary of dimension sets: the same bytes are decoded once, the same set stands once.
struct Sets<'a> {
    encoded: Interner<'a>,
    /// Per different encoding: the set's number, or why it is refused.
    checked: Vec<Result<u32, Refusal>>,
    sets: HashMap<Pairs<'a>, u32>,
    list: Vec<Pairs<'a>>,
    numbers: Remap,
    scratch: Pairs<'a>,
}

impl<'a> Sets<'a> {
    fn new(seed: u64) -> Self {
        Self {
            encoded: Interner::new(seed),
            checked: Vec::new(),
            sets: HashMap::new(),
            list: Vec::new(),
            numbers: Remap::new(0),
            scratch: Vec::new(),
        }
    }

    #[inline]
    fn look_up(&mut self, dimensions: RowDimensions<'a>) -> Result<usize, Malformed> {
        let (number, new) = self.encoded.intern(dimensions.encoded);
        if new {
            let checked = self.read(dimensions)?;
            self.checked.push(checked);
        }
        Ok(number)
    }

    fn read(&mut self, dimensions: RowDimensions<'a>) -> Result<Result<u32, Refusal>, Malformed> {
        self.scratch.clear();
        let mut sent = 0;
        for entry in dimensions.entries() {
            let entry = entry?;
            sent += 1;
            if sent <= MAP_ENTRIES_MAX {
                self.scratch.push(entry);
            }
        }
        // Of a key that stands twice the last counts, as in every decoder of a map. The sort is stable.
        self.scratch.sort_by_key(|(key, _)| *key);
        self.scratch.reverse();
        self.scratch.dedup_by_key(|(key, _)| *key);
        self.scratch.reverse();
        let different = if sent > MAP_ENTRIES_MAX { sent } else { self.scratch.len() };
        if let Err(refusal) = check_dimensions(&self.scratch, different) {
            return Ok(Err(refusal));
        }
        if let Some(number) = self.sets.get(&self.scratch) {
            return Ok(Ok(*number));
        }
        let number = self.list.len() as u32;
        self.list.push(self.scratch.clone());
        self.sets.insert(self.scratch.clone(), number);
        self.numbers.grow();
        Ok(Ok(number))
    }
}

struct Builder<'a> {
    texts: [Texts<'a>; 4],
    sets: Sets<'a>,
    draft: Draft<'a>,
}

impl<'a> Builder<'a> {
    fn new(rules: &Rules<'_>, events: usize) -> Self {
        Self {
            texts: TEXTS.map(|rule| Texts::new(rule, rules.seed)),
            sets: Sets::new(rules.seed),
            draft: Draft::with_capacity(events.min(limits::EVENTS_PER_REQUEST_MAX)),
        }
    }

    /// Takes or refuses a row; of several problems the first in the order of the fields is told.
    fn take(&mut self, rules: &Rules<'_>, row: &Row<'a>) -> Result<Result<(), Refusal>, Malformed> {
        let texts = [row.event_type, row.metric_name, row.source, row.version];
        let mut found = [0; 4];
        for at in 0..4 {
            found[at] = self.texts[at].look_up(texts[at])?;
        }
        let set = self.sets.look_up(row.dimensions)?;
        if let Err(refusal) = check_tenant(rules, row.tenant_id) {
            Row::text(row.tenant_id)?;
            return Ok(Err(refusal));
        }
        Ok(self.accept(rules, row, found, set))
    }

    fn accept(&mut self, rules: &Rules<'_>, row: &Row<'a>, found: [usize; 4], set: usize) -> Result<(), Refusal> {
        let text = |at: usize| self.texts[at].checked[found[at]].as_ref().map_err(Clone::clone);
        let event_type = text(0)?;
        let time_ns = check_timestamp(rules, row.timestamp)?;
        let metric = text(1)?;
        check_value(row.metric_value)?;
        let set = *self.sets.checked[set].as_ref().map_err(Clone::clone)?;
        let entries = [*event_type, *metric, *text(2)?, *text(3)?];

        for at in 0..4 {
            let dictionary = &mut self.draft.texts[at];
            let number = self.texts[at].numbers.get(found[at] as u32, |_| dictionary.push(entries[at]));
            self.draft.ids[at].push(number);
        }
        let dictionary = &mut self.draft.sets;
        let list = &self.sets.list;
        let number = self.sets.numbers.get(set, |old| dictionary.push(list[old].clone()));
        self.draft.ids[4].push(number);
        self.draft.times.push(time_ns);
        self.draft.values.push(row.metric_value);
        Ok(())
    }
}
