//! Zeros written ahead of the records, so that a commit's sync changes no file size (twice as fast for small commits).
//!
//! A helper thread, shared by all shards, writes the zeros in small steps; the writer never waits for more than one
//! step. When the writer is faster it simply writes past the zeros, which is as quick when commits are large.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::options::{AbortHook, DiskReserve};
use crate::files::{FileHandle, Files, write_full};

/// Bytes of one step: how long a writer may have to wait.
const STEP_BYTES: u64 = 256 << 10;
/// Steps after which the zeros are synced: bounds what a concurrent commit's sync has to carry.
const STEPS_PER_SYNC: u32 = 4;

#[derive(Debug)]
struct State {
    /// Bytes of the file.
    filled: u64,
    /// End of what the writer has taken for records.
    claimed: u64,
    requested: bool,
    sealed: bool,
}

/// The growing end of one segment file. Whatever changes the length of the file holds its lock.
#[derive(Debug)]
pub(super) struct Fill {
    file: Arc<dyn FileHandle>,
    ahead: u64,
    limit: u64,
    state: Mutex<State>,
}

impl Fill {
    /// `filled` is the length of the file, `claimed` the end of its records; zeros go up to `limit`.
    pub(super) fn new(file: Arc<dyn FileHandle>, filled: u64, claimed: u64, ahead: u64, limit: u64) -> Self {
        let state = State { filled, claimed, requested: false, sealed: false };
        Self { file, ahead, limit, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the file up to `to` for records: no zeros are written there any more.
    pub(super) fn claim(&self, to: u64) {
        let mut state = self.state();
        state.claimed = to;
        state.filled = state.filled.max(to);
    }

    /// Whether more zeros should be asked for; true once until they are written.
    pub(super) fn request(&self) -> bool {
        let mut state = self.state();
        let short = state.filled < self.limit && state.filled - state.claimed < self.ahead / 2;
        let ask = short && !state.requested && !state.sealed;
        state.requested |= ask;
        ask
    }

    /// Gives `from..` back after a failed write: the file ends there.
    pub(super) fn cut_back(&self, from: u64) -> io::Result<()> {
        let mut state = self.state();
        self.file.set_len(from)?;
        state.filled = from;
        state.claimed = from;
        Ok(())
    }

    /// Ends the file at `end` for good; whether that changed its length.
    pub(super) fn seal(&self, end: u64) -> io::Result<bool> {
        let mut state = self.state();
        state.sealed = true;
        if state.filled <= end {
            return Ok(false);
        }
        self.file.set_len(end)?;
        state.filled = end;
        Ok(true)
    }

    /// Writes one step of zeros; false when there are enough.
    fn step(&self, zeros: &[u8]) -> io::Result<bool> {
        let mut state = self.state();
        let target = self.limit.min(state.claimed + self.ahead);
        if state.sealed || state.filled >= target {
            return Ok(false);
        }
        let bytes = (target - state.filled).min(zeros.len() as u64);
        write_full(&*self.file, &zeros[..bytes as usize], state.filled)?;
        state.filled += bytes;
        Ok(true)
    }

    /// The request is served, or could not be.
    pub(super) fn finished(&self) {
        self.state().requested = false;
    }
}

/// The helper thread.
#[derive(Debug)]
pub(super) struct Filler {
    pub(super) requests: Receiver<Arc<Fill>>,
    pub(super) files: Arc<dyn Files>,
    pub(super) dir: PathBuf,
    pub(super) reserve: DiskReserve,
    pub(super) abort: AbortHook,
}

impl Filler {
    /// Serves requests until all writers are gone.
    pub(super) fn run(self) {
        let zeros = vec![0; STEP_BYTES as usize];
        while let Ok(fill) = self.requests.recv() {
            self.fill(&fill, &zeros);
            fill.finished();
        }
    }

    fn fill(&self, fill: &Fill, zeros: &[u8]) {
        loop {
            let mut more = true;
            for _ in 0..STEPS_PER_SYNC {
                if !self.files.space(&self.dir).is_ok_and(|space| self.reserve.allows(space, STEP_BYTES)) {
                    return;
                }
                match fill.step(zeros) {
                    Ok(wrote) => more = wrote,
                    // The writer meets the same error where it matters, and cuts back what this step left.
                    Err(error) => {
                        tracing::warn!(%error, dir = %self.dir.display(), "cannot write ahead");
                        return;
                    }
                }
                if !more {
                    break;
                }
            }
            if let Err(error) = fill.file.sync_data() {
                self.abort.call(&format!("sync of {} failed: {error}", self.dir.display()));
                return;
            }
            if !more {
                return;
            }
        }
    }
}
