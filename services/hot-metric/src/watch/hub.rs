//! The feeds of all watched tenants, and which commits are on their way to them.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegauge_core::hot::CurrentValue;
use tidegauge_core::ids::TenantId;
use tidegauge_core::{ErrorKind, ServiceError};
use tokio::sync::watch;

use super::feed::{Feed, Found};

/// Feeds by tenant; a tenant has one while it is watched.
#[derive(Debug)]
pub(crate) struct Hub {
    feeds: Mutex<HashMap<TenantId, Watched>>,
    commits: watch::Sender<Commits>,
    changes_max: usize,
    watchers_max: usize,
}

#[derive(Debug)]
struct Watched {
    feed: Arc<Feed>,
    watchers: usize,
}

/// Commits that have begun and whose changes are not published yet.
#[derive(Debug, Default)]
struct Commits {
    next: u64,
    open: BTreeSet<u64>,
}

/// A commit on its way: from before the store is asked until after its changes are published.
#[derive(Debug)]
pub(crate) struct Commit {
    hub: Arc<Hub>,
    number: u64,
}

impl Hub {
    pub(crate) fn new(changes_max: usize, watchers_max: usize) -> Self {
        Self { feeds: Mutex::default(), commits: watch::Sender::default(), changes_max, watchers_max }
    }

    fn feeds(&self) -> MutexGuard<'_, HashMap<TenantId, Watched>> {
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to watch a tenant.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when the tenant has as many watchers as it may.
    pub(crate) fn subscribe(self: &Arc<Self>, tenant: &TenantId) -> Result<Subscription, ServiceError> {
        let mut feeds = self.feeds();
        let watched = feeds
            .entry(tenant.clone())
            .or_insert_with(|| Watched { feed: Arc::new(Feed::new(self.changes_max)), watchers: 0 });
        if watched.watchers >= self.watchers_max {
            let what = format!("the tenant has {} watchers, at most {} may watch", watched.watchers, self.watchers_max);
            return Err(ServiceError::new(ErrorKind::ResourceExhausted, "TOO_MANY_WATCHERS", what.clone())
                .quota(format!("tenant {tenant}"), what));
        }
        watched.watchers += 1;
        let feed = Arc::clone(&watched.feed);
        let (cursor, wake) = feed.subscribe();
        metrics::gauge!("tidegauge_hot_watchers").increment(1.0);
        Ok(Subscription { hub: Arc::clone(self), tenant: tenant.clone(), feed, cursor, wake })
    }

    /// Whether somebody watches the tenant.
    pub(crate) fn is_watched(&self, tenant: &TenantId) -> bool {
        self.feeds().contains_key(tenant)
    }

    /// Gives durable changes to the tenant's watchers.
    pub(crate) fn publish(&self, tenant: &TenantId, values: Vec<CurrentValue>) {
        if let Some(feed) = self.feed(tenant) {
            feed.publish(values);
        }
    }

    /// Tells the tenant's watchers that they missed changes, which could not be read.
    pub(crate) fn lose(&self, tenant: &TenantId, changes: usize) {
        if let Some(feed) = self.feed(tenant) {
            feed.lose(changes);
        }
    }

    fn feed(&self, tenant: &TenantId) -> Option<Arc<Feed>> {
        self.feeds().get(tenant).map(|watched| Arc::clone(&watched.feed))
    }

    /// Notes that a commit begins; it ends when the value is dropped.
    pub(crate) fn begin_commit(self: &Arc<Self>) -> Commit {
        let mut number = 0;
        self.commits.send_if_modified(|commits| {
            number = commits.next;
            commits.next += 1;
            commits.open.insert(number);
            // Nobody waits for a beginning.
            false
        });
        Commit { hub: Arc::clone(self), number }
    }

    /// A mark behind all commits that have begun so far.
    pub(crate) fn mark(&self) -> u64 {
        self.commits.borrow().next
    }

    /// Whether every commit before the mark has ended, and so has been published.
    pub(crate) fn is_settled(&self, mark: u64) -> bool {
        self.commits.borrow().is_settled(mark)
    }

    /// Waits until every commit before the mark has ended.
    pub(crate) async fn settled(&self, mark: u64) {
        // The sender is our own.
        let _ = self.commits.subscribe().wait_for(|commits| commits.is_settled(mark)).await;
    }
}

impl Commits {
    fn is_settled(&self, mark: u64) -> bool {
        self.open.first().is_none_or(|oldest| *oldest >= mark)
    }
}

impl Drop for Commit {
    fn drop(&mut self) {
        self.hub.commits.send_modify(|commits| {
            commits.open.remove(&self.number);
        });
    }
}

/// One watcher's place in its tenant's feed.
#[derive(Debug)]
pub(crate) struct Subscription {
    hub: Arc<Hub>,
    tenant: TenantId,
    feed: Arc<Feed>,
    cursor: u64,
    wake: watch::Receiver<u64>,
}

impl Subscription {
    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// What came since the last read; see [`Feed::read`].
    pub(crate) fn read(&mut self, changes_max: usize) -> Found {
        // Marked as seen before it is read: a change in between wakes again.
        self.wake.mark_unchanged();
        self.feed.read(&mut self.cursor, changes_max)
    }

    /// The number of the change that is read next.
    pub(crate) fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The number of the next change to be published.
    pub(crate) fn end(&self) -> u64 {
        self.feed.end()
    }

    /// Passes over everything published so far; how many changes that were.
    pub(crate) fn skip(&mut self) -> u64 {
        let end = self.feed.end();
        end - std::mem::replace(&mut self.cursor, end)
    }

    /// Waits for a change after the last read.
    pub(crate) async fn changed(&mut self) {
        // The sender lives in the feed that this subscription holds.
        let _ = self.wake.changed().await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        metrics::gauge!("tidegauge_hot_watchers").decrement(1.0);
        let mut feeds = self.hub.feeds();
        if let Some(watched) = feeds.get_mut(&self.tenant) {
            watched.watchers -= 1;
            if watched.watchers == 0 {
                feeds.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tenant's feed lives as long as its watchers, and their number is limited.
    #[test]
    fn feeds_live_with_their_watchers() {
        let hub = Arc::new(Hub::new(10, 2));
        let tenant = TenantId::parse("t").expect("valid");
        let first = hub.subscribe(&tenant).expect("fits");
        let second = hub.subscribe(&tenant).expect("fits");
        let refused = hub.subscribe(&tenant).expect_err("one too many");
        assert_eq!((refused.kind, refused.reason), (ErrorKind::ResourceExhausted, "TOO_MANY_WATCHERS"));
        drop(first);
        hub.subscribe(&tenant).expect("room again");
        assert!(hub.is_watched(&tenant));
        drop(second);
        assert!(!hub.is_watched(&tenant));
    }

    #[test]
    fn a_mark_settles_when_all_commits_before_it_end() {
        let hub = Arc::new(Hub::new(10, 2));
        assert!(hub.is_settled(hub.mark()));
        let (first, second) = (hub.begin_commit(), hub.begin_commit());
        let mark = hub.mark();
        let third = hub.begin_commit();
        drop(second);
        assert!(!hub.is_settled(mark));
        drop(first);
        assert!(hub.is_settled(mark), "a later commit does not matter");
        drop(third);
    }
}
