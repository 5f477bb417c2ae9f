//! A hash table from bytes to small numbers, over borrowed bytes.

use twox_hash::XxHash3_64;

/// Numbers different byte strings 0, 1, 2, … in the order in which they are first seen.
#[derive(Debug)]
pub struct Interner<'a> {
    seed: u64,
    /// Entry number plus one, 0 for free; the length is a power of two and at least twice the entries.
    slots: Vec<u32>,
    entries: Vec<(u64, &'a [u8])>,
}

/// Slots of a new table.
const SLOTS: usize = 32;

impl<'a> Interner<'a> {
    /// An empty table.
    pub fn new(seed: u64) -> Self {
        Self { seed, slots: vec![0; SLOTS], entries: Vec::new() }
    }

    /// The number of these bytes, and whether they are new.
    #[inline]
    pub fn intern(&mut self, bytes: &'a [u8]) -> (usize, bool) {
        let hash = XxHash3_64::oneshot_with_seed(self.seed, bytes);
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            match self.slots[at] {
                0 => break,
                taken => {
                    let number = taken as usize - 1;
                    let (found, entry) = self.entries[number];
                    if found == hash && entry == bytes {
                        return (number, false);
                    }
                }
            }
            at = (at + 1) & mask;
        }
        self.entries.push((hash, bytes));
        self.slots[at] = self.entries.len() as u32;
        if self.entries.len() * 2 > self.slots.len() {
            self.grow();
        }
        (self.entries.len() - 1, true)
    }

    #[cold]
    fn grow(&mut self) {
        let slots = self.slots.len() * 2;
        let mask = slots - 1;
        self.slots = vec![0; slots];
        for (number, (hash, _)) in self.entries.iter().enumerate() {
            let mut at = *hash as usize & mask;
            while self.slots[at] != 0 {
                at = (at + 1) & mask;
            }
            self.slots[at] = number as u32 + 1;
        }
    }
}
