//! Something limited that is shared between those who call: places, connections, bytes.
//!
//! A holder (a tenant, or a principal of several) may take no more than what is still free. Alone it gets half, two get a
//! third each, and so on: whatever one holds, as much is left for the next, so that nobody can use up the room of others.
//! Where one principal can hold much by mistake, it has a limit of its own below that of its tenant.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tidegauge_core::{TenantId, TenantScope};

/// Who holds room.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Holder {
    Tenant(TenantId),
    /// A principal of several tenants that chose none.
    Principal(Arc<str>),
    /// Callers of public methods.
    Public,
}

impl Holder {
    pub(crate) fn of(scope: Option<&TenantScope>, principal: Option<&Arc<str>>) -> Self {
        match (scope.and_then(TenantScope::tenants), principal) {
            (Some([tenant]), _) => Self::Tenant(tenant.clone()),
            (_, Some(principal)) => Self::Principal(Arc::clone(principal)),
            (_, None) => Self::Public,
        }
    }
}

/// Something limited that is shared.
#[derive(Debug)]
pub(crate) struct Room {
    max: usize,
    /// What one principal may hold, where that is counted.
    one_max: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    total: usize,
    by_holder: HashMap<Holder, usize>,
    by_principal: HashMap<(Holder, Arc<str>), usize>,
}

impl Room {
    /// Room for so much, shared by holders alone.
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Self::with_one(max, max)
    }

    /// Room for so much, of which one principal of a holder may have no more than `one_max`.
    pub(crate) fn with_one(max: usize, one_max: usize) -> Arc<Self> {
        Arc::new(Self { max, one_max, held: Mutex::default() })
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.total == 0 && held.by_holder.is_empty() && held.by_principal.is_empty()
    }
}

/// What one call or connection holds; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    room: Arc<Room>,
    holder: Holder,
    /// Counted for itself too, if named.
    principal: Option<(Holder, Arc<str>)>,
    amount: usize,
}

impl Share {
    /// Of a holder, whoever of it calls.
    pub(crate) fn nothing(room: &Arc<Room>, holder: &Holder) -> Self {
        Self { room: Arc::clone(room), holder: holder.clone(), principal: None, amount: 0 }
    }

    /// Of one principal of a holder.
    pub(crate) fn nothing_of(room: &Arc<Room>, holder: &Holder, principal: &Arc<str>) -> Self {
        let one = (holder.clone(), Arc::clone(principal));
        Self { room: Arc::clone(room), holder: holder.clone(), principal: Some(one), amount: 0 }
    }

    /// What it holds.
    pub(crate) fn amount(&self) -> usize {
        self.amount
    }

    /// Holds this much from now on; `false`, and unchanged, if that is more than the holder may have.
    pub(crate) fn hold(&mut self, amount: usize) -> bool {
        if amount == self.amount {
            return true;
        }
        let mut held = self.room.held.lock().unwrap_or_else(PoisonError::into_inner);
        let after = |before: Option<&usize>| before.copied().unwrap_or(0) - self.amount + amount;
        let own = after(held.by_holder.get(&self.holder));
        let one = self.principal.as_ref().map_or(0, |principal| after(held.by_principal.get(principal)));
        let total = held.total - self.amount + amount;
        // After it, no more than what is then still free.
        let fits = total <= self.room.max && own <= (self.room.max - total).max(1) && one <= self.room.one_max.max(1);
        if amount > self.amount && !fits {
            return false;
        }
        held.total = total;
        match own {
            0 => drop(held.by_holder.remove(&self.holder)),
            _ => drop(held.by_holder.insert(self.holder.clone(), own)),
        }
        if let Some(principal) = &self.principal {
            match one {
                0 => drop(held.by_principal.remove(principal)),
                _ => drop(held.by_principal.insert(principal.clone(), one)),
            }
        }
        self.amount = amount;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.hold(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> Holder {
        Holder::Tenant(TenantId::parse(name).expect("a tenant"))
    }

    /// Alone a holder gets half, then each other one still gets a share; what is given back can be taken again.
    #[test]
    fn nobody_uses_up_the_room_of_others() {
        let room = Room::new(120);
        let most = |name: &str| {
            let mut share = Share::nothing(&room, &tenant(name));
            let most = (0..=120).rev().find(|amount| share.hold(*amount));
            (share, most)
        };
        let (first, most_first) = most("first");
        assert_eq!(most_first, Some(60));
        let (second, most_second) = most("second");
        assert_eq!(most_second, Some(30));
        assert_eq!(most("first").1, Some(0), "the share counts over all calls of the holder");
        drop(first);
        assert_eq!(most("first").1, Some(45));
        drop(second);
        assert!(room.is_empty());
    }

    /// Even the last place goes to a holder that has none.
    #[test]
    fn the_last_place_is_for_who_has_none() {
        let room = Room::new(2);
        let [mut a, mut b, mut c] = ["a", "b", "c"].map(|name| Share::nothing(&room, &tenant(name)));
        assert!(a.hold(1) && b.hold(1) && !c.hold(1));
        drop(a);
        assert!(c.hold(1));
    }

    /// One principal leaves room to the others of its tenant, and the tenant to other tenants.
    #[test]
    fn a_principal_leaves_room_to_its_tenant() {
        let room = Room::with_one(120, 30);
        let share =
            |tenant_name: &str, principal: &str| Share::nothing_of(&room, &tenant(tenant_name), &principal.into());
        let (mut ann, mut again, mut bob, mut cid) =
            (share("t", "ann"), share("t", "ann"), share("t", "bob"), share("t", "cid"));
        assert!(ann.hold(20) && !again.hold(11) && again.hold(10), "the limit is over all that one principal holds");
        assert!(bob.hold(30) && !cid.hold(1), "the tenant has its half");
        assert!(share("u", "ann").hold(30), "the same name in another tenant is somebody else");
        drop((ann, again, bob, cid));
        assert!(room.is_empty());
    }
}
