//! `tidegauge.stream.v1.EventColumns` in place: dictionaries as borrowed texts, arrays as the bytes they came in.

use std::borrow::Cow;

use tidegauge_core::limits;

use super::wire::{Fields, IdSummary, Malformed, Value, for_each_id, read_ids, summarize_ids, text};

/// Entries of one dictionary: as many as events, so that a small message cannot demand much memory.
pub const DICTIONARY_ENTRIES_MAX: usize = limits::EVENTS_PER_REQUEST_MAX;

/// Why columns cannot be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ColumnsError {
    /// No message of this type.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A dictionary has too many entries.
    #[error("the dictionary {field} has more than {DICTIONARY_ENTRIES_MAX} entries")]
    TooManyEntries {
        /// The dictionary.
        field: &'static str,
    },
}

/// The five dictionaries, in the order of their fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Dictionary {
    /// Event types.
    EventTypes,
    /// Metrics.
    Metrics,
    /// Sources.
    Sources,
    /// Versions.
    Versions,
    /// Dimension sets.
    DimensionSets,
}

impl Dictionary {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::EventTypes, Self::Metrics, Self::Sources, Self::Versions, Self::DimensionSets];

    /// Name of the dictionary's field.
    pub const fn field(self) -> &'static str {
        match self {
            Self::EventTypes => "event_types",
            Self::Metrics => "metrics",
            Self::Sources => "sources",
            Self::Versions => "versions",
            Self::DimensionSets => "dimension_sets",
        }
    }

    /// Name of the field with the ids.
    pub const fn ids_field(self) -> &'static str {
        match self {
            Self::EventTypes => "event_type_ids",
            Self::Metrics => "metric_ids",
            Self::Sources => "source_ids",
            Self::Versions => "version_ids",
            Self::DimensionSets => "dimension_set_ids",
        }
    }
}

/// Dimension sets with their pairs in one list.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sets<'a> {
    pairs: Vec<(&'a str, &'a str)>,
    /// Per set: end in `pairs`, and the number of dimensions sent.
    ends: Vec<(usize, usize)>,
}

impl<'a> Sets<'a> {
    /// Number of sets.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no set.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The pairs of a set in the order sent; at most [`limits::DIMENSIONS_MAX`] + 1 are kept.
    pub fn pairs(&self, set: usize) -> &[(&'a str, &'a str)] {
        let start = if set == 0 { 0 } else { self.ends[set - 1].0 };
        &self.pairs[start..self.ends[set].0]
    }

    /// How many dimensions were sent in a set.
    pub fn sent(&self, set: usize) -> usize {
        self.ends[set].1
    }

    fn push(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let mut sent = 0;
        let mut fields = Fields::of(message);
        while let Some((number, value)) = fields.next()? {
            if number != 1 {
                continue;
            }
            let pair = pair(value.bytes()?)?;
            if sent <= limits::DIMENSIONS_MAX {
                self.pairs.push(pair);
            }
            sent += 1;
        }
        self.ends.push((self.pairs.len(), sent));
        Ok(())
    }
}

/// A message of two texts, `key = 1` and `value = 2`: `Dimension`, and an entry of a map of texts.
pub(crate) fn pair(message: &[u8]) -> Result<(&str, &str), Malformed> {
    let (mut key, mut value) = ("", "");
    let mut fields = Fields::of(message);
    while let Some((number, found)) = fields.next()? {
        match number {
            1 => key = found.text()?,
            2 => value = found.text()?,
            _ => {}
        }
    }
    Ok((key, value))
}

