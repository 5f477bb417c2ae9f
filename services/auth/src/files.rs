//! Small files: read whole, written whole, private ones with mode 0600.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use crate::AuthError;
use crate::key::random_hex;

/// Bytes of a rules or key file: some hundred thousand lines; more belongs into a service of its own.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// How a file looked from outside; another look means that it may have changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Look {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_ns: i128,
    changed_ns: i128,
}

impl Look {
    /// Looks at a file; `None` when it is not there.
    pub(crate) fn at(path: &Path) -> Result<Option<Self>, AuthError> {
        match fs::metadata(path) {
            Ok(metadata) => Ok(Some(Self {
                device: metadata.dev(),
                inode: metadata.ino(),
                bytes: metadata.len(),
                modified_ns: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
                changed_ns: i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec()),
            })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(AuthError::io("looking at", path, error)),
        }
    }

    /// Whether the file was last written well before `wall_ns`: one written just now could be written again within
    /// the same tick of the file system's clock and look the same.
    pub(crate) fn settled(&self, wall_ns: i64) -> bool {
        self.modified_ns.max(self.changed_ns) + 2_000_000_000 < i128::from(wall_ns)
    }
}

/// Reads a file that may be readable by others.
pub(crate) fn read(path: &Path) -> Result<String, AuthError> {
    let file = File::open(path).map_err(|error| AuthError::io("opening", path, error))?;
    read_from(file, path)
}

/// Reads a file with secrets; refuses one that others may read.
pub(crate) fn read_private(path: &Path) -> Result<String, AuthError> {
    let file = File::open(path).map_err(|error| AuthError::io("opening", path, error))?;
    let metadata = file.metadata().map_err(|error| AuthError::io("looking at", path, error))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(AuthError::Mode { path: path.to_owned(), mode });
    }
    read_from(file, path)
}

fn read_from(file: File, path: &Path) -> Result<String, AuthError> {
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| AuthError::io("reading", path, error))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(AuthError::invalid(path, None, format!("is larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// Makes the folder for secrets, if it is not there.
pub(crate) fn make_private_folder(path: &Path) -> Result<(), AuthError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| AuthError::io("making", path, error))
}

/// Whether a written file may take the place of one that is there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Only an empty place: whoever comes second finds the first one's file.
    Empty,
    /// Replaces what is there.
    Any,
}

/// Writes a private file, whole or not at all, and makes it durable. False when the place was taken.
pub(crate) fn write_private(path: &Path, text: &str, place: Place) -> Result<bool, AuthError> {
    let io = |doing, error| AuthError::io(doing, path, error);
    let folder = path.parent().unwrap_or(Path::new("."));
    let aside = path.with_extension(format!("{}.tmp", random_hex::<8>()?));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&aside)
        .map_err(|error| io("writing", error))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|error| io("writing", error))?;
    let placed = match place {
        Place::Any => fs::rename(&aside, path).map(|()| true),
        Place::Empty => match fs::hard_link(&aside, path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        },
    };
    if place == Place::Empty {
        let _ = fs::remove_file(&aside);
    }
    let placed = placed.map_err(|error| io("placing", error))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| io("syncing the folder of", error))?;
    Ok(placed)
}
