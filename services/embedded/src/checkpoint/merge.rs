//! Many sorted files as one: of equal keys the newest file's entry counts.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bytes::Bytes;
use tidegauge_core::checkpoint::{Keyspace, StoreError};

use super::blocks::{BlockReader, Entry};

/// A file's next entry in the heap: smallest key first, of equal keys the newest file first.
type Next = Reverse<(Keyspace, Bytes, Reverse<usize>)>;

/// A sorted run of entries.
pub(super) enum Source {
    File(BlockReader),
    /// What a merge before has left; nothing in it is deleted.
    Memory(std::vec::IntoIter<(Keyspace, Bytes, Bytes)>),
}

impl Source {
    fn next(&mut self) -> Result<Option<Entry>, StoreError> {
        match self {
            Self::File(reader) => reader.next(),
            Self::Memory(entries) => {
                Ok(entries.next().map(|(keyspace, key, value)| Entry { keyspace, key, value: Some(value) }))
            }
        }
    }
}

/// Reads files side by side.
pub(super) struct Merge {
    readers: Vec<Source>,
    /// The value of each file's next entry, whose key is in the heap.
    values: Vec<Option<Bytes>>,
    heap: BinaryHeap<Next>,
}

impl Merge {
    /// Over files from oldest to newest.
    pub(super) fn new(readers: Vec<Source>) -> Result<Self, StoreError> {
        let count = readers.len();
        let mut merge = Self { readers, values: vec![None; count], heap: BinaryHeap::with_capacity(count) };
        for file in 0..count {
            merge.advance(file)?;
        }
        Ok(merge)
    }

    fn advance(&mut self, file: usize) -> Result<(), StoreError> {
        if let Some(Entry { keyspace, key, value }) = self.readers[file].next()? {
            self.values[file] = value;
            self.heap.push(Reverse((keyspace, key, Reverse(file))));
        }
        Ok(())
    }

    /// The next entry that is not deleted. `None` once every file was read to its end and found whole.
    pub(super) fn next(&mut self) -> Result<Option<(Keyspace, Bytes, Bytes)>, StoreError> {
        while let Some(Reverse((keyspace, key, Reverse(file)))) = self.heap.pop() {
            let value = self.values[file].take();
            self.advance(file)?;
            while let Some(Reverse((other_keyspace, other_key, Reverse(older)))) = self.heap.peek() {
                if *other_keyspace != keyspace || *other_key != key {
                    break;
                }
                let older = *older;
                self.heap.pop();
                self.advance(older)?;
            }
            if let Some(value) = value {
                return Ok(Some((keyspace, key, value)));
            }
        }
        Ok(None)
    }
}
