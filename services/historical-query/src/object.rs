//! Reading hour objects: each is opened once an execution, and the version it shows then is the one that is read.

mod decode;
mod ranges;

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool};
use futures::stream::{self, BoxStream, StreamExt as _};
use tidegauge_core::lake::{LakeStore, PinnedObject, StoreError};
use tidegauge_lake::index::IndexEntry;
use tidegauge_lake::{Footer, ObjectError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::cache::ByteCache;
use crate::decide::seam::{self, Part};
use crate::error::{Abort, of_engine};
use crate::snapshot::{KeyState, Snapshot};

pub(crate) use decode::projected;
use decode::{Shape, decode_all, decode_some};

/// Objects up to this size are read in one go.
const WHOLE_BYTES_MAX: u64 = 8 << 20;
/// The end of an object that identifies its version: it holds the footer with the hash of the data.
const TAIL_BYTES: u64 = 64 << 10;

/// Rows of an object, as the caller wants them.
pub(crate) type Rows = BoxStream<'static, Result<RecordBatch, Abort>>;

/// Version of an object: its length, and the hash of its last 64 KiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Version {
    bytes: u64,
    tail: u64,
}

/// One version of an object, found by the first scan of an execution.
#[derive(Debug)]
pub(crate) struct Opened {
    version: Version,
    /// Held open until the execution ends, unless too many are.
    held: Option<(Arc<dyn PinnedObject>, OwnedSemaphorePermit)>,
    /// For the first reader alone: what is open and read already.
    first: Mutex<Option<(Arc<dyn PinnedObject>, Bytes)>>,
}

/// A decoded object: all columns of the table.
#[derive(Clone, Debug)]
struct Decoded {
    version: Version,
    footer: Arc<Footer>,
    batches: Option<Arc<[RecordBatch]>>,
}

/// Opens and reads objects; keeps decoded ones.
#[derive(Debug)]
pub(crate) struct Objects {
    store: Arc<dyn LakeStore>,
    /// By path; good for one version.
    decoded: ByteCache<String, Decoded>,
    cache_bytes: usize,
    pins: Arc<Semaphore>,
}

/// One object as a scan needs it.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) key: Arc<KeyState>,
    pub(crate) entry: IndexEntry,
    pub(crate) part: Part,
}

impl Wanted {
    fn unreadable(&self, error: &dyn std::fmt::Display) -> Abort {
        tracing::warn!(path = %self.entry.path, %error, "an hour object cannot be read");
        Abort::Unreadable(self.key.key.clone(), "an hour")
    }

    fn broken(&self, error: &ObjectError) -> Abort {
        self.unreadable(error)
    }
}

impl Objects {
    pub(crate) fn new(store: Arc<dyn LakeStore>, cache_bytes: usize, pinned_objects: usize) -> Self {
        let pins = Arc::new(Semaphore::new(pinned_objects.max(1)));
        Self { store, decoded: ByteCache::new(cache_bytes), cache_bytes, pins }
    }

    /// Opens an object for the execution, or finds it opened.
    ///
    /// # Errors
    /// [`Abort::SeamMoved`] when it holds more than the snapshot, [`Abort::Unreadable`].
    pub(crate) async fn open(&self, snapshot: &Snapshot, wanted: &Wanted) -> Result<Arc<Opened>, Abort> {
        let cell = snapshot.pin(&wanted.entry.path);
        cell.get_or_try_init(|| self.open_now(wanted)).await.cloned()
    }

    async fn open_now(&self, wanted: &Wanted) -> Result<Arc<Opened>, Abort> {
        metrics::counter!("tidegauge_query_objects_opened_total").increment(1);
        let (object, version, tail) = self.version_now(wanted).await?;
        let footer = self.footer(wanted, version, &object, &tail).await?;
        if footer.key != wanted.key.key {
            return Err(wanted.unreadable(&"its footer names another key"));
        }
        if seam::beyond(&wanted.key.meta, footer.generation, footer.ordinal, footer.epoch) {
            return Err(Abort::SeamMoved(wanted.key.key.clone()));
        }
        // Without a permit the object is opened again when it is read, and must then be the same version.
        let held = Arc::clone(&self.pins).try_acquire_owned().ok().map(|permit| (Arc::clone(&object), permit));
        let first = held.is_some().then_some((object, tail));
        Ok(Arc::new(Opened { version, held, first: Mutex::new(first) }))
    }

    async fn version_now(&self, wanted: &Wanted) -> Result<(Arc<dyn PinnedObject>, Version, Bytes), Abort> {
        let failed = |error: StoreError| wanted.unreadable(&error);
        let object = self.store.open(&wanted.entry.path).await.map_err(failed)?;
        let object = object.ok_or_else(|| wanted.unreadable(&"the index names it, but it is not there"))?;
        let bytes = object.bytes();
        let tail = object.read(bytes.saturating_sub(TAIL_BYTES)..bytes).await.map_err(failed)?;
        let version = Version { bytes, tail: twox_hash::XxHash3_64::oneshot(&tail) };
        Ok((object, version, tail))
    }

