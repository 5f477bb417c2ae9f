//! Who may have a connection: places for all, for those whom nobody knows yet, and for each address.
//!
//! A connection is a stranger's until its first authenticated call. Strangers cost nothing to make, so they are never
//! what keeps somebody out: when there is no place, the stranger that has waited longest loses its own. Known connections
//! may not take the last places, so that there is always room for a stranger to become known, or to ask for health.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// One of so many places is never a known connection's.
const STRANGERS_SHARE: usize = 8;

/// How many connections there may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DoorLimits {
    /// At once.
    pub all: usize,
    /// At once from one address. Behind a proxy all share one.
    pub per_address: usize,
}

impl DoorLimits {
    /// Places that known connections may take.
    pub(crate) fn known(self) -> usize {
        (self.all - (self.all / STRANGERS_SHARE).max(1).min(self.all)).max(1)
    }
}

/// The doors of one listener.
#[derive(Debug)]
pub struct Doors {
    book: Mutex<Book>,
}

/// A connection in its place; leaves it when it is dropped.
#[derive(Debug)]
pub struct Visit {
    doors: Arc<Doors>,
    id: u64,
    shown_out: CancellationToken,
}

impl Doors {
    /// Doors without a visitor.
    pub fn new(limits: DoorLimits) -> Arc<Self> {
        Arc::new(Self { book: Mutex::new(Book::new(limits)) })
    }

    /// A place for a connection from there; none if known ones have all that it could have.
    pub fn arrive(self: &Arc<Self>, address: IpAddr) -> Option<Visit> {
        let shown_out = CancellationToken::new();
        let (id, evicted) = self.book().arrive(Address::of(address), shown_out.clone())?;
        if let Some(evicted) = evicted {
            evicted.cancel();
        }
        Some(Visit { doors: Arc::clone(self), id, shown_out })
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Visit {
    /// The connection is no stranger's any more; `false` if known ones may take no more, or it has lost its place.
    pub fn know(&self) -> bool {
        self.doors.book().know(self.id)
    }

    /// Cancelled when the connection has lost its place to another.
    pub fn shown_out(&self) -> CancellationToken {
        self.shown_out.clone()
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.doors.book().leave(self.id);
    }
}

/// Where a connection comes from: an IPv4 address, or the network of an IPv6 one, of which one host has many.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Address {
    V4(u32),
    V6(u64),
}

impl Address {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

/// Who is there.
#[derive(Debug)]
struct Book {
    limits: DoorLimits,
    next: u64,
    known: usize,
    inside: HashMap<u64, Inside>,
    /// In the order of their arrival.
    strangers: BTreeSet<u64>,
    addresses: HashMap<Address, At>,
}

#[derive(Debug)]
struct Inside {
    address: Address,
    shown_out: CancellationToken,
}

#[derive(Debug, Default)]
struct At {
    count: usize,
    strangers: BTreeSet<u64>,
}

impl Book {
    fn new(limits: DoorLimits) -> Self {
        Self {
            limits,
            next: 0,
            known: 0,
            inside: HashMap::new(),
            strangers: BTreeSet::new(),
            addresses: HashMap::new(),
        }
    }

    /// The arrival's number, and who loses its place to it.
    fn arrive(&mut self, address: Address, shown_out: CancellationToken) -> Option<(u64, Option<CancellationToken>)> {
        let at = self.addresses.get(&address);
        let address_is_full = at.is_some_and(|at| at.count >= self.limits.per_address);
        let evicted = if address_is_full {
            // Others do not make room for an address that has its share.
            Some(at.and_then(|at| at.strangers.first().copied())?)
        } else if self.inside.len() >= self.limits.all {
            Some(self.strangers.first().copied()?)
        } else {
            None
        };
        let evicted = evicted.and_then(|id| self.leave(id));
        let id = self.next;
        self.next += 1;
        self.inside.insert(id, Inside { address, shown_out });
        self.strangers.insert(id);
        let at = self.addresses.entry(address).or_default();
        at.count += 1;
        at.strangers.insert(id);
        Some((id, evicted))
    }

    fn know(&mut self, id: u64) -> bool {
        let Some(inside) = self.inside.get(&id) else { return false };
        if !self.strangers.contains(&id) {
            return true;
        }
        if self.known >= self.limits.known() {
            return false;
        }
        self.known += 1;
        self.strangers.remove(&id);
        if let Some(at) = self.addresses.get_mut(&inside.address) {
            at.strangers.remove(&id);
        }
        true
    }

