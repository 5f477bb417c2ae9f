//! How many of something each tenant may have at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegauge_core::ids::TenantId;
use tidegauge_core::{ErrorKind, ServiceError};

/// The places of all tenants; only tenants that have one taken are held.
#[derive(Debug)]
pub(crate) struct Places {
    taken: Mutex<HashMap<TenantId, usize>>,
    each: usize,
}

/// A place that a tenant has taken, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    tenant: TenantId,
}

impl Places {
    pub(crate) fn new(each: usize) -> Self {
        Self { taken: Mutex::default(), each }
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<TenantId, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when the tenant has taken all of its places.
    pub(crate) fn take(self: &Arc<Self>, tenant: &TenantId) -> Result<Place, ServiceError> {
        let mut taken = self.taken();
        let count = taken.get(tenant).copied().unwrap_or(0);
        if count >= self.each {
            let what = format!("{count} calls hold live windows of the tenant, at most {} may", self.each);
            return Err(ServiceError::new(ErrorKind::ResourceExhausted, "TOO_MANY_LIVE_READS", what.clone())
                .quota(format!("tenant {tenant}"), what));
        }
        taken.insert(tenant.clone(), count + 1);
        Ok(Place { places: Arc::clone(self), tenant: tenant.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        if let Some(count) = taken.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tenant that has taken all its places is refused, with its quota; others are not, and nothing is held for those
    /// who have none.
    #[test]
    fn each_tenant_has_its_own_places() {
        let places = Arc::new(Places::new(2));
        let (a, b) = (TenantId::parse("a").expect("valid"), TenantId::parse("b").expect("valid"));
        let held = [places.take(&a).expect("free"), places.take(&a).expect("free")];
        let refused = places.take(&a).expect_err("one too many");
        assert_eq!((refused.kind, refused.reason), (ErrorKind::ResourceExhausted, "TOO_MANY_LIVE_READS"));
        assert!(refused.quota.is_some() && refused.retry_after.is_some());
        let other = places.take(&b).expect("another tenant's");
        let [first, second] = held;
        drop(first);
        let again = places.take(&a).expect("free again");
        drop((second, again, other));
        assert!(places.taken().is_empty());
    }
}
