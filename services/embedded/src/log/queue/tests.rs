//! Fairness and bounds of the queue.

use proptest::prelude::*;
use tidegauge_core::TenantId;

use super::*;

/// Long enough after any refusal that no claim is left.
const LATER: u64 = 1 << 60;

fn key(tenant: &str) -> Key {
    Key::of(TenantId::parse(tenant).unwrap())
}

/// Reserves and pushes a job; whether there was room.
fn offer(queue: &Queue, tenant: &str, stored_bytes: usize) -> bool {
    offer_at(queue, tenant, stored_bytes, 0)
}

fn offer_at(queue: &Queue, tenant: &str, stored_bytes: usize, now_ns: u64) -> bool {
    let taken = queue.reserve(&key(tenant), room(stored_bytes), true, now_ns);
    if taken {
        let (done, _) = oneshot::channel();
        let (key, key_bytes) = (key(tenant), tenant.as_bytes().into());
        queue.push(Job { key, key_bytes, records: Vec::new(), stored_bytes, done }).unwrap();
    }
    taken
}

/// The tenants and bytes of the next commit.
fn commit(queue: &Queue, bytes_max: usize) -> Vec<(String, usize)> {
    let Taken::Jobs(jobs) = queue.take(bytes_max, Duration::ZERO) else { return Vec::new() };
    queue.release_all(&jobs);
    jobs.into_iter().map(|job| (job.key.to_string(), job.stored_bytes)).collect()
}

/// However much one key brings, others find room, each key no more than is free; all of it is given back.
#[test]
fn a_key_leaves_room_for_others() {
    let queue = Queue::new(1 << 20);
    let fill = |tenant: &str| (0..).take_while(|_| offer(&queue, tenant, 9 << 10)).count();
    let counts = ["noisy", "second", "third"].map(fill);
    assert_eq!(counts, [51, 26, 13], "half, then half of the rest");
    assert!(offer(&queue, "quiet", 100 << 10), "the first job of a key needs no share, only room");
    assert!(!offer(&queue, "late", 100 << 10), "there is none left");
    while !commit(&queue, 1 << 16).is_empty() {}
    assert!(queue.state().lanes.is_empty() && queue.state().taken == 0);
    assert!(!offer(&queue, "large", 1 << 20), "more than the queue holds");
    assert!(offer_at(&queue, "large", (1 << 20) - JOB_BYTES, LATER), "as much as it holds");
}

/// Tiny jobs are bounded by what they take in memory.
#[test]
fn tiny_jobs_are_bounded() {
    let queue = Queue::new(1 << 20);
    assert_eq!((0..).take_while(|_| offer(&queue, "tiny", 64)).count(), 482, "not 8,192");
}

/// A key with little to write is in the next commit; keys with much share it by bytes, whatever the size of their
/// jobs; the jobs of a key keep their order; a job larger than a commit has one of its own.
#[test]
fn keys_share_commits() {
    let queue = Queue::new(64 << 20);
    for _ in 0..40 {
        assert!(offer(&queue, "large-jobs", 300 << 10));
    }
    for _ in 0..400 {
        assert!(offer(&queue, "small-jobs", 10 << 10));
    }
    for bytes in 1..=3 {
        assert!(offer(&queue, "quiet", bytes));
    }
    let first = commit(&queue, 1 << 20);
    let quiet: Vec<usize> = first.iter().filter(|(tenant, _)| tenant == "quiet").map(|(_, bytes)| *bytes).collect();
    assert_eq!(quiet, [1, 2, 3]);
    let mut shares: HashMap<String, usize> = HashMap::new();
    for (tenant, bytes) in first.into_iter().chain((0..3).flat_map(|_| commit(&queue, 1 << 20))) {
        *shares.entry(tenant).or_default() += bytes;
    }
    let (large, small) = (shares["large-jobs"], shares["small-jobs"]);
    assert!(large.abs_diff(small) <= (300 << 10) + TURN_BYTES, "{large} and {small} bytes");

    let queue = Queue::new(64 << 20);
    assert!(offer(&queue, "one", 5 << 20) && offer(&queue, "one", 1));
    assert_eq!(commit(&queue, 1 << 20), [("one".to_owned(), 5 << 20)]);
    assert_eq!(commit(&queue, 1 << 20), [("one".to_owned(), 1)]);
}

/// What a queue of [`QUEUE`] bytes is put through: everybody pushes whatever is taken, commit after commit.
struct Rush {
    queue: Queue,
    now_ns: u64,
    commit_bytes: usize,
    /// Bytes of the jobs of each neighbour.
    neighbours: Vec<usize>,
    /// Room that all commits gave back, and the one that gave most: jobs of a few bytes take more room than they have bytes.
    committed: usize,
    largest: usize,
}

const QUEUE: usize = 1 << 20;
const COMMIT_NS: u64 = 10_000_000;

impl Rush {
    fn new(commit_bytes: usize, neighbours: Vec<usize>) -> Self {
        Self { queue: Queue::new(QUEUE), now_ns: 0, commit_bytes, neighbours, committed: 0, largest: 0 }
    }

