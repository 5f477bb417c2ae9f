//! Contract of the lake store: whole objects, replaced conditionally.

use async_trait::async_trait;
use bytes::Bytes;

pub use crate::error::StoreError;

/// Version of an object: opaque, compared for equality only (an ETag, or length and hash of the tail).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ObjectVersion(pub String);

/// What a conditional replace expects to find.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Expected {
    /// No object at the path.
    Absent,
    /// Exactly this version.
    Version(ObjectVersion),
}

/// An object in a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObjectMeta {
    /// Path relative to the store's root, `/`-separated.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
}

/// One version of an object, held open: it can be read to its end however often the path is replaced meanwhile.
#[async_trait]
pub trait PinnedObject: Send + Sync + std::fmt::Debug + 'static {
    /// Size in bytes.
    fn bytes(&self) -> u64;

    /// Reads a byte range, which must lie inside the object.
    async fn read(&self, range: std::ops::Range<u64>) -> Result<Bytes, StoreError>;
}

/// A store of whole objects.
///
/// - `replace` is atomic and durable: a reader sees the old object or the new one, never a mixture, and after Ok the new
///   one survives a power cut. If what stands at the path is not what was expected it is [`StoreError::Conflict`] and
///   nothing changed. After any other error the object may be the old or the new one: read again.
/// - `list` returns the objects whose path starts with the prefix, sorted; a replace under way shows the old or the new
///   object, never a temporary one.
/// - Paths are relative, without `..`, empty or hidden parts; anything else is [`StoreError::Invalid`].
#[async_trait]
pub trait LakeStore: Send + Sync + std::fmt::Debug + 'static {
    /// The object and its version; `None` if there is none.
    async fn get(&self, path: &str) -> Result<Option<(Bytes, ObjectVersion)>, StoreError>;

    /// Opens one version of the object for reading; `None` if there is none.
    async fn open(&self, path: &str) -> Result<Option<std::sync::Arc<dyn PinnedObject>>, StoreError>;

    /// Creates or replaces the object.
    async fn replace(&self, path: &str, expected: &Expected, content: Bytes) -> Result<ObjectVersion, StoreError>;

    /// Deletes the object; Ok if there was none.
    async fn delete(&self, path: &str) -> Result<(), StoreError>;

    /// Lists objects below a prefix.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError>;

    /// Names of the folders directly below `prefix`, which ends with `/`, sorted: the next parts of the paths of objects
    /// that lie deeper. A folder without objects may be among them. A store that can look at one level alone does so.
    async fn folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let below = self.list(prefix).await?;
        let names = below.iter().filter_map(|object| object.path.strip_prefix(prefix)?.split_once('/'));
        let names: std::collections::BTreeSet<&str> = names.map(|(name, _)| name).collect();
        Ok(names.into_iter().map(str::to_owned).collect())
    }
}
