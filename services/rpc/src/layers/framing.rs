//! Follows gRPC's framing through a body, to know how much of a message has arrived: a byte of flags, four bytes of length,
//! the message (gRPC over HTTP/2, "Length-Prefixed-Message").

/// Bytes before each message.
const PREFIX: usize = 5;

/// Where in the framing a body stands.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Framing {
    prefix: [u8; PREFIX],
    /// Bytes of the prefix that have arrived.
    prefixed: usize,
    /// Bytes of the message that have arrived.
    arrived: usize,
    /// Bytes that are still to come.
    missing: usize,
}

impl Framing {
    /// Takes the next bytes of the body.
    pub(super) fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.prefixed < PREFIX {
                let count = bytes.len().min(PREFIX - self.prefixed);
                self.prefix[self.prefixed..self.prefixed + count].copy_from_slice(&bytes[..count]);
                self.prefixed += count;
                bytes = &bytes[count..];
                if self.prefixed == PREFIX {
                    let [_, length @ ..] = self.prefix;
                    self.missing = u32::from_be_bytes(length) as usize;
                }
            } else {
                let count = bytes.len().min(self.missing);
                self.arrived += count;
                self.missing -= count;
                bytes = &bytes[count..];
            }
            if self.prefixed == PREFIX && self.missing == 0 {
                *self = Self::default();
            }
        }
    }

    /// Bytes of a message that has not arrived whole.
    pub(super) fn unfinished(&self) -> usize {
        self.arrived
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However a body is cut into frames, what is unfinished is what stands behind the last whole message's end.
        #[test]
        fn messages_are_followed(lengths in proptest::collection::vec(0_usize..40, 0..12), cuts in proptest::collection::vec(1_usize..30, 0..60)) {
            let (mut body, mut starts) = (Vec::new(), Vec::new());
            for length in &lengths {
                starts.push(body.len()..body.len() + PREFIX + length);
                body.push(0);
                body.extend((*length as u32).to_be_bytes());
                body.extend(std::iter::repeat_n(0xFF, *length));
            }
            let mut framing = Framing::default();
            let mut at = 0;
            for cut in cuts {
                let end = (at + cut).min(body.len());
                framing.take(&body[at..end]);
                at = end;
                let open = starts.iter().find(|message| message.start < at && at < message.end);
                let unfinished = open.map_or(0, |message| at.saturating_sub(message.start + PREFIX));
                prop_assert_eq!(framing.unfinished(), unfinished);
            }
        }
    }
}