    async fn footer(
        &self,
        wanted: &Wanted,
        version: Version,
        object: &Arc<dyn PinnedObject>,
        tail: &Bytes,
    ) -> Result<Arc<Footer>, Abort> {
        if let Some(known) = self.decoded.get(&wanted.entry.path).filter(|known| known.version == version) {
            return Ok(known.footer);
        }
        let read = Tail { object: Arc::clone(object), tail: tail.clone() };
        let metadata = tidegauge_lake::object::read_metadata(&read).await.map_err(|error| wanted.unreadable(&error))?;
        let footer = metadata.and_then(|metadata| tidegauge_lake::object::footer_of(&metadata));
        let footer = Arc::new(footer.map_err(|error| wanted.broken(&error))?);
        let entry = Decoded { version, footer: Arc::clone(&footer), batches: None };
        self.decoded.insert(wanted.entry.path.clone(), entry, 512 + wanted.entry.path.len());
        Ok(footer)
    }

    /// The rows of an object that lie below the boundary, as the wanted columns.
    ///
    /// # Errors
    /// As [`Objects::open`]; in the stream [`Abort::Unreadable`] and [`Abort::SeamMoved`].
    pub(crate) async fn rows(
        &self,
        snapshot: &Snapshot,
        wanted: &Wanted,
        columns: &Arc<[usize]>,
        memory: &Arc<dyn MemoryPool>,
    ) -> Result<Rows, Abort> {
        let opened = self.open(snapshot, wanted).await?;
        let shape = Shape::new(wanted, Arc::clone(columns));
        let cached = self.decoded.get(&wanted.entry.path).filter(|known| known.version == opened.version);
        if let Some(batches) = cached.as_ref().and_then(|known| known.batches.clone()) {
            metrics::counter!("tidegauge_query_cache_hits_total").increment(1);
            return Ok(shaped(batches, shape));
        }
        metrics::counter!("tidegauge_query_cache_misses_total").increment(1);
        metrics::counter!("tidegauge_query_scanned_bytes_total").increment(opened.version.bytes);
        let (object, tail) = self.content(wanted, &opened).await?;
        let bytes = opened.version.bytes;
        if bytes > WHOLE_BYTES_MAX {
            return ranges::rows(object, wanted.clone(), shape).await;
        }

        let reservation = MemoryConsumer::new("hour object").register(memory);
        let size = usize::try_from(bytes).unwrap_or(usize::MAX);
        reservation.try_grow(size).map_err(|error| of_engine(&error))?;
        let content = match tail {
            Some(tail) if tail.len() as u64 == bytes => tail,
            _ => object.read(0..bytes).await.map_err(|error| wanted.unreadable(&error))?,
        };
        let (metadata, footer) = decode::open(&content).map_err(|error| wanted.broken(&error))?;
        let rows = metadata.metadata().file_metadata().num_rows();
        let decoded_bytes = usize::try_from(rows).unwrap_or(usize::MAX).saturating_mul(decode::ROW_BYTES);
        if decoded_bytes > self.cache_bytes / 16 {
            let stream = decode_some(content, metadata, shape, wanted.clone())?;
            let holding = move |batch| {
                // The content lives as long as the stream.
                let _ = &reservation;
                batch
            };
            return Ok(stream.map(holding).boxed());
        }
        let batches = decode_all(content, metadata, wanted).map_err(|error| wanted.broken(&error))?;
        let size = batches.iter().map(RecordBatch::get_array_memory_size).sum::<usize>() + 512;
        let entry = Decoded { version: opened.version, footer: Arc::new(footer), batches: Some(Arc::clone(&batches)) };
        self.decoded.insert(wanted.entry.path.clone(), entry, size);
        metrics::gauge!("tidegauge_query_cache_bytes").set(self.decoded.bytes() as f64);
        Ok(shaped(batches, shape))
    }

    /// The open object, with its end if that is at hand. Opened again if it could not be held; then it must still be
    /// the same version.
    async fn content(&self, wanted: &Wanted, opened: &Opened) -> Result<(Arc<dyn PinnedObject>, Option<Bytes>), Abort> {
        if let Some((object, tail)) = opened.first.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Ok((object, Some(tail)));
        }
        if let Some((object, _)) = &opened.held {
            return Ok((Arc::clone(object), None));
        }
        let (object, version, tail) = self.version_now(wanted).await?;
        if version != opened.version {
            return Err(Abort::SeamMoved(wanted.key.key.clone()));
        }
        Ok((object, Some(tail)))
    }
}

fn shaped(batches: Arc<[RecordBatch]>, shape: Shape) -> Rows {
    let count = batches.len();
    stream::iter((0..count).map(move |at| shape.of_table(&batches[at]))).boxed()
}

/// An object whose end was read already.
#[derive(Debug)]
struct Tail {
    object: Arc<dyn PinnedObject>,
    tail: Bytes,
}

#[async_trait]
impl PinnedObject for Tail {
    fn bytes(&self) -> u64 {
        self.object.bytes()
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes, StoreError> {
        let tail_start = self.bytes() - self.tail.len() as u64;
        match range.start.checked_sub(tail_start) {
            Some(from) => Ok(self.tail.slice(from as usize..(range.end - tail_start) as usize)),
            None => self.object.read(range).await,
        }
    }
}
