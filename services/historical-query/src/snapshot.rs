//! One snapshot an execution: boundary and live windows of every key, and the versions of the objects that were opened.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use datafusion::arrow::array::RecordBatch;
use tidegauge_core::hot::{KeyMeta, LiveSnapshot, LiveWindow};
use tidegauge_core::time::Hour;
use tidegauge_core::{ErrorKind, Key, ScopedTenant, ServiceError, TenantScope};
use tidegauge_lake::{AggregatedRow, schema};
use tidegauge_proto::convert::hot::freshness;
use tidegauge_proto::freshness::v1::Freshness;
use tokio::sync::OnceCell;

use crate::error::Abort;
use crate::index::SeenIndex;
use crate::live::LiveSource;
use crate::object::Opened;

/// A key as the snapshot found it.
#[derive(Debug)]
pub(crate) struct KeyState {
    pub(crate) key: Key,
    pub(crate) tenant: ScopedTenant,
    pub(crate) meta: KeyMeta,
    /// What this execution has read of the hour index: every scan sees the same.
    pub(crate) index: SeenIndex,
    windows: Mutex<Vec<LiveWindow>>,
    live: OnceLock<Result<Vec<(Hour, RecordBatch)>, String>>,
}

/// What one execution sees, in every scan of every table.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) keys: Vec<Arc<KeyState>>,
    allow_partial: bool,
    missing: Mutex<BTreeSet<Key>>,
    /// Objects by path: opened by the first scan that needs them, the same version for all others.
    opened: Mutex<HashMap<String, Arc<OnceCell<Arc<Opened>>>>>,
}

impl KeyState {
    /// The live windows as batches of the table, one an hour. Made by the first scan.
    pub(crate) fn live(&self) -> Result<&[(Hour, RecordBatch)], Abort> {
        let made = self.live.get_or_init(|| {
            let windows = std::mem::take(&mut *self.windows.lock().unwrap_or_else(PoisonError::into_inner));
            batches(&self.key, windows).map_err(|error| error.to_string())
        });
        made.as_deref().map_err(|error| {
            tracing::error!(key = %self.key, %error, "live windows do not fit the table");
            Abort::Unreadable(self.key.clone(), "the live windows")
        })
    }
}

fn batches(key: &Key, windows: Vec<LiveWindow>) -> Result<Vec<(Hour, RecordBatch)>, tidegauge_lake::ObjectError> {
    let mut hours: BTreeMap<Hour, Vec<AggregatedRow>> = BTreeMap::new();
    for window in windows {
        hours.entry(Hour::of(window.start_ns)).or_default().push(window.into());
    }
    let batch = |(hour, mut rows): (Hour, Vec<AggregatedRow>)| {
        rows.sort_by(|a, b| a.order().cmp(&b.order()));
        Ok((hour, schema::dashboard_batch(&key.tenant, &rows)?))
    };
    hours.into_iter().map(batch).collect()
}

impl Snapshot {
    /// Takes the snapshot.
    ///
    /// # Errors
    /// UNAVAILABLE naming the first key whose live windows are not all there, unless a partial answer is allowed.
    pub(crate) async fn take(
        live: &dyn LiveSource,
        scope: &TenantScope,
        allow_partial: bool,
    ) -> Result<Self, ServiceError> {
        let mut keys = Vec::new();
        let mut missing = BTreeSet::new();
        for (key, LiveSnapshot { meta, mut windows, complete }) in live.live(scope).await? {
            // Never trusted: a key of another tenant would be shown by every query.
            let tenant = scope.tenant(&key.tenant).map_err(|_| {
                tracing::error!("live windows of a tenant outside the scope");
                ServiceError::new(ErrorKind::Internal, "LIVE_WINDOWS", "the live windows cannot be read")
            })?;
            if !complete && !allow_partial {
                return Err(Abort::Unreadable(key, "the live windows").into());
            }
            if !complete {
                missing.insert(key);
                continue;
            }
            windows.retain(|window| window.start_ns >= meta.boundary_ns && window.row.count > 0);
            keys.push(Arc::new(KeyState {
                key,
                tenant,
                meta,
                index: SeenIndex::default(),
                windows: windows.into(),
                live: OnceLock::new(),
            }));
        }
        keys.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { keys, allow_partial, missing: missing.into(), opened: Mutex::default() })
    }

    /// Passes a failure on, or notes the key as missing where a partial answer is allowed.
    pub(crate) fn or_missing<T>(&self, result: Result<T, Abort>) -> Result<Option<T>, Abort> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(Abort::Unreadable(key, _)) if self.allow_partial => {
                self.missing.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    /// Where the opened version of an object is kept for this execution.
    pub(crate) fn pin(&self, path: &str) -> Arc<OnceCell<Arc<Opened>>> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        match opened.get(path) {
            Some(cell) => Arc::clone(cell),
            None => Arc::clone(opened.entry(path.to_owned()).or_default()),
        }
    }

    /// How fresh and how complete the answer is (I9).
    pub(crate) fn freshness(&self) -> Freshness {
        let missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        let present = self.keys.iter().filter(|key| !missing.contains(&key.key));
        let mut answer = freshness(present.map(|key| (&key.key, &key.meta)));
        answer.missing_keys = missing.iter().map(Key::to_string).collect();
        answer
    }
}
