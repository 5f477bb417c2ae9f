//! The manifest: where a shard stands and which files hold its entries. Replacing it is the compare-and-set of every
//! write.
//!
//! One line of JSON, then one line with its CRC32C, both exactly as written: any other byte is damage.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidegauge_core::checkpoint::Progress;
use tidegauge_core::ids::{Epoch, LineageId, Ordinal};
use tidegauge_core::log::Position;

/// Version of the manifest and of the files it names.
const FORMAT: u32 = 1;

/// A file of entries.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct DataFile {
    /// Name in the shard's directory.
    pub(super) name: String,
    /// Of a delta the epoch; of a base the last one that it covers.
    pub(super) epoch: Epoch,
    /// Length.
    pub(super) bytes: u64,
    /// CRC32C of all bytes.
    pub(super) crc32c: u32,
}

/// State of a shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Manifest {
    pub(super) generation: u64,
    pub(super) progress: Progress,
    pub(super) base: Option<DataFile>,
    /// Deltas after the base, in the order of their epochs.
    pub(super) deltas: Vec<DataFile>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    lineage: String,
    generation: u64,
    prepared: Epoch,
    completed: Epoch,
    position: String,
    ordinal: Ordinal,
    base: Option<DataFile>,
    deltas: Vec<DataFile>,
}

impl Manifest {
    /// The manifest of a history that begins.
    pub(super) fn new(lineage: LineageId) -> Self {
        let progress = Progress { lineage, prepared: 0, completed: 0, position: Position::start(), ordinal: 0 };
        Self { generation: 0, progress, base: None, deltas: Vec::new() }
    }

    /// All files named, oldest first.
    pub(super) fn files(&self) -> impl Iterator<Item = &DataFile> {
        self.base.iter().chain(&self.deltas)
    }

    /// Whether a file of the directory is in use.
    pub(super) fn names(&self, name: &str) -> bool {
        self.files().any(|file| file.name == name)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let stored = Stored {
            format: FORMAT,
            lineage: self.progress.lineage.to_string(),
            generation: self.generation,
            prepared: self.progress.prepared,
            completed: self.progress.completed,
            position: hex(&self.progress.position.0),
            ordinal: self.progress.ordinal,
            base: self.base.clone(),
            deltas: self.deltas.clone(),
        };
        let mut text = serde_json::to_string(&stored).expect("numbers and texts are always JSON");
        text.push('\n');
        let checksum = checksum_line(text.as_bytes());
        (text + &checksum).into_bytes()
    }

    /// Reads a manifest; the error says what is wrong with it.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let end = bytes.iter().position(|&b| b == b'\n').ok_or("it has no end of line")? + 1;
        let (text, checksum) = bytes.split_at(end);
        if checksum != checksum_line(text).as_bytes() {
            return Err("its checksum does not match".to_owned());
        }
        let stored: Stored = serde_json::from_slice(text).map_err(|e| format!("it cannot be read: {e}"))?;
        if stored.format != FORMAT {
            return Err(format!("it has format {}, this program reads {FORMAT}", stored.format));
        }
        let lineage = stored.lineage.parse().map_err(|_| "its lineage is no number".to_owned())?;
        let position = unhex(&stored.position).ok_or("its position is no hexadecimal text")?;
        let progress = Progress {
            lineage,
            prepared: stored.prepared,
            completed: stored.completed,
            position: Position(Bytes::from(position)),
            ordinal: stored.ordinal,
        };
        Ok(Self { generation: stored.generation, progress, base: stored.base, deltas: stored.deltas })
    }
}

fn checksum_line(text: &[u8]) -> String {
    format!("crc32c {:08x}\n", crc32c::crc32c(text))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden: stored manifests must stay readable.
    #[test]
    fn the_layout_stays() {
        let file = |name: &str, epoch| DataFile { name: name.to_owned(), epoch, bytes: 9, crc32c: 7 };
        let mut manifest = Manifest::new(LineageId(0xAB));
        manifest.generation = 3;
        manifest.progress.prepared = 2;
        manifest.progress.completed = 1;
        manifest.progress.ordinal = 12;
        manifest.progress.position = Position(Bytes::from_static(&[0, 255]));
        manifest.base = Some(file("base", 1));
        manifest.deltas = vec![file("delta", 2)];
        let text = concat!(
            r#"{"format":1,"lineage":"000000000000000000000000000000ab","generation":3,"prepared":2,"completed":1,"#,
            r#""position":"00ff","ordinal":12,"base":{"name":"base","epoch":1,"bytes":9,"crc32c":7},"#,
            r#""deltas":[{"name":"delta","epoch":2,"bytes":9,"crc32c":7}]}"#,
            "\n"
        );
        let encoded = String::from_utf8(manifest.encode()).expect("text");
        assert_eq!(encoded.strip_prefix(text).map(str::len), Some("crc32c 00000000\n".len()), "{encoded}");
        assert_eq!(Manifest::decode(encoded.as_bytes()), Ok(manifest));
    }
}
