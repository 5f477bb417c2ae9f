//! Hash tables that number texts and sets of pairs, over one arena each.

/// Entry number plus one, 0 for free; the length is a power of two and at least twice the entries.
#[derive(Debug, Default)]
struct Slots {
    slots: Vec<u32>,
    hashes: Vec<u64>,
}

impl Slots {
    /// The number of the entry with this hash for which `same` holds; if there is none, the next number, which is then
    /// taken.
    #[inline]
    fn number(&mut self, hash: u64, same: impl Fn(usize) -> bool) -> (u32, bool) {
        if self.hashes.len() * 2 >= self.slots.len() {
            self.grow();
        }
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while self.slots[at] != 0 {
            let number = self.slots[at] as usize - 1;
            if self.hashes[number] == hash && same(number) {
                return (number as u32, false);
            }
            at = (at + 1) & mask;
        }
        self.hashes.push(hash);
        self.slots[at] = self.hashes.len() as u32;
        (self.hashes.len() as u32 - 1, true)
    }

    #[cold]
    fn grow(&mut self) {
        const SLOTS: usize = 64;
        let slots = (self.slots.len() * 2).max(SLOTS);
        let mask = slots - 1;
        self.slots = vec![0; slots];
        for (number, hash) in self.hashes.iter().enumerate() {
            let mut at = *hash as usize & mask;
            while self.slots[at] != 0 {
                at = (at + 1) & mask;
            }
            self.slots[at] = number as u32 + 1;
        }
    }

    fn clear(&mut self) {
        self.slots.fill(0);
        self.hashes.clear();
    }
}

/// A multiplicative hash of words, after rustc's FxHash, with a last mixing step. The input is the caller's own.
#[inline]
fn hash(state: u64, text: &str) -> u64 {
    const FACTOR: u64 = 0x517c_c1b7_2722_0a95;
    let mut state = (state ^ text.len() as u64).wrapping_mul(FACTOR);
    let mut words = text.as_bytes().chunks_exact(8);
    for word in &mut words {
        let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
        state = (state.rotate_left(5) ^ word).wrapping_mul(FACTOR);
    }
    let mut rest = [0; 8];
    rest[..words.remainder().len()].copy_from_slice(words.remainder());
    state = (state.rotate_left(5) ^ u64::from_le_bytes(rest)).wrapping_mul(FACTOR);
    state ^ (state >> 32)
}

/// Numbers texts.
#[derive(Debug, Default)]
pub(super) struct TextTable {
    slots: Slots,
    arena: String,
    /// End of each text in the arena.
    ends: Vec<usize>,
}

impl TextTable {
    #[inline]
    pub(super) fn number(&mut self, text: &str) -> u32 {
        let (arena, ends) = (&self.arena, &self.ends);
        let same = |number: usize| arena[start(ends, number)..ends[number]] == *text;
        let (number, new) = self.slots.number(hash(0, text), same);
        if new {
            self.arena.push_str(text);
            self.ends.push(self.arena.len());
        }
        number
    }

    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        (0..self.ends.len()).map(|number| &self.arena[start(&self.ends, number)..self.ends[number]])
    }

    pub(super) fn encoded_bytes(&self) -> usize {
        self.arena.len() + 2 * self.ends.len()
    }

    pub(super) fn clear(&mut self) {
        self.slots.clear();
        self.arena.clear();
        self.ends.clear();
    }
}

fn start(ends: &[usize], number: usize) -> usize {
    if number == 0 { 0 } else { ends[number - 1] }
}

/// Numbers sets of pairs; kept sorted by key.
#[derive(Debug, Default)]
pub(super) struct SetTable {
    /// Lists as they were given; the same set may come in several orders.
    given: PairsTable,
    /// The set of each list.
    sets: Vec<u32>,
    canonical: PairsTable,
}

impl SetTable {
    #[inline]
    pub(super) fn number(&mut self, pairs: &[(&str, &str)]) -> u32 {
        let (list, new) = self.given.number(pairs);
        if new {
            let mut sorted = pairs.to_vec();
            sorted.sort_unstable();
            self.sets.push(self.canonical.number(&sorted).0);
        }
        self.sets[list as usize]
    }

    pub(super) fn with_sets<R>(&self, with: impl FnOnce(&[&[(&str, &str)]]) -> R) -> R {
        self.canonical.with_lists(with)
    }

    pub(super) fn encoded_bytes(&self) -> usize {
        let table = &self.canonical;
        table.arena.len() + 6 * table.pairs.len() + 2 * table.ends.len()
    }

    pub(super) fn clear(&mut self) {
        self.given.clear();
        self.sets.clear();
        self.canonical.clear();
    }
}

/// Numbers lists of pairs.
#[derive(Debug, Default)]
struct PairsTable {
    slots: Slots,
    arena: String,
    /// Start of key, start of value, end of value in the arena.
    pairs: Vec<(usize, usize, usize)>,
    /// End of each list in `pairs`.
    ends: Vec<usize>,
}

impl PairsTable {
    #[inline]
    fn number(&mut self, pairs: &[(&str, &str)]) -> (u32, bool) {
        let state = pairs.iter().fold(pairs.len() as u64, |state, (key, value)| hash(hash(state, key), value));
        let (arena, known, ends) = (&self.arena, &self.pairs, &self.ends);
        let same = |number: usize| {
            let list = &known[start(ends, number)..ends[number]];
            list.len() == pairs.len()
                && list.iter().zip(pairs).all(|((key_at, value_at, end), (key, value))| {
                    arena[*key_at..*value_at] == **key && arena[*value_at..*end] == **value
                })
        };
        let (number, new) = self.slots.number(state, same);
        if new {
            for (key, value) in pairs {
                let key_at = self.arena.len();
                self.arena.push_str(key);
                let value_at = self.arena.len();
                self.arena.push_str(value);
                self.pairs.push((key_at, value_at, self.arena.len()));
            }
            self.ends.push(self.pairs.len());
        }
        (number, new)
    }

    fn with_lists<R>(&self, with: impl FnOnce(&[&[(&str, &str)]]) -> R) -> R {
        let text = |from: usize, to: usize| &self.arena[from..to];
        let pairs: Vec<(&str, &str)> =
            self.pairs.iter().map(|(key, value, end)| (text(*key, *value), text(*value, *end))).collect();
        let lists: Vec<&[(&str, &str)]> =
            (0..self.ends.len()).map(|number| &pairs[start(&self.ends, number)..self.ends[number]]).collect();
        with(&lists)
    }

    fn clear(&mut self) {
        self.slots.clear();
        self.arena.clear();
        self.pairs.clear();
        self.ends.clear();
    }
}
