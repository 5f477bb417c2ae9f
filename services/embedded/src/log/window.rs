//! A file read forwards in large pieces.

use std::io;

use crate::files::{FileHandle, read_full};

/// A file read forwards in large pieces, into one buffer.
pub(super) struct Window<'a> {
    file: &'a dyn FileHandle,
    /// Bytes of the file.
    pub(super) bytes: u64,
    piece_bytes: usize,
    start: u64,
    buffer: Vec<u8>,
}

impl<'a> Window<'a> {
    /// A window on the first `bytes` of a file, read `piece_bytes` at a time.
    pub(super) fn new(file: &'a dyn FileHandle, bytes: u64, piece_bytes: usize) -> Self {
        Self { file, bytes, piece_bytes, start: 0, buffer: Vec::new() }
    }

    /// The `wanted` bytes at `offset`; fewer only where the file ends.
    pub(super) fn at(&mut self, offset: u64, wanted: usize) -> io::Result<&[u8]> {
        let wanted = (self.bytes.saturating_sub(offset)).min(wanted as u64) as usize;
        let inside = offset >= self.start && offset + wanted as u64 <= self.start + self.buffer.len() as u64;
        if !inside {
            let left = self.bytes.saturating_sub(offset);
            self.buffer.resize(left.min(wanted.max(self.piece_bytes) as u64) as usize, 0);
            let read = read_full(self.file, &mut self.buffer, offset)?;
            self.buffer.truncate(read);
            self.start = offset;
            if read < wanted {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let from = (offset - self.start) as usize;
        Ok(&self.buffer[from..from + wanted])
    }
}
