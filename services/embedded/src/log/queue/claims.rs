//! Claims: room that is kept for calls which were refused for want of it.
//!
//! A call needs room for all of its records at once. While neighbours keep the queue fuller than that, it would be refused
//! however often it came: every bit of room that becomes free goes to somebody who needs less. So a refused call leaves a
//! claim, and half of the room that commits give back is kept for claims, the oldest first, until the call comes again or
//! its claim expires. The other half goes to whoever comes. So a call that keeps coming is taken after twice its bytes (and
//! those of the claims before it) were written.
//!
//! Claims give nobody more than calls do. Kept room counts as taken, and a claim keeps no more than its call would take with
//! what its key has waiting already. A tenant has one at a time; it is for a call that its key's own load does not keep out,
//! and that leaves an eighth of the queue to others: that eighth no claim ever takes. So a tenant that leaves claims and never
//! comes back takes less from others than by sending those calls, and for no longer than [`EXPIRY_NS`] each.

use std::collections::VecDeque;

use tidegauge_core::Key;

/// Claims of one shard at once: a place costs nothing but its turn, and to look through them takes microseconds.
pub(super) const CLAIMS_MAX: usize = 256;
/// Time from the last refusal after which a claim expires: longer than the longest pause that our producer makes.
pub(super) const EXPIRY_NS: u64 = 6_000_000_000;

/// What a call that is refused would need.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need {
    /// Room that it takes: with its key it tells whether a call is that of a claim.
    pub(super) room: usize,
    /// Room that its key has taken already.
    pub(super) own: usize,
}

impl Need {
    /// Room that must be free: a key may have no more waiting than is still free, but for its first call.
    pub(super) fn free(self) -> usize {
        match self.own {
            0 => self.room,
            own => own.saturating_add(self.room),
        }
    }

    /// Whether it is neighbours that keep the call out, and it leaves them enough.
    fn may_claim(self, bytes_max: usize) -> bool {
        self.room >= self.own && self.own.saturating_add(self.free()) <= claimable(bytes_max)
    }
}

/// Room of a queue that all claims together may keep.
fn claimable(bytes_max: usize) -> usize {
    bytes_max - bytes_max / 8
}

#[derive(Debug)]
struct Claim {
    key: Key,
    need: Need,
    kept: usize,
    expires_ns: u64,
}

impl Claim {
    fn is_of(&self, key: &Key, room: usize) -> bool {
        self.need.room == room && self.key == *key
    }
}

/// The claims of a shard, oldest first. Their kept room is always free.
#[derive(Default, Debug)]
pub(super) struct Claims {
    line: VecDeque<Claim>,
    kept: usize,
}

impl Claims {
    /// Room that is kept, but not for this call.
    pub(super) fn kept_from(&self, key: &Key, room: usize) -> usize {
        let own = self.line.iter().find(|claim| claim.is_of(key, room));
        self.kept - own.map_or(0, |claim| claim.kept)
    }

    /// Forgets claims whose calls have not come again.
    pub(super) fn expire(&mut self, now_ns: u64) {
        self.retain(|claim| claim.expires_ns > now_ns);
    }

    /// The call is taken: its claim has served.
    pub(super) fn settle(&mut self, key: &Key, room: usize) {
        self.retain(|claim| !claim.is_of(key, room));
    }

    /// A call is refused: it leaves a claim, or its claim stays, if it may have one.
    pub(super) fn leave(&mut self, key: &Key, need: Need, bytes_max: usize, now_ns: u64) {
        if !need.may_claim(bytes_max) {
            return self.settle(key, need.room);
        }
        let expires_ns = now_ns.saturating_add(EXPIRY_NS);
        let has_place = self.line.len() < CLAIMS_MAX;
        match self.line.iter_mut().find(|claim| claim.key.tenant == key.tenant) {
            Some(claim) if claim.is_of(key, need.room) => {
                (claim.need, claim.expires_ns) = (need, expires_ns);
                let surplus = claim.kept.saturating_sub(need.free());
                claim.kept -= surplus;
                self.kept -= surplus;
            }
            None if has_place => self.line.push_back(Claim { key: key.clone(), need, kept: 0, expires_ns }),
            // One a tenant; and what finds no place is refused as it was.
            Some(_) | None => {}
        }
    }

    /// A commit has given room back: half of it is kept.
    pub(super) fn earn(&mut self, released: usize, bytes_max: usize) {
        let mut share = (released / 2).min(claimable(bytes_max).saturating_sub(self.kept));
        for claim in &mut self.line {
            let more = share.min(claim.need.free() - claim.kept);
            claim.kept += more;
            self.kept += more;
            share -= more;
        }
    }

    fn retain(&mut self, keeps: impl Fn(&Claim) -> bool) {
        let kept = &mut self.kept;
        self.line.retain(|claim| {
            let keeps = keeps(claim);
            *kept -= if keeps { 0 } else { claim.kept };
            keeps
        });
    }

    #[cfg(test)]
    pub(super) fn len_and_kept(&self) -> (usize, usize) {
        assert_eq!(self.kept, self.line.iter().map(|claim| claim.kept).sum::<usize>());
        (self.line.len(), self.kept)
    }
}
