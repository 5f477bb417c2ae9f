//! The hour indexes of a shard's keys, compared with the lake once in the life of a process, beside the work.
//!
//! Nobody waits for it: a query that finds a day without an index looks into the lake itself. What was lost is made again
//! so that later ones need not.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use futures::stream::{self, StreamExt};
use tidegauge_core::Key;
use tidegauge_lake::index;
use tokio_util::task::AbortOnDropHandle;

use super::Context;

/// Keys looked at at the same time, so that a start leaves the disk to others.
const PARALLEL: usize = 2;

/// Keys whose hour index this process has not compared with the lake yet; they are known once a session has begun.
#[derive(Debug, Default)]
pub(crate) struct Unchecked(Mutex<Option<HashSet<Key>>>);

impl Unchecked {
    /// All of them; the first to ask tells which keys there are to check.
    fn keys(&self, published: impl Iterator<Item = Key>) -> Vec<Key> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.get_or_insert_with(|| published.collect()).iter().cloned().collect()
    }

    fn checked(&self, key: &Key) {
        if let Some(keys) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            keys.remove(key);
        }
    }

    /// Whether a key is one of them.
    pub(super) fn contains(&self, key: &Key) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(|keys| keys.contains(key))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, HashSet::len)
    }
}

/// Begins to compare the indexes of the published keys of the shard; it ends with the handle.
pub(super) fn compare(context: &Arc<Context>, published: impl Iterator<Item = Key>) -> AbortOnDropHandle<()> {
    let keys = context.unchecked.keys(published);
    let context = Arc::clone(context);
    AbortOnDropHandle::new(tokio::spawn(async move {
        let looked = stream::iter(keys).map(|key| look(&context, key)).buffer_unordered(PARALLEL);
        looked.collect::<()>().await;
    }))
}

async fn look(context: &Context, key: Key) {
    let tenant = context.authority.tenant(&key.tenant);
    match index::restore(context.backends.lake.as_ref(), &tenant, key.bucket).await {
        Ok(days) => {
            if !days.is_empty() {
                tracing::info!(%key, days = days.len(), "a lost hour index was made again");
            }
            context.unchecked.checked(&key);
        }
        // It stays unchecked; the next session looks again.
        Err(error) => tracing::error!(%key, %error, "the hour index could not be compared with the lake"),
    }
}
