//! How many bytes a client may send before handlers have taken them: a little at first, more for who is known, and more
//! again for who uses it. What a client may send, the server may have to keep, so all but the beginning is charged.

use tidegauge_core::limits;

use crate::guest::Guest;
use crate::share::Share;

/// The window of a client that is known.
const FIRST: u32 = 512 << 10;
/// Where it begins: what HTTP/2 gives every connection.
const BEGINNING: u32 = 65_535;

/// The receive window of a connection. It never shrinks: what a client was once told it may send at any time.
#[derive(Debug)]
pub(super) struct Window {
    size: u32,
    share: Option<Share>,
    /// Bytes taken by handlers at which it may grow.
    next: u64,
}

impl Window {
    pub(super) fn new() -> Self {
        Self { size: BEGINNING, share: None, next: 0 }
    }

    /// The new size, if it grows.
    pub(super) fn grow(&mut self, guest: &Guest) -> Option<u32> {
        let consumed = guest.consumed();
        if consumed < self.next || self.size >= limits::HTTP2_CONNECTION_WINDOW_BYTES {
            return None;
        }
        if self.share.is_none() {
            self.share = Some(guest.window_share()?);
        }
        let size = (self.size * 2).clamp(FIRST, limits::HTTP2_CONNECTION_WINDOW_BYTES);
        // Twice a window's bytes in use show that it is too small, or that it is time to ask again.
        if !self.share.as_mut()?.hold(size as usize) {
            self.next = consumed + 2 * u64::from(size);
            return None;
        }
        self.size = size;
        self.next = consumed + 2 * u64::from(size);
        Some(size)
    }
}