    /// All neighbours take turns until none finds room any more.
    fn fill(&self) {
        let mut waiting: Vec<usize> = (0..self.neighbours.len()).collect();
        while !waiting.is_empty() {
            waiting.retain(|at| offer_at(&self.queue, &format!("neighbour-{at}"), self.neighbours[*at], self.now_ns));
        }
    }

    fn commit(&mut self) {
        let jobs = commit(&self.queue, self.commit_bytes);
        assert!(!jobs.is_empty(), "the writer always has something to write");
        let given_back = jobs.iter().map(|(_, bytes)| room(*bytes)).sum::<usize>();
        self.committed += given_back;
        self.largest = self.largest.max(given_back);
        self.now_ns += COMMIT_NS;
        let state = self.queue.state();
        let (claims, kept) = state.claims.len_and_kept();
        assert!(claims <= claims::CLAIMS_MAX && kept <= QUEUE - QUEUE / 8 && kept + state.taken <= QUEUE);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// However many neighbours push whatever is taken, and however seldom a large call comes again (before its claim expires):
    /// it is taken after twice its bytes were written, and what was written between two of its tries. Without claims it would
    /// never be where the neighbours leave less than it needs.
    #[test]
    fn a_large_call_is_taken_in_the_end(
        neighbours in proptest::collection::vec(64..9_000_usize, 2..40),
        large in 50_000..QUEUE - QUEUE / 8 - JOB_BYTES,
        commit_bytes in 10_000..200_000_usize,
        commits_per_try in 1..10_usize,
        services in prop_oneof![Just(0_usize), 64..3_000_usize],
    ) {
        let mut rush = Rush::new(commit_bytes, neighbours);
        rush.fill();
        // Other services of the same tenant send too; there is less that the tenant may have at once then.
        let large = if services > 0 { large / 2 } else { large };
        let mut claimed_at = None;
        for turn in 0.. {
            if services > 0 {
                offer_at(&rush.queue, "large", services, rush.now_ns);
            }
            if turn % commits_per_try == 0 {
                if offer_at(&rush.queue, "large", large, rush.now_ns) {
                    break;
                }
                claimed_at.get_or_insert(rush.committed);
            }
            rush.commit();
            rush.fill();
            let waited = rush.committed - claimed_at.unwrap_or(rush.committed);
            let between_tries = (commits_per_try + 2) * rush.largest;
            let bound = match services {
                0 => 2 * room(large) + between_tries,
                // What they have waiting changes from try to try, and with it what the call needs.
                _ => 4 * QUEUE + 4 * between_tries,
            };
            prop_assert!(waited <= bound, "{} bytes, {waited} were written meanwhile, not {bound}", large);
        }
        let (_, kept) = rush.queue.state().claims.len_and_kept();
        prop_assert!(kept < room(large), "its claim has served");
    }

    /// Tenants that leave claims and never take what is kept for them: there is always something to write, a tenant that has
    /// nothing waiting finds room at once, and when the claims have expired all is as before. Of neighbours there are few: each
    /// may take half of what the others left, so that many leave nothing of a queue as small as this, with claims or without.
    #[test]
    fn claims_without_calls_block_nobody(
        neighbours in proptest::collection::vec(64..2_000_usize, 2..5),
        hostile in proptest::collection::vec(50_000..2 * QUEUE, 1..60),
        commit_bytes in 10_000..200_000_usize,
    ) {
        let mut rush = Rush::new(commit_bytes, neighbours);
        rush.fill();
        let quiet = key("quiet");
        for turn in 0..200_usize {
            let (tenant, bytes) = (turn % 50, hostile[turn % hostile.len()]);
            let key = key(&format!("hostile-{tenant}"));
            // It is refused or does not use what it got.
            if rush.queue.reserve(&key, room(bytes), true, rush.now_ns) {
                rush.queue.release(&key, room(bytes));
            }
            rush.fill();
            let waits = rush.queue.state().lanes.contains_key(&quiet);
            prop_assert!(waits || offer_at(&rush.queue, "quiet", 60, rush.now_ns), "turn {turn}");
            rush.commit();
        }
        while !commit(&rush.queue, commit_bytes).is_empty() {}
        rush.now_ns += claims::EXPIRY_NS;
        prop_assert!(offer_at(&rush.queue, "anybody", QUEUE - JOB_BYTES, rush.now_ns), "nothing is kept for ever");
    }
}

/// A key that has much waiting is not helped against its own load: what it may have at once is what is free, as ever.
#[test]
fn a_claim_is_no_larger_share() {
    let queue = Queue::new(QUEUE);
    while offer(&queue, "noisy", 9 << 10) {}
    assert!(!offer(&queue, "noisy", 9 << 10));
    assert!(!offer(&queue, "hog", QUEUE - JOB_BYTES), "it would leave nothing to others");
    assert_eq!(queue.state().claims.len_and_kept(), (0, 0));
    assert!(!offer(&queue, "large", 600 << 10) && !offer(&queue, "large", 550 << 10), "one claim a tenant");
    assert!(!queue.reserve(&key("several"), room(600 << 10), false, 0), "one of several keys leaves none");
    assert_eq!(queue.state().claims.len_and_kept(), (1, 0));
}