    /// Frees the place, if it still has one.
    fn leave(&mut self, id: u64) -> Option<CancellationToken> {
        let Inside { address, shown_out } = self.inside.remove(&id)?;
        if !self.strangers.remove(&id) {
            self.known -= 1;
        }
        if let Some(at) = self.addresses.get_mut(&address) {
            at.count -= 1;
            at.strangers.remove(&id);
            if at.count == 0 {
                self.addresses.remove(&address);
            }
        }
        Some(shown_out)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn doors(all: usize, per_address: usize) -> Arc<Doors> {
        Doors::new(DoorLimits { all, per_address })
    }

    /// However many strangers come, the next one gets in, and the oldest of them goes; known ones stay.
    #[test]
    fn the_oldest_stranger_makes_room() {
        let doors = doors(4, 4);
        let known = doors.arrive(address(1)).expect("room");
        assert!(known.know());
        let strangers: Vec<Visit> = (0..100).filter_map(|_| doors.arrive(address(2))).collect();
        assert_eq!(strangers.len(), 100);
        let gone = strangers.iter().filter(|stranger| stranger.shown_out.is_cancelled()).count();
        assert_eq!(gone, 97);
        assert!(strangers[96].shown_out.is_cancelled() && !strangers[97].shown_out.is_cancelled());
        assert!(!known.shown_out.is_cancelled());
        assert!(!strangers[0].know(), "who was shown out does not become known");
    }

    /// Known connections leave places to strangers, so that health is reachable in a full house.
    #[test]
    fn known_ones_do_not_take_the_last_places() {
        let doors = doors(16, 16);
        let guests: Vec<Visit> = (0..16).map(|i| doors.arrive(address(i)).expect("room")).collect();
        assert_eq!(guests.iter().filter(|guest| guest.know()).count(), 14);
        let probe = doors.arrive(address(99)).expect("a place for a probe");
        assert!(!probe.shown_out.is_cancelled() && guests[14].shown_out.is_cancelled());
        drop(guests);
        assert!(probe.know());
    }

    /// An address that has its share makes room by itself, or is refused; others do not notice.
    #[test]
    fn an_address_has_its_share() {
        let doors = doors(100, 3);
        let other = doors.arrive(address(1)).expect("room");
        let crowd: Vec<Visit> = (0..3).filter_map(|_| doors.arrive(address(2))).collect();
        assert!(crowd[0].know());
        let fourth = doors.arrive(address(2)).expect("the oldest stranger there goes");
        assert!(crowd[1].shown_out.is_cancelled() && !other.shown_out.is_cancelled());
        assert!(crowd[2].know() && fourth.know());
        assert!(doors.arrive(address(2)).is_none(), "known ones have all that the address may have");
        assert!(doors.arrive(address(3)).is_some());
        let networks = ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "::ffff:10.0.0.2"];
        let networks = networks.map(|text| Address::of(text.parse().expect("an address")));
        assert_eq!(networks[0], networks[1], "one host has a whole network");
        assert_ne!(networks[0], networks[2]);
        assert_eq!(networks[3], Address::of(address(2)));
    }

    proptest! {
        /// Whatever comes and goes, counts are right, limits are kept, and nothing stays behind.
        #[test]
        fn counts_are_right(
            all in 1_usize..12,
            per_address in 1_usize..12,
            steps in proptest::collection::vec((0_u8..4, 0_u8..3, any::<prop::sample::Index>()), 0..80),
        ) {
            let doors = doors(all, per_address);
            let mut visits: Vec<Visit> = Vec::new();
            for (from, what, which) in steps {
                match what {
                    0 => visits.extend(doors.arrive(address(from))),
                    1 if !visits.is_empty() => { let _ = which.get(&visits).know(); }
                    2 if !visits.is_empty() => { visits.swap_remove(which.index(visits.len())); }
                    _ => {}
                }
                let book = doors.book();
                prop_assert!(book.inside.len() <= all && book.known <= book.limits.known());
                prop_assert_eq!(book.inside.len(), book.known + book.strangers.len());
                prop_assert!(book.addresses.values().all(|at| (1..=per_address).contains(&at.count)));
                prop_assert_eq!(book.addresses.values().map(|at| at.count).sum::<usize>(), book.inside.len());
                let here = visits.iter().filter(|visit| !visit.shown_out.is_cancelled()).count();
                prop_assert_eq!(here, book.inside.len());
            }
            drop(visits);
            let book = doors.book();
            prop_assert!(book.inside.is_empty() && book.addresses.is_empty());
        }
    }
}
