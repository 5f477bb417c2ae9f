//! Who may run now: a few queries of one tenant at once, in the order of their coming, and a limit for all.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidegauge_core::{ErrorKind, ServiceError, TenantScope};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Slots kept before unused ones are removed.
const SLOTS_KEPT: usize = 1_024;

/// Admits queries.
#[derive(Debug)]
pub(crate) struct Admission {
    running_per_tenant: usize,
    waiting_per_tenant: usize,
    queries: usize,
    all: Arc<Semaphore>,
    slots: Mutex<HashMap<String, Arc<Slot>>>,
    draining: AtomicBool,
}

/// The share of one tenant, or of one principal whose scope covers several.
#[derive(Debug)]
struct Slot {
    running: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// The right to run; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    _all: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
}

/// Counts a waiter, also when its future is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Admission {
    /// So many of one tenant and of all at once; so many of one tenant wait.
    pub(crate) fn new(running_per_tenant: usize, waiting_per_tenant: usize, queries: usize) -> Self {
        Self {
            running_per_tenant: running_per_tenant.max(1),
            waiting_per_tenant,
            queries: queries.max(1),
            all: Arc::new(Semaphore::new(queries.max(1))),
            slots: Mutex::default(),
            draining: AtomicBool::new(false),
        }
    }

    /// Waits for the turn of a query.
    ///
    /// A query holds its tenant's permit before it waits for one of all: a busy tenant never has more than its share in
    /// the common queue.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when too many of the tenant wait, UNAVAILABLE while draining.
    pub(crate) async fn admit(&self, scope: &TenantScope) -> Result<Permit, ServiceError> {
        if self.draining.load(Ordering::Acquire) {
            return Err(leaving());
        }
        let slot = self.slot(scope);
        let own = match Arc::clone(&slot.running).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let ahead = slot.waiting.fetch_add(1, Ordering::Relaxed);
                let _waiting = Waiting(&slot.waiting);
                if ahead >= self.waiting_per_tenant {
                    return Err(too_many(ahead));
                }
                Arc::clone(&slot.running).acquire_owned().await.map_err(|_| leaving())?
            }
        };
        let all = Arc::clone(&self.all).acquire_owned().await.map_err(|_| leaving())?;
        if self.draining.load(Ordering::Acquire) {
            return Err(leaving());
        }
        Ok(Permit { _all: all, _own: own })
    }

    /// Takes no more queries and waits, at most so long, until the running ones have ended.
    pub(crate) async fn drain(&self, within: Duration) {
        self.draining.store(true, Ordering::Release);
        let all = u32::try_from(self.queries).unwrap_or(u32::MAX);
        let ended = tokio::time::timeout(within, self.all.acquire_many(all)).await;
        if ended.is_err() {
            tracing::warn!(running = self.queries - self.all.available_permits(), "queries were still running");
        }
        self.all.close();
    }

    fn slot(&self, scope: &TenantScope) -> Arc<Slot> {
        let name = match scope.tenants() {
            Some([tenant]) => tenant.as_str().to_owned(),
            // No tenant id has a colon.
            _ => format!("principal:{}", scope.principal().name),
        };
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= SLOTS_KEPT && !slots.contains_key(&name) {
            slots.retain(|_, slot| Arc::strong_count(slot) > 1 || Arc::strong_count(&slot.running) > 1);
        }
        let slot = slots.entry(name).or_insert_with(|| {
            let running = Arc::new(Semaphore::new(self.running_per_tenant));
            Arc::new(Slot { running, waiting: AtomicUsize::new(0) })
        });
        Arc::clone(slot)
    }
}

fn leaving() -> ServiceError {
    ServiceError::new(ErrorKind::Unavailable, "DRAINING", "the server is stopping")
}

fn too_many(waiting: usize) -> ServiceError {
    let message = format!("{waiting} queries of this tenant wait already");
    ServiceError::new(ErrorKind::ResourceExhausted, "QUERY_QUEUE_FULL", message.clone()).quota("queries", message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests make their own scopes")]

    use futures::FutureExt as _;
    use tidegauge_core::TenantId;
    use tidegauge_core::scope::{Principal, Role};

    use super::*;

    fn scope(tenant: &str) -> TenantScope {
        let principal = Principal { name: "u".into(), role: Role::Reader };
        TenantScope::granted(principal, vec![TenantId::parse(tenant).expect("a tenant")]).expect("a scope")
    }

    /// Proves the share of a tenant, the order of its queue, the bound on waiting, and that another tenant runs
    /// meanwhile.
    #[tokio::test]
    async fn a_tenant_has_its_share_and_no_more() {
        let admission = Admission::new(1, 1, 4);
        let (a, b) = (scope("a"), scope("b"));
        let running = admission.admit(&a).await.expect("the first runs");
        let mut second = Box::pin(admission.admit(&a));
        assert!((&mut second).now_or_never().is_none(), "the second waits");
        let third = admission.admit(&a).await.expect_err("the third is refused");
        assert_eq!((third.kind, third.reason), (ErrorKind::ResourceExhausted, "QUERY_QUEUE_FULL"));
        assert!(third.retry_after.is_some());
        let other = admission.admit(&b).await.expect("another tenant is not held up");
        drop(running);
        let second = second.await.expect("its turn has come");
        drop((second, other));
        admission.drain(Duration::from_secs(5)).await;
        assert_eq!(admission.admit(&b).await.expect_err("none after the drain").reason, "DRAINING");
    }
}
