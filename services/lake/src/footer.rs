//! The footer: what an hour object says about itself.

use parquet::file::metadata::{KeyValue, ParquetMetaData};
use serde::{Deserialize, Serialize};
use tidegauge_core::ids::{Epoch, Key, LineageId, Ordinal, TenantId};

use crate::object::ObjectError;

/// Key of the footer in the Parquet file's key-value metadata.
pub const FOOTER_KEY: &str = "tidegauge.footer";

/// Format of the footer's text.
const FORMAT: u32 = 1;

/// Up to where an object is complete, and who wrote it. Stands as JSON in the Parquet key-value metadata under
/// [`FOOTER_KEY`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Footer {
    /// The history of checkpoints that the epochs below belong to.
    pub lineage: LineageId,
    /// Every epoch of the lineage up to this one is in the object.
    pub epoch: Epoch,
    /// Ordinal of the last record of that epoch: the corrections of records up to it may be in.
    pub ordinal: Ordinal,
    /// Lease generation of the writer.
    pub generation: u64,
    /// Whose rows these are.
    pub key: Key,
    /// Version of the row schema; see [`crate::SCHEMA_VERSION`].
    pub schema_version: u32,
}

/// The persisted form. Fields may be added; meanings never change within a format.
#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    tenant: TenantId,
    bucket: u32,
    lineage: String,
    epoch: Epoch,
    ordinal: Ordinal,
    generation: u64,
    schema_version: u32,
}

impl Footer {
    /// The entry of the key-value metadata.
    pub(crate) fn to_key_value(&self) -> Result<KeyValue, ObjectError> {
        let stored = Stored {
            format: FORMAT,
            tenant: self.key.tenant.clone(),
            bucket: self.key.bucket,
            lineage: self.lineage.to_string(),
            epoch: self.epoch,
            ordinal: self.ordinal,
            generation: self.generation,
            schema_version: self.schema_version,
        };
        let text = serde_json::to_string(&stored).map_err(|e| ObjectError::Footer(e.to_string()))?;
        Ok(KeyValue::new(FOOTER_KEY.to_owned(), text))
    }

    /// Reads the footer of a Parquet file.
    ///
    /// # Errors
    /// [`ObjectError::Footer`] when there is none or it cannot be read, [`ObjectError::Newer`] for a later format.
    pub fn of(metadata: &ParquetMetaData) -> Result<Self, ObjectError> {
        let text = key_value(metadata, FOOTER_KEY)
            .ok_or_else(|| ObjectError::Footer(format!("has no {FOOTER_KEY}: not written by tidegauge")))?;
        let stored: Stored = serde_json::from_str(text).map_err(|e| ObjectError::Footer(e.to_string()))?;
        if stored.format > FORMAT {
            return Err(ObjectError::Newer { what: "footer format", found: stored.format, known: FORMAT });
        }
        let lineage = stored
            .lineage
            .parse()
            .map_err(|_| ObjectError::Footer(format!("has {:?} where a lineage id should stand", stored.lineage)))?;
        Ok(Self {
            lineage,
            epoch: stored.epoch,
            ordinal: stored.ordinal,
            generation: stored.generation,
            key: Key { tenant: stored.tenant, bucket: stored.bucket },
            schema_version: stored.schema_version,
        })
    }
}

/// The text under a key of the key-value metadata.
pub(crate) fn key_value<'a>(metadata: &'a ParquetMetaData, key: &str) -> Option<&'a str> {
    let entries = metadata.file_metadata().key_value_metadata()?;
    entries.iter().find(|entry| entry.key == key)?.value.as_deref()
}
