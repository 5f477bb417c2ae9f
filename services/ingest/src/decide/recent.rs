//! Requests acknowledged lately, for the duplicate hint: best effort, bounded, never a reason to refuse.

use std::collections::{HashSet, VecDeque};

use tidegauge_core::event::RequestId;
use tidegauge_core::ids::TenantId;
use twox_hash::XxHash3_128;

/// The last acknowledged requests.
#[derive(Debug)]
pub struct Recent {
    known: HashSet<u128>,
    order: VecDeque<u128>,
    max: usize,
}

impl Recent {
    /// Remembers at most `max` requests.
    pub fn new(max: usize) -> Self {
        Self { known: HashSet::new(), order: VecDeque::new(), max }
    }

    /// Whether the request was acknowledged lately.
    pub fn contains(&self, tenant: &TenantId, request: &RequestId) -> bool {
        self.known.contains(&mark(tenant, request))
    }

    /// Remembers an acknowledged request; forgets the oldest.
    pub fn insert(&mut self, tenant: &TenantId, request: &RequestId) {
        let mark = mark(tenant, request);
        if self.max == 0 || !self.known.insert(mark) {
            return;
        }
        self.order.push_back(mark);
        if self.order.len() > self.max
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

fn mark(tenant: &TenantId, request: &RequestId) -> u128 {
    let mut bytes = [0; 40];
    bytes[..16].copy_from_slice(&request.producer.to_bytes());
    bytes[16..24].copy_from_slice(&request.sequence.to_be_bytes());
    bytes[24..].copy_from_slice(&request.digest.to_be_bytes());
    let mut hasher = XxHash3_128::new();
    hasher.write(&bytes);
    hasher.write(tenant.as_str().as_bytes());
    hasher.finish_128()
}
