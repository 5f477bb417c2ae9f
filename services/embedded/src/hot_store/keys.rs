//! Keys of the stored items: the one place that builds and reads them.
//!
//! An item's key is a family byte, its partition, a zero byte and its sort key. Partition and sort key are those of the
//! design, section 7, the same as in DynamoDB; the family byte in front puts what is read together side by side (all
//! metas for the start, all windows of a key for a snapshot).
//!
//! | family | partition | sort key | value |
//! |---|---|---|---|
//! | `B` | `TENANT#<t>[#<b>]` | `META#BOUNDARY` | [`super::values::Known`] |
//! | `C` | `TENANT#<t>[#<b>]` | `METRIC#<m>#CURRENT` | current value |
//! | `W` | `TENANT#<t>[#<b>]` | `WINDOW#<start>#ROLLUP#-#METRIC#<m>#DIMS#<hash>` | live window |
//! | `N` | `TENANT#<t>` | the metric's name as it is | nothing: the order of names |
//! | `H` | `SHARD` | `<shard>` | number of shards |
//!
//! `N` exists because the order of `C` is not that of the names: escapes and hashes change it.

use std::fmt::Write as _;

use tidegauge_core::event::Dimensions;
use tidegauge_core::ids::{Key, ShardId, TenantId};

/// An encoded name longer than this is replaced by its hash: a sort key of DynamoDB holds 1,024 bytes.
const NAME_BYTES_MAX: usize = 200;

/// Separates partition and sort key; no name can hold it.
const SEPARATOR: char = '\0';

/// Every key's meta, in one run.
pub(super) const METAS: &[u8] = b"B";
/// Every shard note, in one run.
pub(super) const SHARDS: &[u8] = b"H";

fn partition(family: char, key: &Key) -> String {
    match key.bucket {
        0 => format!("{family}TENANT#{}{SEPARATOR}", key.tenant),
        bucket => format!("{family}TENANT#{}#{bucket}{SEPARATOR}", key.tenant),
    }
}

/// Key of a key's meta.
pub(super) fn meta(key: &Key) -> Vec<u8> {
    (partition('B', key) + "META#BOUNDARY").into_bytes()
}

/// Reads what [`meta`] wrote.
pub(super) fn parse_meta(bytes: &[u8]) -> Option<Key> {
    let text = std::str::from_utf8(bytes).ok()?;
    let partition = text.strip_prefix("BTENANT#")?.strip_suffix("META#BOUNDARY")?.strip_suffix(SEPARATOR)?;
    Key::parse(partition).ok()
}

/// Key of a current value.
pub(super) fn current(key: &Key, metric: &str) -> Vec<u8> {
    let mut text = partition('C', key) + "METRIC#";
    push_name(&mut text, metric);
    text.push_str("#CURRENT");
    text.into_bytes()
}

/// Key of a window's row without dimensions. Starts are padded so that windows of a key sort by time.
pub(super) fn window(key: &Key, start_ns: i64, metric: &str) -> Vec<u8> {
    let mut text = partition('W', key);
    let _ = write!(text, "WINDOW#{start_ns:020}#ROLLUP#-#METRIC#");
    push_name(&mut text, metric);
    let _ = write!(text, "#DIMS#{:032x}", Dimensions::default().hash128());
    text.into_bytes()
}

/// Where the windows of a key begin that start at `start_ns` or later.
pub(super) fn windows_from(key: &Key, start_ns: i64) -> Vec<u8> {
    (partition('W', key) + &format!("WINDOW#{:020}", start_ns.max(0))).into_bytes()
}

/// Where the windows of a key end.
pub(super) fn windows_end(key: &Key) -> Vec<u8> {
    end_of(partition('W', key))
}

/// Key of a name in the order of a tenant's names.
pub(super) fn name(tenant: &TenantId, metric: &str) -> Vec<u8> {
    let mut text = partition('N', &Key::of(tenant.clone()));
    text.push_str(metric);
    text.into_bytes()
}

/// Reads the metric from what [`name`] wrote.
pub(super) fn parse_name(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()?.split_once(SEPARATOR).map(|(_, metric)| metric)
}

