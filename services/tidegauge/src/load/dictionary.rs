//! Texts to small numbers, without an allocation for a text seen before.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};

use tidegauge_core::event::Dimensions;
use tidegauge_core::ids::{NameError, check_text};
use tidegauge_core::limits;
use tidegauge_proto::stream::v1 as pb;

use super::event::RawDimensions;
use super::refusal::{Refusal, cut, shown};

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

/// Ids of a dictionary against the ids of one tenant's chunk in the making, which start at 0 with every chunk.
#[derive(Debug, Default)]
pub(crate) struct Local {
    /// Per id of the dictionary: the chunk in which the tenant last used it, and its id there.
    entries: Vec<(u32, u32)>,
}

/// Stands for no chunk.
const NO_CHUNK: u32 = u32::MAX;

impl Local {
    /// The id in the tenant's chunk of that number; `Err` with the next id if it is new there.
    pub(crate) fn of(&mut self, id: u32, chunk: u32, used: usize) -> Result<u32, u32> {
        let at = id as usize;
        if at >= self.entries.len() {
            self.entries.resize(at + 1, (NO_CHUNK, 0));
        }
        let entry = &mut self.entries[at];
        if entry.0 == chunk {
            return Ok(entry.1);
        }
        *entry = (chunk, used as u32);
        Err(used as u32)
    }

    /// Forgets everything: the dictionary starts anew.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
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

/// A dictionary of texts, for all tenants: a hot table is a small one.
#[derive(Debug)]
pub(crate) struct Texts {
    rule: Rule,
    ids: TextMap<u32>,
    last: Option<(Box<str>, u32)>,
}

impl Texts {
    /// An empty dictionary.
    pub(crate) fn new(rule: Rule) -> Self {
        Self { rule, ids: TextMap::default(), last: None }
    }

    /// The text's id.
    ///
    /// # Errors
    /// The rule that the text breaks.
    pub(crate) fn id(&mut self, text: &str) -> Result<u32, NameError> {
        if let Some((last, id)) = &self.last
            && **last == *text
        {
            return Ok(*id);
        }
        if let Some(id) = self.ids.get(text) {
            return Ok(*id);
        }
        (self.rule)(text)?;
        let id = self.ids.len() as u32;
        self.ids.insert(text.into(), id);
        // Event types, sources and versions mostly stay the same.
        self.last = Some((text.into(), id));
        Ok(id)
    }

    /// Number of texts.
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Starts anew.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.rule);
    }
}

/// The dictionary of dimension sets. The text of a JSON object, or of a row's cells, stands for its set, so that most of them
/// are not read.
#[derive(Debug, Default)]
pub(crate) struct Sets {
    by_text: TextMap<u32>,
    by_set: HashMap<Dimensions, u32>,
    sets: Vec<pb::DimensionSet>,
}

impl Sets {
    /// The set's id.
    ///
    /// # Errors
    /// What is wrong with the set.
    pub(crate) fn id(&mut self, dimensions: &RawDimensions<'_>) -> Result<u32, Refusal> {
        let text = match dimensions {
            RawDimensions::Json(text) => *text,
            RawDimensions::Absent => "",
            RawDimensions::Cells(cells) => cells.text,
            RawDimensions::Pairs(_) => return self.find(dimensions.pairs()),
        };
        if let Some(id) = self.by_text.get(text) {
            return Ok(*id);
        }
        let id = self.find(dimensions.pairs())?;
        self.by_text.insert(text.into(), id);
        Ok(id)
    }

    fn find(&mut self, pairs: Vec<(String, String)>) -> Result<u32, Refusal> {
        let set = Dimensions::from_pairs(pairs).map_err(|key| twice(&key))?;
        if let Some(id) = self.by_set.get(&set) {
            return Ok(*id);
        }
        check_set(&set)?;
        let id = self.sets.len() as u32;
        self.sets.push(tidegauge_proto::convert::batch::dimensions_to_proto(&set));
        self.by_set.insert(set, id);
        Ok(id)
    }

    /// The set with this id, as it is sent.
    pub(crate) fn set(&self, id: u32) -> &pb::DimensionSet {
        &self.sets[id as usize]
    }

    /// Number of texts and sets.
    pub(crate) fn len(&self) -> usize {
        self.by_text.len() + self.sets.len()
    }

    /// Starts anew.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Whether dimensions can be taken as a set.
///
/// # Errors
/// What is wrong with them.
pub(crate) fn check_dimensions(dimensions: &RawDimensions<'_>) -> Result<(), Refusal> {
    check_set(&Dimensions::from_pairs(dimensions.pairs()).map_err(|key| twice(&key))?)
}

/// Refuses a dimension that stands twice in a set.
fn twice(key: &str) -> Refusal {
    Refusal::new(format!("dimensions[{}]", cut(key)), "DIMENSION_KEY_TWICE", "stands twice")
}

fn check_set(set: &Dimensions) -> Result<(), Refusal> {
    let count = set.pairs().len();
    if count > limits::DIMENSIONS_MAX {
        let problem = format!("has {count} dimensions, at most {} are allowed", limits::DIMENSIONS_MAX);
        return Err(Refusal::new("dimensions", "TOO_MANY_DIMENSIONS", problem));
    }
    for (key, value) in set.pairs() {
        let field = || format!("dimensions[{}]", cut(key));
        if key.is_empty() {
            return Err(Refusal::new(field(), "DIMENSION_KEY_EMPTY", "has an empty key"));
        }
        check_text(key, limits::DIMENSION_KEY_BYTES_MAX)
            .map_err(|rule| Refusal::new(field(), "DIMENSION_KEY_INVALID", format!("the key {} {rule}", shown(key))))?;
        check_text(value, limits::DIMENSION_VALUE_BYTES_MAX)
            .map_err(|rule| Refusal::new(field(), "DIMENSION_VALUE_INVALID", format!("{} {rule}", shown(value))))?;
    }
    Ok(())
}
