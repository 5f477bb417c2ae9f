//! A connection from outside, as its calls see it: whose it is, what it holds, and whether anybody still uses it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tidegauge_core::{ErrorKind, ServiceError, limits};
use tonic::Request;

use crate::doors::Visit;
use crate::layers::Line;
use crate::share::{Holder, Room, Share};

/// Bytes of answers that a connection may leave unread without being charged: all that calls with small answers need, so
/// that they never meet the lock.
const UNREAD_FREE: usize = 64 << 10;
/// Charges are made in steps, for the same reason.
const STEP: usize = 256 << 10;
/// Share of a room that one principal may hold.
const PRINCIPAL_SHARE: usize = 4;

/// What connections share.
#[derive(Debug)]
pub(crate) struct House {
    connections: Arc<Room>,
    windows: Arc<Room>,
    unread: Arc<Room>,
    waiting: Arc<Room>,
    /// How long a client may take nothing of an answer.
    unread_time: Duration,
}

impl House {
    /// For so many known connections, of which one principal may have `per_principal`.
    pub(crate) fn new(connections: usize, per_principal: usize) -> Arc<Self> {
        Self::with_time(connections, per_principal, limits::ANSWER_UNREAD_MAX)
    }

    pub(crate) fn with_time(connections: usize, per_principal: usize, unread_time: Duration) -> Arc<Self> {
        let bytes = |max: usize| Room::with_one(max, max / PRINCIPAL_SHARE);
        Arc::new(Self {
            connections: Room::with_one(connections, per_principal),
            windows: bytes(limits::RECEIVE_WINDOWS_BYTES_MAX),
            unread: bytes(limits::UNREAD_BYTES_MAX),
            waiting: bytes(limits::WAITING_BYTES_MAX),
            unread_time,
        })
    }
}

/// A connection from outside.
#[derive(Debug)]
pub(crate) struct Guest {
    house: Arc<House>,
    visit: Visit,
    owner: OnceLock<Owner>,
    /// So that two first calls do not take two places.
    admission: Mutex<()>,
    /// Calls under way that were admitted, and how many there ever were.
    open: AtomicUsize,
    begun: AtomicU64,
    /// Public calls under way.
    public: AtomicUsize,
    /// Bytes of requests that handlers have taken.
    consumed: AtomicU64,
    /// Bytes of answers that the client has not taken.
    unread: AtomicUsize,
    /// What of these is charged; the lock is for the share.
    charged: AtomicUsize,
    charge: Mutex<Option<Share>>,
}

/// Whose connection it is: who was first to call over it with a valid credential.
#[derive(Debug)]
struct Owner {
    holder: Holder,
    principal: Arc<str>,
    _connection: Share,
}

/// A call under way.
#[derive(Debug)]
pub(crate) struct Open {
    guest: Arc<Guest>,
    public: bool,
}

