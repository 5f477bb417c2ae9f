//! Conservation (I3).

/// Events of a key since its birth. Always `on_log = duplicates + on_time + late + backfilled + dead`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Read from the log; an undecodable record is one.
    pub on_log: u64,
    /// Counted before.
    pub duplicates: u64,
    /// LIVE, counted while their window was open.
    pub on_time: u64,
    /// LIVE, counted after their window had closed.
    pub late: u64,
    /// BACKFILL, counted.
    pub backfilled: u64,
    /// Set aside; an undecodable record is one.
    pub dead: u64,
}

impl Counters {
    /// Events in rows: the ledger of I6.
    pub fn counted(&self) -> u64 {
        self.on_time + self.late + self.backfilled
    }

    /// Adds another key's.
    pub fn add(&mut self, other: &Self) {
        self.on_log += other.on_log;
        self.duplicates += other.duplicates;
        self.on_time += other.on_time;
        self.late += other.late;
        self.backfilled += other.backfilled;
        self.dead += other.dead;
    }

    /// Whether nothing was lost or doubled (I3).
    pub fn conserved(&self) -> bool {
        self.on_log == self.duplicates + self.counted() + self.dead
    }
}
