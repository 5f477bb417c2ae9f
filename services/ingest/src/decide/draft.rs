//! Columns under construction, over texts borrowed from the request.

use std::ops::Range;

use tidegauge_proto::raw::encode::ColumnParts;

/// A list of pairs, sorted by key.
pub type Pairs<'a> = Vec<(&'a str, &'a str)>;

/// Columns with borrowed dictionaries. Dictionaries hold only entries that an event uses.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Draft<'a> {
    /// Event types, metrics, sources, versions.
    pub texts: [Vec<&'a str>; 4],
    /// Dimension sets.
    pub sets: Vec<Pairs<'a>>,
    /// Event times.
    pub times: Vec<i64>,
    /// Values.
    pub values: Vec<f64>,
    /// Ids per dictionary.
    pub ids: [Vec<u32>; 5],
}

impl<'a> Draft<'a> {
    /// Room for `events`.
    pub fn with_capacity(events: usize) -> Self {
        Self {
            times: Vec::with_capacity(events),
            values: Vec::with_capacity(events),
            ids: std::array::from_fn(|_| Vec::with_capacity(events)),
            ..Self::default()
        }
    }

    /// Number of events.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether there are no events.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// Calls `with` with the parts for encoding.
    pub fn with_parts<R>(&self, with: impl FnOnce(ColumnParts<'_, &'a str, &[(&'a str, &'a str)]>) -> R) -> R {
        let sets: Vec<&[(&str, &str)]> = self.sets.iter().map(Vec::as_slice).collect();
        with(ColumnParts {
            texts: std::array::from_fn(|at| self.texts[at].as_slice()),
            sets: &sets,
            times: &self.times,
            values: &self.values,
            ids: std::array::from_fn(|at| self.ids[at].as_slice()),
        })
    }

    /// Some of the events, with dictionaries of what they use.
    pub fn slice(&self, events: Range<usize>) -> Self {
        let mut slice = Self {
            times: self.times[events.clone()].to_vec(),
            values: self.values[events.clone()].to_vec(),
            ..Self::default()
        };
        for at in 0..4 {
            (slice.texts[at], slice.ids[at]) = compact(&self.texts[at], &self.ids[at][events.clone()]);
        }
        (slice.sets, slice.ids[4]) = compact(&self.sets, &self.ids[4][events]);
        slice
    }
}

/// The entries that the ids use, in the order of their first use, and the ids into them.
fn compact<T: Clone>(dictionary: &[T], ids: &[u32]) -> (Vec<T>, Vec<u32>) {
    let mut used = Remap::new(dictionary.len());
    let mut entries = Vec::new();
    let ids = ids.iter().map(|id| used.get(*id, |old| entries.push(dictionary[old].clone()))).collect();
    (entries, ids)
}

/// New numbers for old ones, given out at first use.
#[derive(Debug)]
pub(crate) struct Remap {
    new: Vec<u32>,
    next: u32,
}

impl Remap {
    pub(crate) fn new(entries: usize) -> Self {
        Self { new: vec![u32::MAX; entries], next: 0 }
    }

    /// One more old number.
    pub(crate) fn grow(&mut self) {
        self.new.push(u32::MAX);
    }

    /// The new number of `old`; `first` is called with it when it is used for the first time.
    #[inline]
    pub(crate) fn get(&mut self, old: u32, first: impl FnOnce(usize)) -> u32 {
        let place = &mut self.new[old as usize];
        if *place == u32::MAX {
            *place = self.next;
            self.next += 1;
            first(old as usize);
        }
        *place
    }
}