/// Where the names of a tenant begin that stand after `after`.
pub(super) fn names_after(tenant: &TenantId, after: Option<&str>) -> Vec<u8> {
    match after {
        None => name(tenant, ""),
        // The zero byte makes the smallest key above the name's own.
        Some(after) => [name(tenant, after).as_slice(), &[0]].concat(),
    }
}

/// Where the names of a tenant end.
pub(super) fn names_end(tenant: &TenantId) -> Vec<u8> {
    end_of(partition('N', &Key::of(tenant.clone())))
}

/// Key of a shard's note.
pub(super) fn shard(shard: ShardId) -> Vec<u8> {
    format!("HSHARD{SEPARATOR}{:010}", shard.0).into_bytes()
}

/// Reads what [`shard`] wrote.
pub(super) fn parse_shard(bytes: &[u8]) -> Option<ShardId> {
    let text = std::str::from_utf8(bytes).ok()?;
    text.strip_prefix("HSHARD")?.strip_prefix(SEPARATOR)?.parse().ok().map(ShardId)
}

/// A bound above every key with this prefix: no UTF-8 text holds the byte.
fn end_of(prefix: String) -> Vec<u8> {
    let mut bytes = prefix.into_bytes();
    bytes.push(0xFF);
    bytes
}

/// Appends a name with `#` and `%` percent-encoded; a long one as `%x` and its hash, which no encoded name looks like.
fn push_name(text: &mut String, name: &str) {
    let from = text.len();
    for c in name.chars() {
        match c {
            '#' => text.push_str("%23"),
            '%' => text.push_str("%25"),
            c => text.push(c),
        }
    }
    if text.len() - from > NAME_BYTES_MAX {
        text.truncate(from);
        let _ = write!(text, "%x{:032x}", twox_hash::XxHash3_128::oneshot(name.as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::parse(text).expect("valid")
    }

    /// Golden: stored keys must not change.
    #[test]
    fn keys_are_those_of_the_design() {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        assert_eq!(text(meta(&key("acme"))), "BTENANT#acme\0META#BOUNDARY");
        assert_eq!(text(current(&key("acme#3"), "load#1%")), "CTENANT#acme#3\0METRIC#load%231%25#CURRENT");
        assert_eq!(
            text(window(&key("acme"), 1_772_434_800_000_000_000, "cpu")),
            "WTENANT#acme\0WINDOW#01772434800000000000#ROLLUP#-#METRIC#cpu#DIMS#99aa06d3014798d86001c324468d497f"
        );
        assert_eq!(text(name(&key("acme").tenant, "a#b")), "NTENANT#acme\0a#b");
        let long = text(current(&key("acme"), &"m".repeat(201)));
        assert_eq!(long.len(), "CTENANT#acme\0METRIC#%x#CURRENT".len() + 32);
        assert_eq!(text(current(&key("acme"), &"m".repeat(200))).len(), "CTENANT#acme\0METRIC##CURRENT".len() + 200);
    }

    #[test]
    fn keys_are_read_back() {
        for text in ["acme", "acme#17"] {
            assert_eq!(parse_meta(&meta(&key(text))), Some(key(text)));
        }
        assert_eq!(parse_name(&name(&key("t").tenant, "a#%b")), Some("a#%b"));
        assert_eq!(parse_shard(&shard(ShardId(7))), Some(ShardId(7)));
    }

    /// One tenant's range holds nothing of a tenant whose name begins alike, nor of another bucket.
    #[test]
    fn ranges_hold_one_key_only() {
        let (from, end) = (windows_from(&key("a"), 0), windows_end(&key("a")));
        let inside = |k: &Key| (&from..&end).contains(&&window(k, 60, "m"));
        assert!(inside(&key("a")));
        for other in ["ab", "a-b", "a#1", "b"] {
            assert!(!inside(&key(other)), "{other}");
        }
        let names = names_after(&key("a").tenant, Some("b"))..names_end(&key("a").tenant);
        assert!(!names.contains(&name(&key("a").tenant, "b")));
        assert!(names.contains(&name(&key("a").tenant, "b ")));
        assert!(!names.contains(&name(&key("ab").tenant, "c")));
    }
}
