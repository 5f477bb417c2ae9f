//! `ListLiveWindows`: every key of the scope, each as one consistent state, in parts.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::Stream;
use tidegauge_core::ServiceError;
use tidegauge_core::hot::{KeyMeta, LiveSnapshot};
use tidegauge_core::ids::Key;
use tidegauge_core::scope::{ScopedTenant, TenantScope};
use tidegauge_proto::convert::hot::{key_freshness, window_to_proto};
use tidegauge_proto::hotmetric::v1::ListLiveWindowsResponse;
use tidegauge_rpc::{Guard, status};
use tonic::Status;

use crate::places::Place;
use crate::{State, incomplete};

/// Windows in one part: about half a megabyte.
const WINDOWS_PER_PART: usize = 4_096;

/// The answers of one call.
pub(crate) struct LiveWindows {
    state: Arc<State>,
    guard: Guard,
    /// Whether a tenant that is not held has no windows.
    whole: bool,
    tenants: VecDeque<ScopedTenant>,
    /// Keys of the tenant in turn.
    keys: VecDeque<(Key, LiveSnapshot)>,
    /// For what these take in memory while a slow caller reads them.
    place: Option<Place>,
    /// Whether the first part of the key in turn was sent.
    begun: bool,
}

impl LiveWindows {
    /// Of all tenants of a scope.
    ///
    /// # Errors
    /// UNAVAILABLE for a scope over all tenants while it is not known which there are.
    pub(crate) async fn begin(state: Arc<State>, scope: &TenantScope, guard: Guard) -> Result<Self, ServiceError> {
        let known = state.known().await?;
        let whole = state.is_whole(known).await;
        let tenants = match scope.each() {
            Some(tenants) => tenants,
            None if !whole => return Err(incomplete()),
            None => known.tenants().iter().map(|tenant| scope.tenant(tenant)).collect::<Result<_, _>>()?,
        };
        let tenants = tenants.into();
        Ok(Self { state, guard, whole, tenants, keys: VecDeque::new(), place: None, begun: false })
    }

    pub(crate) fn into_stream(self) -> impl Stream<Item = Result<ListLiveWindowsResponse, Status>> + Send {
        futures::stream::unfold(Some(self), |windows| async {
            let mut windows = windows?;
            match windows.next().await {
                Ok(Some(part)) => Some((Ok(part), Some(windows))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    async fn next(&mut self) -> Result<Option<ListLiveWindowsResponse>, Status> {
        while self.keys.is_empty() {
            self.place = None;
            let Some(tenant) = self.tenants.pop_front() else { return Ok(None) };
            self.guard.check()?;
            // Another service bounds by itself what it reads at a time, and reads it at once.
            if !self.guard.is_service() {
                self.place = Some(self.state.live_reads.take(tenant.id()).map_err(status)?);
            }
            let found = self.state.store.live(&tenant).await.map_err(|error| status(error.into()))?;
            self.keys = found.into();
            if self.keys.is_empty() && !self.whole {
                self.keys.push_back((Key::of(tenant.id().clone()), not_here()));
            }
        }
        Ok(self.part())
    }

    /// The next part of the key in turn.
    fn part(&mut self) -> Option<ListLiveWindowsResponse> {
        let (key, snapshot) = self.keys.front_mut()?;
        let rest = snapshot.windows.len().saturating_sub(WINDOWS_PER_PART);
        let windows = snapshot.windows.split_off(rest);
        let last_part = snapshot.windows.is_empty();
        let part = ListLiveWindowsResponse {
            tenant_id: key.tenant.as_str().to_owned(),
            bucket: key.bucket,
            freshness: (!self.begun).then(|| key_freshness(key, &snapshot.meta)),
            complete: snapshot.complete && self.whole,
            index_version: snapshot.meta.index_version,
            index_open: snapshot.meta.index_open,
            windows: windows.iter().map(window_to_proto).collect(),
            last_part,
        };
        self.begun = !last_part;
        if last_part {
            self.keys.pop_front();
        }
        Some(part)
    }
}

/// Stands for a tenant whose keys may exist but are not held.
fn not_here() -> LiveSnapshot {
    LiveSnapshot { meta: KeyMeta::default(), windows: Vec::new(), complete: false }
}
