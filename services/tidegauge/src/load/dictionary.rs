//! Texts to small numbers, without an allocation for a text seen before.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};

use tidegauge_core::event::Dimensions;
use tidegauge_core::ids::{NameError, check_text};
use tidegauge_core::limits;
use tidegauge_proto::stream::v1 as pb;

use super::event::RawDimensions;

/// Entries after which a dictionary starts anew at the next cut: bounds memory for files without repetition.
const ENTRIES_MAX: usize = 50_000;

/// A map from texts, for input of the user's own choosing: fast, not hardened against chosen collisions.
pub(crate) type TextMap<V> = HashMap<Box<str>, V, FastHash>;

/// Multiply-and-fold over eight bytes at a time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FastHash;

/// State of [`FastHash`].
#[derive(Debug)]
pub(crate) struct FastHasher(u64);

impl BuildHasher for FastHash {
    type Hasher = FastHasher;
    fn build_hasher(&self) -> FastHasher {
        FastHasher(0x9E37_79B9_7F4A_7C15)
    }
}

impl FastHasher {
    fn mix(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * 0xA076_1D64_78BD_642F_u128;
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }
}

impl Hasher for FastHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.mix(u64::from_le_bytes(last) ^ ((bytes.len() as u64) << 56));
    }
    fn write_u8(&mut self, byte: u8) {
        self.mix(u64::from(byte));
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

/// Global ids of a dictionary against the ids of the chunk in the making, which start at 0 with every chunk.
#[derive(Debug, Default)]
struct Local {
    /// Per global id: the chunk in which it was last used, and its id there.
    entries: Vec<(u64, u32)>,
}

impl Local {
    /// The id in this chunk; `Err` with the new id if it is new there.
    fn of(&mut self, global: u32, chunk: u64, used: usize) -> Result<u32, u32> {
        let entry = &mut self.entries[global as usize];
        if entry.0 == chunk {
            return Ok(entry.1);
        }
        *entry = (chunk, used as u32);
        Err(used as u32)
    }
}

/// Rule of a dictionary's texts.
pub(crate) type Rule = fn(&str) -> Result<(), NameError>;

/// 1 to 255 bytes without control characters.
pub(crate) fn name_rule(text: &str) -> Result<(), NameError> {
    if text.is_empty() { Err(NameError::Empty) } else { check_text(text, limits::METRIC_NAME_BYTES_MAX) }
}

/// 0 to 255 bytes without control characters.
pub(crate) fn source_rule(text: &str) -> Result<(), NameError> {
    check_text(text, limits::SOURCE_BYTES_MAX)
}

/// A dictionary of texts.
#[derive(Debug)]
pub(crate) struct Texts {
    rule: Rule,
    ids: TextMap<u32>,
    local: Local,
    last: Option<(Box<str>, u32)>,
}

impl Texts {
    /// An empty dictionary.
    pub(crate) fn new(rule: Rule) -> Self {
        Self { rule, ids: TextMap::default(), local: Local::default(), last: None }
    }

    /// The text's id in this chunk; a text new there is appended to `used`.
    pub(crate) fn id(&mut self, text: &str, chunk: u64, used: &mut Vec<String>) -> Result<u32, NameError> {
        let global = match &self.last {
            Some((last, id)) if **last == *text => *id,
            _ => self.find(text)?,
        };
        Ok(self.local.of(global, chunk, used.len()).unwrap_or_else(|id| {
            used.push(text.to_owned());
            id
        }))
    }

    fn find(&mut self, text: &str) -> Result<u32, NameError> {
        if let Some(id) = self.ids.get(text) {
            return Ok(*id);
        }
        (self.rule)(text)?;
        let id = self.local.entries.len() as u32;
        self.local.entries.push((u64::MAX, 0));
        self.ids.insert(text.into(), id);
        self.last = Some((text.into(), id));
        Ok(id)
    }

    /// Starts anew if it has grown too large; for the time between two chunks.
    pub(crate) fn trim(&mut self) {
        if self.ids.len() > ENTRIES_MAX {
            *self = Self::new(self.rule);
        }
    }
}

/// The dictionary of dimension sets. The text of a JSON object stands for its set, so that most objects are not read.
#[derive(Debug, Default)]
pub(crate) struct Sets {
    by_text: TextMap<u32>,
    by_set: HashMap<Dimensions, u32>,
    sets: Vec<pb::DimensionSet>,
    local: Local,
}

impl Sets {
    /// The set's id in this chunk; a set new there is appended to `used`.
    pub(crate) fn id(
        &mut self,
        dimensions: &RawDimensions<'_>,
        chunk: u64,
        used: &mut Vec<pb::DimensionSet>,
    ) -> Result<u32, String> {
        let text = match dimensions {
            RawDimensions::Json(text) => *text,
            RawDimensions::Absent => "",
            RawDimensions::Pairs(_) => {
                let global = self.find(dimensions.pairs())?;
                return Ok(self.local(global, chunk, used));
            }
        };
        let global = match self.by_text.get(text) {
            Some(id) => *id,
            None => {
                let id = self.find(dimensions.pairs())?;
                self.by_text.insert(text.into(), id);
                id
            }
        };
        Ok(self.local(global, chunk, used))
    }

    fn local(&mut self, global: u32, chunk: u64, used: &mut Vec<pb::DimensionSet>) -> u32 {
        self.local.of(global, chunk, used.len()).unwrap_or_else(|id| {
            used.push(self.sets[global as usize].clone());
            id
        })
    }

    fn find(&mut self, pairs: Vec<(String, String)>) -> Result<u32, String> {
        let set = Dimensions::from_pairs(pairs).map_err(|key| format!("the dimension {key:?} stands twice"))?;
        if let Some(id) = self.by_set.get(&set) {
            return Ok(*id);
        }
        check_set(&set)?;
        let id = self.sets.len() as u32;
        self.sets.push(tidegauge_proto::convert::batch::dimensions_to_proto(&set));
        self.local.entries.push((u64::MAX, 0));
        self.by_set.insert(set, id);
        Ok(id)
    }

    /// Starts anew if it has grown too large; for the time between two chunks.
    pub(crate) fn trim(&mut self) {
        if self.by_set.len().max(self.by_text.len()) > ENTRIES_MAX {
            *self = Self::default();
        }
    }
}

fn check_set(set: &Dimensions) -> Result<(), String> {
    let count = set.pairs().len();
    if count > limits::DIMENSIONS_MAX {
        return Err(format!("has {count} dimensions, at most {} are allowed", limits::DIMENSIONS_MAX));
    }
    for (key, value) in set.pairs() {
        if key.is_empty() {
            return Err("a dimension has an empty key".to_owned());
        }
        check_text(key, limits::DIMENSION_KEY_BYTES_MAX).map_err(|e| format!("the dimension key {key:?} {e}"))?;
        check_text(value, limits::DIMENSION_VALUE_BYTES_MAX).map_err(|e| format!("dimensions[{key}] {e}"))?;
    }
    Ok(())
}