/// Columns in place. Texts are UTF-8 and the wire format is right; nothing else is checked.
#[derive(Clone, Debug, Default)]
pub struct ColumnsView<'a> {
    /// Entries of the dictionaries of texts: event types, metrics, sources, versions.
    pub texts: [Vec<&'a str>; 4],
    /// Dimension sets.
    pub sets: Sets<'a>,
    times: Cow<'a, [u8]>,
    values: Cow<'a, [u8]>,
    ids: [Cow<'a, [u8]>; 5],
    as_sent: bool,
}

/// First field number of the id arrays.
const FIRST_IDS: u32 = 8;

impl<'a> ColumnsView<'a> {
    /// Finds the parts of an encoded message.
    ///
    /// # Errors
    /// [`ColumnsError`]; malformed is what prost refuses too.
    pub fn parse(message: &'a [u8]) -> Result<Self, ColumnsError> {
        let mut view = Self { as_sent: true, ..Self::default() };
        let mut seen = 0_u32;
        let mut fields = Fields::of(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                1..=4 => {
                    let dictionary = &mut view.texts[number as usize - 1];
                    dictionary.push(text(value.bytes()?)?);
                    if dictionary.len() > DICTIONARY_ENTRIES_MAX {
                        let field = Dictionary::ALL[number as usize - 1].field();
                        return Err(ColumnsError::TooManyEntries { field });
                    }
                }
                5 => {
                    view.sets.push(value.bytes()?)?;
                    if view.sets.len() > DICTIONARY_ENTRIES_MAX {
                        return Err(ColumnsError::TooManyEntries { field: Dictionary::DimensionSets.field() });
                    }
                }
                6..=12 => {
                    let array = match number {
                        6 => &mut view.times,
                        7 => &mut view.values,
                        ids => &mut view.ids[(ids - FIRST_IDS) as usize],
                    };
                    let whole = seen & (1 << number) == 0 && matches!(value, Value::Bytes(_));
                    seen |= 1 << number;
                    view.as_sent &= whole;
                    append(array, value, number < FIRST_IDS)?;
                }
                // An unknown field would stand unchecked on the log, where a later version may give it a meaning.
                _ => view.as_sent = false,
            }
        }
        Ok(view)
    }

    /// Number of events.
    pub fn len(&self) -> usize {
        self.times.len() / 8
    }

    /// Whether there are no events.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// Number of values; right if it is [`ColumnsView::len`].
    pub fn values_len(&self) -> usize {
        self.values.len() / 8
    }

    /// Whether the message's own bytes say nothing but what this view shows, each array in one packed piece.
    pub fn is_as_sent(&self) -> bool {
        self.as_sent
    }

    /// Event times.
    pub fn times(&self) -> impl ExactSizeIterator<Item = i64> + Clone + '_ {
        words(&self.times).map(i64::from_le_bytes)
    }

    /// Values.
    pub fn values(&self) -> impl ExactSizeIterator<Item = f64> + Clone + '_ {
        words(&self.values).map(f64::from_le_bytes)
    }

    /// Entries of a dictionary.
    pub fn entries(&self, dictionary: Dictionary) -> usize {
        match dictionary {
            Dictionary::DimensionSets => self.sets.len(),
            texts => self.texts[texts as usize].len(),
        }
    }

    /// Counts the ids of a dictionary and finds the largest.
    ///
    /// # Errors
    /// [`Malformed`] for a number of more than 64 bits.
    pub fn id_summary(&self, dictionary: Dictionary) -> Result<IdSummary, Malformed> {
        summarize_ids(&self.ids[dictionary as usize])
    }

    /// The ids of a dictionary; empty if they were left out.
    ///
    /// # Errors
    /// As [`ColumnsView::id_summary`].
    pub fn ids(&self, dictionary: Dictionary) -> Result<Vec<u32>, Malformed> {
        read_ids(&self.ids[dictionary as usize], self.len())
    }

    /// Calls `each` with every id of a dictionary.
    ///
    /// # Errors
    /// As [`ColumnsView::id_summary`].
    pub fn for_each_id(&self, dictionary: Dictionary, each: impl FnMut(u32)) -> Result<(), Malformed> {
        for_each_id(&self.ids[dictionary as usize], each)
    }
}

fn words(bytes: &[u8]) -> impl ExactSizeIterator<Item = [u8; 8]> + Clone + '_ {
    bytes.chunks_exact(8).map(|word| word.try_into().unwrap_or_default())
}

/// Adds a field to an array: a packed piece, or one element.
fn append<'a>(array: &mut Cow<'a, [u8]>, value: Value<'a>, fixed: bool) -> Result<(), Malformed> {
    match value {
        Value::Bytes(packed) => {
            // A piece holds whole elements, so that pieces can stand one behind the other.
            let whole = if fixed { packed.len() % 8 == 0 } else { packed.last().is_none_or(|byte| *byte < 0x80) };
            if !whole {
                return Err(Malformed("a packed array ends inside an element"));
            }
            if array.is_empty() {
                *array = Cow::Borrowed(packed);
            } else {
                array.to_mut().extend_from_slice(packed);
            }
        }
        Value::Fixed64(word) if fixed => array.to_mut().extend_from_slice(&word),
        Value::Varint(id) if !fixed => super::encode::put_varint(array.to_mut(), id),
        _ => return Err(Malformed("an array has another wire type")),
    }
    Ok(())
}
