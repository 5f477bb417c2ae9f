//! Quotas: a token bucket for events and one for bytes, per tenant. Exact, in whole nanoseconds.

use std::collections::HashMap;
use std::time::Duration;

use tidegauge_core::ids::TenantId;
use tidegauge_core::limits;

/// What a tenant may publish.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quota {
    /// Events a second; also the most that may come at once.
    pub events_per_second: u64,
    /// Bytes a second; also the most that may come at once.
    pub bytes_per_second: u64,
}

impl Default for Quota {
    fn default() -> Self {
        Self { events_per_second: limits::QUOTA_EVENTS_PER_SECOND, bytes_per_second: limits::QUOTA_BYTES_PER_SECOND }
    }
}

/// A quota is exceeded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exceeded {
    /// Which one, for people: `100 events a second`.
    pub what: String,
    /// The same request fits after this time, if nothing else comes before.
    pub wait: Duration,
}

/// Billionths of a token; a rate of n tokens a second is n of them a nanosecond.
const NANO: i128 = 1_000_000_000;

/// A bucket that holds the tokens of one second. A request larger than that is let through when the bucket is full and
/// leaves it in debt: otherwise it could never pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Bucket {
    level: i128,
    at_ns: u64,
}

impl Bucket {
    fn full(rate: u64, now_ns: u64) -> Self {
        Self { level: i128::from(rate) * NANO, at_ns: now_ns }
    }

    fn refill(&mut self, rate: u64, now_ns: u64) {
        let passed = i128::from(now_ns.saturating_sub(self.at_ns));
        let rate = i128::from(rate);
        self.level = (self.level + passed * rate).min(rate * NANO);
        self.at_ns = now_ns;
    }

    /// Nanoseconds until `amount` can be taken.
    fn wait_ns(&self, rate: u64, amount: u64) -> u64 {
        let rate = i128::from(rate.max(1));
        let needed = (i128::from(amount) * NANO).min(rate * NANO);
        let missing = (needed - self.level).max(0);
        u64::try_from((missing + rate - 1) / rate).unwrap_or(u64::MAX)
    }

    fn take(&mut self, amount: u64) {
        self.level -= i128::from(amount) * NANO;
    }
}

/// The buckets of one tenant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Account {
    events: Bucket,
    bytes: Bucket,
}

/// The accounts of all tenants that published lately; their number is bounded.
#[derive(Debug)]
pub struct QuotaBook {
    default: Quota,
    special: HashMap<TenantId, Quota>,
    accounts: HashMap<TenantId, Account>,
    accounts_max: usize,
}

impl QuotaBook {
    /// A book with the same quota for all tenants but the special ones.
    pub fn new(default: Quota, special: HashMap<TenantId, Quota>, accounts_max: usize) -> Self {
        Self { default, special, accounts: HashMap::new(), accounts_max }
    }

    /// Charges a request, wholly or not at all.
    ///
    /// # Errors
    /// [`Exceeded`] with the exact time to wait.
    pub fn charge(&mut self, tenant: &TenantId, now_ns: u64, events: u64, bytes: u64) -> Result<(), Exceeded> {
        let quota = self.special.get(tenant).copied().unwrap_or(self.default);
        if !self.accounts.contains_key(tenant) {
            self.make_room(now_ns)?;
        }
        let account = self.accounts.entry(tenant.clone()).or_insert_with(|| Account {
            events: Bucket::full(quota.events_per_second, now_ns),
            bytes: Bucket::full(quota.bytes_per_second, now_ns),
        });
        account.events.refill(quota.events_per_second, now_ns);
        account.bytes.refill(quota.bytes_per_second, now_ns);
        let events_wait = account.events.wait_ns(quota.events_per_second, events);
        let bytes_wait = account.bytes.wait_ns(quota.bytes_per_second, bytes);
        let wait_ns = events_wait.max(bytes_wait);
        if wait_ns > 0 {
            let what = if events_wait >= bytes_wait {
                format!("{} events a second", quota.events_per_second)
            } else {
                format!("{} bytes a second", quota.bytes_per_second)
            };
            return Err(Exceeded { what, wait: Duration::from_nanos(wait_ns) });
        }
        account.events.take(events);
        account.bytes.take(bytes);
        Ok(())
    }

    /// A tenant whose buckets are full again is the same as one that never came.
    fn make_room(&mut self, now_ns: u64) -> Result<(), Exceeded> {
        if self.accounts.len() < self.accounts_max {
            return Ok(());
        }
        let (default, special) = (self.default, &self.special);
        self.accounts.retain(|tenant, account| {
            let quota = special.get(tenant).copied().unwrap_or(default);
            account.events.refill(quota.events_per_second, now_ns);
            account.bytes.refill(quota.bytes_per_second, now_ns);
            let fresh = Account {
                events: Bucket::full(quota.events_per_second, now_ns),
                bytes: Bucket::full(quota.bytes_per_second, now_ns),
            };
            *account != fresh
        });
        if self.accounts.len() < self.accounts_max {
            return Ok(());
        }
        let what = format!("{} tenants publishing at once", self.accounts_max);
        Err(Exceeded { what, wait: Duration::from_secs(1) })
    }
}
