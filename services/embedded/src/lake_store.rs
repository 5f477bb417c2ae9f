//! The lake store on a local directory.
//!
//! - **Replace**: the new object is written under a temporary name and synced (`fdatasync`); then, under the lock of its
//!   path, the version that stands there is checked, the new file renamed over it and the directory synced. So a reader
//!   sees the old object or the new one, and an Ok survives a power cut. Temporary files live in one hidden directory,
//!   `.tmp`, of the same file system: what a crash leaves is removed at the next open without a walk over the lake.
//! - **Version**: length and xxh3-128 of the last 64 KiB, where the footer of a Parquet file stands.
//! - **Pinned**: an open descriptor; a file that was renamed over or deleted stays readable through it.
//! - **Durable reads**: after a crash of the process (not of the machine) a rename may be visible but not durable yet, and a
//!   writer that sees its epoch in an object would not write it again. So a writer's `get` syncs a directory before its
//!   first answer from it.
//!
//! A directory that cannot be synced after a rename aborts the process: nobody knows what is durable (I1).
//!
//! One process writes a lake ([`LocalLakeStore::open`], guarded by the lock of the data directory); any number read it
//! ([`LocalLakeStore::open_reader`]).

mod directories;
mod list;
mod path;
mod probe;
mod version;
mod write;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tidegauge_core::descriptors::DescriptorBudget;
use tidegauge_core::lake::{Expected, LakeStore, ObjectMeta, ObjectVersion, PinnedObject, StoreError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use probe::{Probe, Step};

use self::write::Writer;

/// A [`LakeStore`] on a local directory.
#[derive(Clone, Debug)]
pub struct LocalLakeStore {
    root: Arc<PathBuf>,
    /// Absent in a store that only reads.
    writer: Option<Arc<Writer>>,
    descriptors: Descriptors,
}

/// The descriptors that a store may use: everything waits for its own, so that none is taken from others.
#[derive(Clone, Debug)]
struct Descriptors {
    /// Of operations that end by themselves.
    operations: Arc<Semaphore>,
    /// Of objects that a caller holds open, for as long as it likes.
    objects: Arc<Semaphore>,
}

impl Descriptors {
    /// At most so many at once: an object being written or deleted takes its file, its directory, and the file that it
    /// replaces; a listing has a directory of each level open.
    const PER_OPERATION: u32 = 3;
    const PER_LISTING: u32 = 9;
    /// How long a caller waits for others to close their objects. They may be waiting too, for objects of their own: then
    /// somebody must give up.
    const OBJECT_WAIT: Duration = Duration::from_secs(2);

    fn of(budget: &DescriptorBudget) -> Self {
        let operations = budget.lake_writes.max(Self::PER_LISTING as usize);
        let (operations, objects) = (Semaphore::new(operations), Semaphore::new(budget.lake_objects.max(1)));
        Self { operations: Arc::new(operations), objects: Arc::new(objects) }
    }

    async fn operation(&self, descriptors: u32) -> Result<OwnedSemaphorePermit, StoreError> {
        Arc::clone(&self.operations).acquire_many_owned(descriptors).await.map_err(|_| closed())
    }

    async fn object(&self) -> Result<OwnedSemaphorePermit, StoreError> {
        let place = Arc::clone(&self.objects).acquire_owned();
        match tokio::time::timeout(Self::OBJECT_WAIT, place).await {
            Ok(place) => place.map_err(|_| closed()),
            Err(_) => Err(StoreError::Unavailable("queries hold as many lake objects open as there may be".to_owned())),
        }
    }
}

/// Never: the semaphores are not closed.
fn closed() -> StoreError {
    StoreError::Unavailable("the lake is closed".to_owned())
}

impl LocalLakeStore {
    /// Opens the lake for reading and writing; makes the directory if there is none and removes what a crash left. The
    /// caller holds the lock of the data directory: two writers would remove each other's temporary files.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the directory cannot be made, read or synced.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        Self::open_probed(root, Arc::new(()))
    }

    /// As [`LocalLakeStore::open`], within a budget of descriptors.
    ///
    /// # Errors
    /// As [`LocalLakeStore::open`].
    pub fn open_within(root: impl Into<PathBuf>, budget: &DescriptorBudget) -> Result<Self, StoreError> {
        Ok(Self { descriptors: Descriptors::of(budget), ..Self::open(root)? })
    }

    /// As [`LocalLakeStore::open`], with a probe before every step of a write; for tests of crashes and full disks.
    ///
    /// # Errors
    /// As [`LocalLakeStore::open`].
    pub fn open_probed(root: impl Into<PathBuf>, probe: Arc<dyn Probe>) -> Result<Self, StoreError> {
        let root = Arc::new(root.into());
        let writer = Writer::open(root.clone(), probe)?;
        Ok(Self { root, writer: Some(Arc::new(writer)), descriptors: Descriptors::of(&DescriptorBudget::default()) })
    }

    /// Opens a lake that another process writes. Takes no lock and changes nothing; writes are
    /// [`StoreError::Invalid`]. The directory need not exist yet.
    pub fn open_reader(root: impl Into<PathBuf>) -> Self {
        let descriptors = Descriptors::of(&DescriptorBudget::default());
        Self { root: Arc::new(root.into()), writer: None, descriptors }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn writer(&self) -> Result<Arc<Writer>, StoreError> {
        self.writer
            .clone()
            .ok_or_else(|| StoreError::Invalid(format!("the lake {} is open for reading only", self.root.display())))
    }
}

#[async_trait]
impl LakeStore for LocalLakeStore {
    async fn get(&self, path: &str) -> Result<Option<(Bytes, ObjectVersion)>, StoreError> {
        path::check(path)?;
        let file = self.root.join(path);
        let writer = self.writer.clone();
        let place = self.descriptors.operation(Descriptors::PER_OPERATION).await?;
        blocking(move || {
            let _place = place;
            if let (Some(writer), Some(directory)) = (writer, file.parent()) {
                writer.make_durable(directory)?;
            }
            let Some(file) = open_file(&file)? else {
                return Ok(None);
            };
            let content = file.read(0..file.bytes)?;
            let version = version::of_content(&content);
            Ok(Some((content, version)))
        })
        .await
    }

    async fn open(&self, path: &str) -> Result<Option<Arc<dyn PinnedObject>>, StoreError> {
        path::check(path)?;
        let file = self.root.join(path);
        let place = self.descriptors.object().await?;
        let opened = blocking(move || open_file(&file)).await?;
        Ok(opened.map(|file| Arc::new(Pinned { file: Arc::new(file), _place: place }) as Arc<dyn PinnedObject>))
    }

    async fn replace(&self, path: &str, expected: &Expected, content: Bytes) -> Result<ObjectVersion, StoreError> {
        path::check(path)?;
        let writer = self.writer()?;
        let (path, expected) = (path.to_owned(), expected.clone());
        let place = self.descriptors.operation(Descriptors::PER_OPERATION).await?;
        blocking(move || {
            let _place = place;
            writer.replace(&path, &expected, &content)
        })
        .await
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        path::check(path)?;
        let writer = self.writer()?;
        let path = path.to_owned();
        let place = self.descriptors.operation(Descriptors::PER_OPERATION).await?;
        blocking(move || {
            let _place = place;
            writer.delete(&path)
        })
        .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        path::check_prefix(prefix)?;
        let (root, prefix) = (self.root.clone(), prefix.to_owned());
        let place = self.descriptors.operation(Descriptors::PER_LISTING).await?;
        blocking(move || {
            let _place = place;
            list::objects(&root, &prefix)
        })
        .await
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        path::check_prefix(prefix)?;
        let directory = self.root.join(prefix);
        blocking(move || list::folders(&directory)).await
    }
}

/// An open object file. Its content never changes: replacing puts another file at the path.
#[derive(Debug)]
struct ObjectFile {
    file: File,
    path: PathBuf,
    bytes: u64,
}

impl ObjectFile {
    fn read(&self, range: Range<u64>) -> Result<Bytes, StoreError> {
        let inside = range.start <= range.end && range.end <= self.bytes;
        let length = usize::try_from(range.end.wrapping_sub(range.start)).ok().filter(|_| inside);
        let Some(length) = length else {
            let (path, bytes) = (self.path.display(), self.bytes);
            return Err(StoreError::Invalid(format!("bytes {range:?} of {path}, which has {bytes}")));
        };
        let mut content = vec![0; length];
        match self.file.read_exact_at(&mut content, range.start) {
            Ok(()) => Ok(content.into()),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                Err(StoreError::Corrupt(format!("{} was cut while it was open", self.path.display())))
            }
            Err(e) => Err(StoreError::io(format!("reading {}", self.path.display()), e)),
        }
    }
}

/// Opens an object; `None` if there is none.
fn open_file(path: &Path) -> Result<Option<ObjectFile>, StoreError> {
    let opened = File::open(path).and_then(|file| file.metadata().map(|metadata| (file, metadata)));
    match opened {
        Ok((file, metadata)) if metadata.is_file() => {
            Ok(Some(ObjectFile { file, path: path.to_owned(), bytes: metadata.len() }))
        }
        // A directory is no object; neither is anything below a file.
        Ok(_) => Ok(None),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(StoreError::io(format!("opening {}", path.display()), e)),
    }
}

#[derive(Debug)]
struct Pinned {
    file: Arc<ObjectFile>,
    _place: OwnedSemaphorePermit,
}

#[async_trait]
impl PinnedObject for Pinned {
    fn bytes(&self) -> u64 {
        self.file.bytes
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes, StoreError> {
        let file = self.file.clone();
        blocking(move || file.read(range)).await
    }
}

/// Runs blocking work on a thread made for it.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        Err(_) => Err(StoreError::Unavailable("the process is shutting down".to_owned())),
    }
}