impl Drop for Open {
    fn drop(&mut self) {
        let count = if self.public { &self.guest.public } else { &self.guest.open };
        count.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Guest {
    pub(crate) fn new(house: Arc<House>, visit: Visit) -> Arc<Self> {
        Arc::new(Self {
            house,
            visit,
            owner: OnceLock::new(),
            admission: Mutex::new(()),
            open: AtomicUsize::new(0),
            begun: AtomicU64::new(0),
            public: AtomicUsize::new(0),
            consumed: AtomicU64::new(0),
            unread: AtomicUsize::new(0),
            charged: AtomicUsize::new(0),
            charge: Mutex::new(None),
        })
    }

    /// A call with a valid credential begins.
    ///
    /// # Errors
    /// When it is the first of its connection and its principal or tenant has as many connections as it may have.
    pub(crate) fn enter(self: &Arc<Self>, holder: &Holder, principal: &Arc<str>) -> Result<Open, ServiceError> {
        if self.owner.get().is_none() {
            self.admit(holder.clone(), Arc::clone(principal))?;
        }
        self.open.fetch_add(1, Ordering::AcqRel);
        self.begun.fetch_add(1, Ordering::AcqRel);
        Ok(Open { guest: Arc::clone(self), public: false })
    }

    /// A public call begins; none if there are as many as a connection may have.
    pub(crate) fn enter_public(self: &Arc<Self>) -> Option<Open> {
        let open = Open { guest: Arc::clone(self), public: true };
        (self.public.fetch_add(1, Ordering::AcqRel) < limits::PUBLIC_CALLS_PER_CONNECTION).then_some(open)
    }

    fn admit(&self, holder: Holder, principal: Arc<str>) -> Result<(), ServiceError> {
        let _one = self.admission.lock().unwrap_or_else(PoisonError::into_inner);
        if self.owner.get().is_some() {
            return Ok(());
        }
        let mut connection = Share::nothing_of(&self.house.connections, &holder, &principal);
        if !connection.hold(1) || !self.visit.know() {
            metrics::counter!("tidegauge_rpc_connections_refused_total").increment(1);
            let message = "the principal or its tenant has as many connections as it may have";
            return Err(ServiceError::new(ErrorKind::ResourceExhausted, "TOO_MANY_CONNECTIONS", message));
        }
        // Only set under the lock.
        let _ = self.owner.set(Owner { holder, principal, _connection: connection });
        Ok(())
    }

    /// Whether a call with a valid credential has come.
    pub(crate) fn is_known(&self) -> bool {
        self.owner.get().is_some()
    }

    /// Admitted calls under way, and how many there ever were.
    pub(crate) fn calls(&self) -> (usize, u64) {
        (self.open.load(Ordering::Acquire), self.begun.load(Ordering::Acquire))
    }

    /// Notes bytes of a request that a handler has taken.
    pub(crate) fn note_consumed(&self, bytes: usize) {
        self.consumed.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes that handlers have taken.
    pub(crate) fn consumed(&self) -> u64 {
        self.consumed.load(Ordering::Relaxed)
    }

    /// Where the owner's receive windows are charged; none while it is not known.
    pub(crate) fn window_share(&self) -> Option<Share> {
        let owner = self.owner.get()?;
        Some(Share::nothing_of(&self.house.windows, &owner.holder, &owner.principal))
    }

    /// How long its client may take nothing of an answer.
    pub(crate) fn unread_time(&self) -> Duration {
        self.house.unread_time
    }

    /// Bytes of answers that its client has not taken.
    #[cfg(test)]
    pub(crate) fn unread(&self) -> usize {
        self.unread.load(Ordering::Acquire)
    }

    /// Charges bytes of an answer until they are given back; `false`, and not charged, if its owner leaves too many unread.
    pub(crate) fn charge_unread(&self, bytes: usize) -> bool {
        let unread = self.unread.fetch_add(bytes, Ordering::AcqRel) + bytes;
        if needed(unread) <= self.charged.load(Ordering::Acquire) {
            return true;
        }
        let mut charge = self.charge.lock().unwrap_or_else(PoisonError::into_inner);
        let held = match (&mut *charge, self.owner.get()) {
            (Some(share), _) => share.amount() >= needed(unread) || share.hold(needed(unread)),
            (none, Some(owner)) => {
                let share = Share::nothing_of(&self.house.unread, &owner.holder, &owner.principal);
                none.insert(share).hold(needed(unread))
            }
            (None, None) => false,
        };
        self.charged.store(charge.as_ref().map_or(0, Share::amount), Ordering::Release);
        if !held {
            self.unread.fetch_sub(bytes, Ordering::AcqRel);
        }
        held
    }

    /// Gives back what was charged.
    pub(crate) fn release_unread(&self, bytes: usize) {
        let unread = self.unread.fetch_sub(bytes, Ordering::AcqRel) - bytes;
        // A step more is kept while there is something, so that not every answer around the border needs the lock.
        let charged = self.charged.load(Ordering::Acquire);
        if charged == 0 || (unread > UNREAD_FREE && charged <= needed(unread) + STEP) {
            return;
        }
        let mut charge = self.charge.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = &mut *charge {
            // Less is always given.
            let needed = needed(self.unread.load(Ordering::Acquire));
            let _ = needed < share.amount() && share.hold(needed);
            self.charged.store(share.amount(), Ordering::Release);
        }
    }

    /// Where the owner's requests that wait for their answers are charged.
    fn waiting_share(&self) -> Option<Share> {
        let owner = self.owner.get()?;
        Some(Share::nothing_of(&self.house.waiting, &owner.holder, &owner.principal))
    }
}

/// What must be charged for so many unread bytes.
fn needed(unread: usize) -> usize {
    unread.saturating_sub(UNREAD_FREE).div_ceil(STEP) * STEP
}

/// What a handler keeps for a call beyond its answer: requests of a stream that wait, and answers that wait behind them.
///
/// A handler that takes requests while others wait says how much it keeps, and refuses for now what its principal may not
/// keep. A little of each call is free.
#[derive(Debug)]
pub struct Kept {
    /// None for calls from inside, which are not charged.
    share: Option<Share>,
}

impl Kept {
    /// What is kept for this call: nothing yet.
    pub fn of<T>(request: &Request<T>) -> Self {
        let guest = request.extensions().get::<Line>().and_then(|line| line.guest.as_ref());
        Self { share: guest.and_then(|guest| guest.waiting_share()) }
    }

    /// Keeps this much from now on; `false`, and unchanged, if that is more than the principal may have.
    pub fn hold(&mut self, bytes: usize) -> bool {
        self.share.as_mut().is_none_or(|share| share.hold(needed(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use tidegauge_core::TenantId;

    use super::*;
    use crate::doors::{DoorLimits, Doors};

    fn enter(guest: &Arc<Guest>, name: &str) -> Result<Open, ServiceError> {
        guest.enter(&Holder::Tenant(TenantId::parse("t").expect("a tenant")), &name.into())
    }

    fn guests(connections: usize, per_principal: usize) -> impl FnMut() -> Arc<Guest> {
        let doors = Doors::new(DoorLimits { all: 1_000, per_address: 1_000 });
        let house = House::new(connections, per_principal);
        move || Guest::new(Arc::clone(&house), doors.arrive([10, 0, 0, 1].into()).expect("room"))
    }

    /// A connection belongs to who calls first; a principal with all its connections is refused one more, others are not,
    /// and a connection that ended makes room.
    #[test]
    fn connections_are_counted_by_principal() {
        let mut next = guests(100, 2);
        let (first, second, third) = (next(), next(), next());
        drop(enter(&first, "ann").expect("the first"));
        let open = enter(&second, "ann").expect("the second");
        drop(enter(&second, "bob").expect("it has its owner"));
        assert_eq!(second.calls(), (1, 2));
        let refused = enter(&third, "ann").expect_err("one too many");
        assert_eq!((refused.kind, refused.reason), (ErrorKind::ResourceExhausted, "TOO_MANY_CONNECTIONS"));
        assert!(!third.is_known());
        enter(&third, "bob").expect("another principal");
        drop((first, open));
        let fourth = next();
        enter(&fourth, "ann").expect("there is room again");
        assert!(fourth.is_known());
    }

    /// Unread bytes are charged to the principal over all its connections, and what was read is given back; small ones are
    /// never refused.
    #[test]
    fn unread_bytes_are_charged_by_principal() {
        let mut next = guests(100, 100);
        let open: Vec<_> = (0..3).map(|_| next()).collect();
        for guest in &open {
            drop(enter(guest, "ann").expect("room"));
        }
        let most = limits::UNREAD_BYTES_MAX / PRINCIPAL_SHARE;
        assert!(open[0].charge_unread(most) && !open[1].charge_unread(UNREAD_FREE + STEP + 1));
        assert!(open[1].charge_unread(UNREAD_FREE), "what is free is free");
        open[1].release_unread(UNREAD_FREE);
        let other = next();
        drop(enter(&other, "bob").expect("room"));
        assert!(other.charge_unread(most / 2), "another principal of the tenant");
        open[0].release_unread(most);
        assert!(open[2].charge_unread(most));
        open[2].release_unread(most);
        other.release_unread(most / 2);
        assert!(open[0].house.unread.is_empty());
        assert!(!next().charge_unread(UNREAD_FREE + 1), "a stranger has only what is free");
    }

    /// What streams keep counts over all connections of the principal, and is given back; calls from inside are not counted.
    #[test]
    fn what_streams_keep_is_counted_by_principal() {
        let mut next = guests(10, 10);
        let kept = |guest: Option<Arc<Guest>>| {
            let mut request = Request::new(());
            let internal = guest.is_none();
            request.extensions_mut().insert(Line { peer: None, internal, ending: Default::default(), guest });
            Kept::of(&request)
        };
        let (first, second) = (next(), next());
        for guest in [&first, &second] {
            drop(enter(guest, "ann").expect("room"));
        }
        let most = limits::WAITING_BYTES_MAX / PRINCIPAL_SHARE;
        let (mut one, mut two) = (kept(Some(first)), kept(Some(second)));
        assert!(one.hold(most - STEP) && two.hold(1) && !two.hold(STEP + UNREAD_FREE + 1) && two.hold(STEP));
        assert!(one.hold(0) && two.hold(most));
        assert!(kept(None).hold(usize::MAX / 2));
    }

    /// A connection has few public calls at once.
    #[test]
    fn public_calls_are_few() {
        let guest = guests(10, 10)();
        let open: Vec<_> = std::iter::from_fn(|| guest.enter_public()).take(100).collect();
        assert_eq!(open.len(), limits::PUBLIC_CALLS_PER_CONNECTION);
        drop(open);
        assert!(guest.enter_public().is_some());
        assert_eq!(guest.public.load(Ordering::Acquire), 0);
    }
}
