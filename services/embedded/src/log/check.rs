//! Checking sealed segments: every header and checksum of every record.
//!
//! A sealed segment is never written again, so damage in it is the disk's or somebody's doing, and refuses the start (I1).
//! A start checks as much as it has time for, the newest segments first: they are what is read again when something has to
//! be done over. The rest is left to [`super::scrub`]. What a checkpoint has not seen is never left to it alone: the worker
//! reads that at the start, and reading checks the same.

use std::collections::HashMap;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use tidegauge_core::ShardId;
use tidegauge_core::log::StoreError;

use super::format::{self, Found, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use super::segment::{ADVICE_AT_START, Sealed, damaged_with, open_sealed};
use super::tally::Tally;
use super::window::Window;
use crate::files::Files;

/// Bytes read at once: a record is at most half of it, so that few bytes are read twice.
const PIECE_BYTES: usize = 2 << 20;
/// Threads at most: what they read at once is memory, and no disk needs more to be busy.
const THREADS_MAX: usize = 8;
/// Bytes that are worth a thread.
const THREAD_BYTES: u64 = 8 << 20;

/// Checks a sealed segment; whose its bytes are. Calls `go_on` with the bytes checked since the last call, after each piece
/// and at the end; Ok(None) when that said to end.
///
/// # Errors
/// [`StoreError::Corrupt`] with file, offset and the advice; [`StoreError::Io`] where the file cannot be read.
pub(super) fn check_sealed(
    files: &dyn Files,
    sealed: &Sealed,
    advice: &str,
    mut go_on: impl FnMut(u64) -> bool,
) -> Result<Option<Tally>, StoreError> {
    let Sealed { shard, base, next, path, .. } = sealed;
    let (file, _) = open_sealed(files, path, *shard, *base, *next, advice)?;
    let end = SEGMENT_HEADER_BYTES as u64 + sealed.bytes();
    let mut window = Window::new(&*file, end, PIECE_BYTES);
    let mut offset = SEGMENT_HEADER_BYTES as u64;
    let mut told = offset;
    let mut tally = Tally::default();
    let mut wanted = RECORD_HEADER_BYTES;
    while offset < end {
        let reading = || format!("read {} at offset {offset}", path.display());
        let bytes = window.at(offset, wanted).map_err(|error| StoreError::io(reading(), error))?;
        match format::examine(bytes, base + offset - SEGMENT_HEADER_BYTES as u64, offset) {
            Found::Record(header) => {
                tally.add(header.key_of(bytes), header.stored_bytes() as u64);
                offset += header.stored_bytes() as u64;
                wanted = RECORD_HEADER_BYTES;
            }
            Found::Needs(needed) if bytes.len() >= wanted => {
                wanted = needed;
                continue;
            }
            fault => return Err(damaged_with(advice, path, offset, fault.fault().unwrap_or_default())),
        }
        if offset - told >= PIECE_BYTES as u64 {
            if !go_on(offset - told) {
                return Ok(None);
            }
            told = offset;
        }
    }
    Ok(go_on(offset - told).then_some(tally))
}

/// What checking at the start has found.
#[derive(Debug)]
pub(super) struct Checked {
    /// Whose bytes the checked segments hold, by shard and base.
    pub(super) tallies: HashMap<(ShardId, u64), Tally>,
    /// The others, oldest first.
    pub(super) left: Vec<Sealed>,
}

/// Checks the newest segments, as many as fit into `budget_bytes`.
///
/// # Errors
/// As [`check_sealed`], for the first segment in which something is wrong.
pub(super) fn check_newest(
    files: &dyn Files,
    mut sealed: Vec<Sealed>,
    budget_bytes: u64,
) -> Result<Checked, StoreError> {
    sealed.sort_by_key(|segment| (segment.created_ns, segment.shard, segment.base));
    let mut bytes = 0;
    let fits = |segment: &&Sealed| {
        bytes += segment.bytes();
        bytes <= budget_bytes
    };
    let count = sealed.iter().rev().take_while(fits).count();
    let mut newest = sealed.split_off(sealed.len() - count);
    newest.reverse();
    Ok(Checked { tallies: check_all(files, &newest)?, left: sealed })
}

/// Checks segments side by side: all of them, unless one is damaged.
fn check_all(files: &dyn Files, segments: &[Sealed]) -> Result<HashMap<(ShardId, u64), Tally>, StoreError> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let work = || {
        let mut tallies = Vec::new();
        while let Some(segment) = segments.get(next.fetch_add(1, Ordering::Relaxed)) {
            let go_on = |_| !failed.load(Ordering::Relaxed);
            match check_sealed(files, segment, ADVICE_AT_START, go_on) {
                Ok(Some(tally)) => tallies.push(((segment.shard, segment.base), tally)),
                Ok(None) => break,
                Err(error) => {
                    failed.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
        Ok(tallies)
    };
    let bytes: u64 = segments.iter().map(Sealed::bytes).sum();
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let helpers = cores.min(THREADS_MAX).min((bytes / THREAD_BYTES) as usize).saturating_sub(1);
    thread::scope(|scope| {
        let helping: Vec<_> = (0..helpers).map(|_| scope.spawn(work)).collect();
        let own = work();
        let joined = helping.into_iter().map(|thread| match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        // All are waited for; the first error counts.
        let all: Vec<_> = std::iter::once(own).chain(joined).collect();
        Ok(all.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    })
}
