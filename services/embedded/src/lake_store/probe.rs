//! A seam for tests: what happens before each step of a write.

use std::fmt::Debug;
use std::io;
use std::path::Path;

/// A step of a write, in their order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Make a missing directory.
    CreateDirectory,
    /// Create the temporary file.
    CreateTemporary,
    /// Write the content.
    Write,
    /// Sync the temporary file.
    SyncFile,
    /// Rename it to its place.
    Rename,
    /// Open a directory, before its names change.
    OpenDirectory,
    /// Sync a directory.
    SyncDirectory,
    /// Delete an object.
    Delete,
}

/// Called before every step; an error takes the step's place.
pub trait Probe: Send + Sync + Debug + 'static {
    /// Before a step on a path.
    ///
    /// # Errors
    /// Makes the step fail.
    fn before(&self, step: Step, path: &Path) -> io::Result<()>;
}

/// No probe.
impl Probe for () {
    fn before(&self, _: Step, _: &Path) -> io::Result<()> {
        Ok(())
    }
}
