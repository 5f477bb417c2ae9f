//! Validated names and numbers. Parsed once at the border; inside, the type is the proof.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::limits;

/// Why a name was refused. The message names the rule; the caller adds the field and the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name has no characters.
    #[error("must not be empty")]
    Empty,
    /// The name is longer than its limit, in bytes.
    #[error("is {actual} bytes long, at most {max} are allowed")]
    TooLong {
        /// Length of the refused name.
        actual: usize,
        /// The limit.
        max: usize,
    },
    /// The name has a character outside the allowed set.
    #[error("has the character {found:?} at byte {at}, which is not allowed")]
    Character {
        /// The first character that is not allowed.
        found: char,
        /// Its byte offset.
        at: usize,
    },
}

/// A tenant: `[a-z0-9][a-z0-9_-]{0,62}`, so that it stands in paths, keys and SQL without escaping.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantId(Arc<str>);

impl TenantId {
    /// Parses a tenant id.
    ///
    /// # Errors
    /// [`NameError`] when the text is empty, longer than [`limits::TENANT_ID_BYTES_MAX`] or has another character.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > limits::TENANT_ID_BYTES_MAX {
            return Err(NameError::TooLong { actual: text.len(), max: limits::TENANT_ID_BYTES_MAX });
        }
        for (at, found) in text.char_indices() {
            let allowed =
                found.is_ascii_lowercase() || found.is_ascii_digit() || (at > 0 && matches!(found, '_' | '-'));
            if !allowed {
                return Err(NameError::Character { found, at });
            }
        }
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Parses a name that may hold any text without control characters, from 1 to `max` bytes.
fn parse_text(text: &str, max: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    check_text(text, max)
}

/// Checks a text that may be empty: at most `max` bytes, no control characters.
///
/// # Errors
/// [`NameError::TooLong`] or [`NameError::Character`].
pub fn check_text(text: &str, max: usize) -> Result<(), NameError> {
    if text.len() > max {
        return Err(NameError::TooLong { actual: text.len(), max });
    }
    // Nearly every name is printable ASCII; told without decoding characters, and without a branch per byte.
    if text.bytes().fold(true, |plain, byte| plain & (0x20..0x7F).contains(&byte)) {
        return Ok(());
    }
    match text.char_indices().find(|(_, c)| c.is_control()) {
        Some((at, found)) => Err(NameError::Character { found, at }),
        None => Ok(()),
    }
}

/// A metric's name: 1 to 255 bytes of UTF-8 without control characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MetricName(Arc<str>);

impl MetricName {
    /// Parses a metric name.
    ///
    /// # Errors
    /// [`NameError`] when it is empty, too long or has a control character.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        parse_text(text, limits::METRIC_NAME_BYTES_MAX)?;
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An event's type: 1 to 255 bytes of UTF-8 without control characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EventType(Arc<str>);

impl EventType {
    /// Parses an event type.
    ///
    /// # Errors
    /// [`NameError`] when it is empty, too long or has a control character.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        parse_text(text, limits::EVENT_TYPE_BYTES_MAX)?;
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! text_impls {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(&text)
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }
        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    )*};
}
text_impls!(TenantId, MetricName, EventType);

/// The partition key and unit of state: a tenant, or one bucket of a tenant.
///
/// Displayed as `tenant` for bucket 0 and `tenant#bucket` otherwise.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Key {
    /// The tenant.
    pub tenant: TenantId,
    /// The bucket; 0 for a tenant with one bucket.
    pub bucket: u32,
}

impl Key {
    /// The only key of a tenant with one bucket.
    pub fn of(tenant: TenantId) -> Self {
        Self { tenant, bucket: 0 }
    }

    /// Parses what [`fmt::Display`] writes.
    ///
    /// # Errors
    /// [`NameError`] when the tenant part is no tenant id, or the bucket no number.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        match text.split_once('#') {
            None => Ok(Self::of(TenantId::parse(text)?)),
            Some((tenant, bucket)) => {
                let at = tenant.len();
                let bucket = bucket.parse().map_err(|_| NameError::Character { found: '#', at })?;
                Ok(Self { tenant: TenantId::parse(tenant)?, bucket })
            }
        }
    }

    /// The shard of `shards` that holds this key: xxh3 of its text, modulo.
    pub fn shard(&self, shards: u32) -> ShardId {
        let hash = twox_hash::XxHash3_64::oneshot(self.to_string().as_bytes());
        ShardId((hash % u64::from(shards.max(1))) as u32)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bucket {
            0 => write!(f, "{}", self.tenant),
            bucket => write!(f, "{}#{bucket}", self.tenant),
        }
    }
}

/// Index of a shard of the log, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ShardId(pub u32);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Count of records processed on a shard's lineage; the first record has ordinal 1, 0 stands before all.
pub type Ordinal = u64;

/// Number of a checkpoint of a shard, counting up; the first is 1.
pub type Epoch = u64;

/// Place of a request in its producer's order; producers count up from 1 (or, for `load`, the chunk index plus 1).
pub type Sequence = u64;

/// Random 128-bit identity of a shard's history of checkpoints, so that a restored or foreign data directory is noticed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LineageId(pub u128);

impl fmt::Display for LineageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for LineageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl std::str::FromStr for LineageId {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(Self)
    }
}

/// Who numbered a request: a 128-bit id, chosen fresh by each incarnation of a producer or derived from its input.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Producer {
    /// The id.
    pub id: u128,
    /// A *kept* producer sends its sequences in order and its floor never expires: at or below it is a duplicate.
    /// `load` and redrive derive such ids from their input; their first byte is [`Producer::KEPT_PREFIX`].
    pub kept: bool,
}

impl Producer {
    /// First byte of a kept producer's 16-byte id; any other first byte marks a fresh producer.
    pub const KEPT_PREFIX: u8 = 0xFF;

    /// Reads a 16-byte id. Whether it is kept is part of the id itself.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self { id: u128::from_be_bytes(bytes), kept: bytes[0] == Self::KEPT_PREFIX }
    }

    /// The 16 bytes of the id.
    pub fn to_bytes(self) -> [u8; 16] {
        self.id.to_be_bytes()
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenant_ids_are_what_paths_and_keys_can_hold() {
        for good in ["a", "0", "tenant-001", "a_b-c", &"x".repeat(63)] {
            assert!(TenantId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "_a", "A", "a/b", "a b", "a#1", "ä", "..", &"x".repeat(64)] {
            assert!(TenantId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_read_what_they_write() {
        for text in ["tenant-001", "tenant-001#7"] {
            assert_eq!(Key::parse(text).map(|k| k.to_string()).as_deref(), Ok(text));
        }
        assert!(Key::parse("tenant#x").is_err());
    }

    #[test]
    fn metric_names_refuse_empty_long_and_control() {
        assert_eq!(MetricName::parse(""), Err(NameError::Empty));
        assert_eq!(MetricName::parse(&"m".repeat(300)), Err(NameError::TooLong { actual: 300, max: 255 }));
        assert_eq!(MetricName::parse("a\nb"), Err(NameError::Character { found: '\n', at: 1 }));
        assert_eq!(MetricName::parse("a\u{7F}"), Err(NameError::Character { found: '\u{7F}', at: 1 }));
        assert_eq!(MetricName::parse("ä\u{85}"), Err(NameError::Character { found: '\u{85}', at: 2 }));
        assert!(MetricName::parse("Größe (%)").is_ok());
    }
}
