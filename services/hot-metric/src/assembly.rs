//! Puts the parts of a key's update together, within bounds.

use std::collections::HashMap;

use tidegauge_core::hot::{KeyMeta, KeyUpdate};
use tidegauge_core::ids::{Key, ShardId};
use tidegauge_core::{ErrorKind, ServiceError};
use tidegauge_proto::convert::hot as convert;
use tidegauge_proto::hotmetric::v1 as pb;

/// Updates of one stream that wait for their last part.
#[derive(Debug)]
pub(crate) struct Assembly {
    shard: ShardId,
    shards: u32,
    generation: u64,
    items_max: usize,
    items: usize,
    open: HashMap<Key, KeyUpdate>,
}

/// A request that breaks the contract: a defect of ours or another version.
pub(crate) fn refused(field: &str, what: String) -> ServiceError {
    ServiceError::invalid(field, "UPDATE_REFUSED", what)
}

impl Assembly {
    /// For the stream of a shard of `shards` under a lease generation; holds at most `items_max` windows and values.
    pub(crate) fn new(hello: &pb::ShardHello, items_max: usize) -> Self {
        let pb::ShardHello { shard, shards, generation } = *hello;
        Self { shard: ShardId(shard), shards, generation, items_max, items: 0, open: HashMap::new() }
    }

    /// Whether some key still waits for its last part.
    pub(crate) fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Adds a part; gives the update back if it was the last one.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a part that cannot be read, is of another shard or generation, or does not fit the parts
    /// before it; RESOURCE_EXHAUSTED when too much waits. The stream ends with it, and nothing of the key is applied.
    pub(crate) fn add(&mut self, part: &pb::KeyUpdate) -> Result<Option<KeyUpdate>, ServiceError> {
        let update = self.parse(part)?;
        let items = update.currents.len() + update.windows.len();
        let Some(mut before) = self.open.remove(&update.key) else {
            return self.keep(update, items, part.last_part);
        };
        if before.meta != update.meta || before.replaces_windows != update.replaces_windows {
            let what = format!("{}: a part differs from the parts before it", update.key);
            return Err(refused("updates", what));
        }
        before.currents.extend(update.currents);
        before.windows.extend(update.windows);
        self.keep(before, items, part.last_part)
    }

    /// Gives an update back that is whole, keeps one that is not.
    fn keep(&mut self, update: KeyUpdate, items: usize, whole: bool) -> Result<Option<KeyUpdate>, ServiceError> {
        self.items += items;
        if whole {
            self.items -= update.currents.len() + update.windows.len();
            return Ok(Some(update));
        }
        if self.items > self.items_max {
            let (items, max) = (self.items, self.items_max);
            let what = format!("{items} windows and values wait for their last part, at most {max} may");
            return Err(ServiceError::new(ErrorKind::ResourceExhausted, "UPDATE_TOO_LARGE", what));
        }
        self.open.insert(update.key.clone(), update);
        Ok(None)
    }

    fn parse(&self, part: &pb::KeyUpdate) -> Result<KeyUpdate, ServiceError> {
        let unreadable = |error: convert::HotMessageError| refused("updates", error.to_string());
        let key = convert::key(&part.tenant_id, part.bucket).map_err(unreadable)?;
        if key.shard(self.shards) != self.shard {
            return Err(refused("updates", format!("{key} is not a key of shard {}", self.shard)));
        }
        let version = convert::version_from_proto(part.version.as_ref());
        if version.generation > self.generation {
            let (found, own) = (version.generation, self.generation);
            return Err(refused("updates", format!("{key} has generation {found}, its stream {own}")));
        }
        let meta = KeyMeta {
            version,
            boundary_ns: part.boundary_unix_nano,
            watermark_ns: part.watermark_unix_nano,
            counted: part.counted_events,
            pending: part.pending_events,
            index_version: part.index_version,
            index_open: part.index_open,
        };
        let currents = part.currents.iter().map(convert::current_from_proto).collect::<Result<_, _>>();
        let windows = part.windows.iter().map(convert::window_from_proto).collect::<Result<_, _>>();
        Ok(KeyUpdate {
            key,
            meta,
            replaces_windows: part.replaces_windows,
            currents: currents.map_err(unreadable)?,
            windows: windows.map_err(unreadable)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(tenant: &str, windows: u64, last_part: bool) -> pb::KeyUpdate {
        let window = |n| pb::LiveWindow { metric_name: format!("m{n}"), ..pb::LiveWindow::default() };
        pb::KeyUpdate {
            tenant_id: tenant.to_owned(),
            version: Some(pb::Version { generation: 3, ordinal: 1, push: 1 }),
            replaces_windows: true,
            windows: (0..windows).map(window).collect(),
            last_part,
            ..pb::KeyUpdate::default()
        }
    }

    fn assembly(items_max: usize) -> Assembly {
        Assembly::new(&pb::ShardHello { shard: 0, shards: 1, generation: 3 }, items_max)
    }

    /// Parts of several keys may be mixed; each update comes out whole and once, with its last part.
    #[test]
    fn parts_become_one_update() {
        let mut assembly = assembly(6);
        assert!(assembly.add(&part("a", 2, false)).expect("fits").is_none());
        assert!(assembly.add(&part("b", 1, false)).expect("fits").is_none());
        assert!(assembly.add(&part("a", 1, false)).expect("fits").is_none());
        let whole = assembly.add(&part("c", 9, true)).expect("one part needs no room").expect("whole");
        assert_eq!(whole.windows.len(), 9);
        let whole = assembly.add(&part("a", 1, true)).expect("fits").expect("whole");
        assert_eq!((whole.key.to_string().as_str(), whole.windows.len()), ("a", 4));
        assert!(assembly.is_open());
        let whole = assembly.add(&part("b", 0, true)).expect("fits").expect("whole");
        assert_eq!(whole.windows.len(), 1);
        assert!(!assembly.is_open());
        assert!(assembly.add(&part("d", 6, false)).expect("all room is free again").is_none());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let over = assembly(3).add(&part("a", 4, false)).expect_err("too many");
        assert_eq!((over.kind, over.reason), (ErrorKind::ResourceExhausted, "UPDATE_TOO_LARGE"));

        let mut differing = assembly(10);
        differing.add(&part("a", 1, false)).expect("fits");
        let other = pb::KeyUpdate { boundary_unix_nano: 60, ..part("a", 1, true) };
        assert_eq!(differing.add(&other).expect_err("another boundary").kind, ErrorKind::InvalidArgument);

        let newer = pb::KeyUpdate {
            version: Some(pb::Version { generation: 4, ..pb::Version::default() }),
            ..part("a", 0, true)
        };
        assert!(assembly(9).add(&newer).is_err(), "a generation above the stream's");
        assert!(assembly(9).add(&part("A", 0, true)).is_err(), "no tenant");
        let shards = 64;
        let foreign = Key::parse("a").expect("valid").shard(shards).0 + 1;
        let hello = pb::ShardHello { shard: foreign % shards, shards, generation: 3 };
        assert!(Assembly::new(&hello, 9).add(&part("a", 0, true)).is_err(), "another shard's key");
    }
}
