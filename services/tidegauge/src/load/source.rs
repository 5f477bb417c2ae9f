//! A file as its content: as it stands, or unpacked on the way. Offsets are those of the content.
//!
//! What a file is packed with is told by its first bytes, whatever its name is. Unpacked bytes are kept only as far as
//! somebody may go back to them; whoever goes back further waits until the file has been unpacked from its start again.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

/// Packed bytes read at once.
const PACKED_READ_BYTES: usize = 256 << 10;
/// Bytes unpacked at once where they are passed over.
const SKIP_BYTES: usize = 256 << 10;

/// How far whoever reads in order goes back: over a record of a table.
pub(crate) const BACK_IN_ORDER: usize = 2 << 20;
/// How far apart the lines are that a server refuses, more or less in the order of the file: as many bytes as are on their
/// way at a time.
pub(crate) const BACK_TO_REFUSED: usize = 32 << 20;

/// How a file is packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Packing {
    Gzip,
    Zstd,
}

impl Packing {
    /// Of a file that begins with these bytes.
    fn of(first: &[u8]) -> Option<Self> {
        match first {
            [0x1F, 0x8B, ..] => Some(Self::Gzip),
            // A frame; or one that is to be skipped, with which parallel programs begin.
            [0x28, 0xB5, 0x2F, 0xFD, ..] | [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..] => Some(Self::Zstd),
            _ => None,
        }
    }
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

/// The content of a file.
#[derive(Debug)]
pub(crate) enum Source {
    /// As it stands.
    Plain(File),
    /// Unpacked.
    Packed(Box<Packed>),
}

impl Source {
    /// Opens a file; going back so many bytes costs nothing.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn open(path: &Path, back_max: usize) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut first = Vec::new();
        (&mut file).take(4).read_to_end(&mut first)?;
        file.rewind()?;
        match Packing::of(&first) {
            None => Ok(Self::Plain(file)),
            Some(packing) => Packed::new(file, packing, back_max).map(|packed| Self::Packed(Box::new(packed))),
        }
    }

    /// Whether it is unpacked on the way.
    #[cfg(test)]
    pub(crate) fn is_packed(&self) -> bool {
        matches!(self, Self::Packed(_))
    }

    /// Length of the content. What is packed is unpacked to its end: a file that breaks off, or is damaged, is told before
    /// anything of it is sent.
    ///
    /// # Errors
    /// I/O errors, and what is wrong with the file.
    pub(crate) fn measure(path: &Path) -> io::Result<u64> {
        match Self::open(path, 0)? {
            Self::Plain(file) => Ok(file.metadata()?.len()),
            Self::Packed(mut packed) => packed.skip_to(u64::MAX).map(|()| packed.unpacked),
        }
    }
}

impl Read for Source {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(out),
            Self::Packed(packed) => packed.read(out),
        }
    }
}

impl Seek for Source {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match (self, to) {
            (Self::Plain(file), to) => file.seek(to),
            (Self::Packed(packed), SeekFrom::Start(to)) => packed.seek(to),
            (Self::Packed(_), _) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// A packed file.
pub(crate) struct Packed {
    file: File,
    /// Bytes of the file when it was opened: what is added to it meanwhile is not of this load.
    bytes: u64,
    packing: Packing,
    unpacker: Box<dyn Read + Send>,
    /// Bytes of the content that have been unpacked.
    unpacked: u64,
    /// Offset of what is read next.
    at: u64,
    /// The end of what has been unpacked.
    recent: Vec<u8>,
    back_max: usize,
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packed").field("packing", &self.packing).field("at", &self.at).finish_non_exhaustive()
    }
}

/// A part of a file, read without moving anybody else's place in it.
struct Part {
    file: File,
    at: u64,
    end: u64,
}

impl Read for Part {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let room = out.len().min(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut out[..room], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

fn unpacker(file: &File, bytes: u64, packing: Packing) -> io::Result<Box<dyn Read + Send>> {
    let part = Part { file: file.try_clone()?, at: 0, end: bytes };
    let part = BufReader::with_capacity(PACKED_READ_BYTES, part);
    Ok(match packing {
        Packing::Gzip => Box::new(MultiGzDecoder::new(part)),
        // It takes at most 128 MiB, which is what it refuses larger windows for.
        Packing::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(part)?),
    })
}

impl Packed {
    fn new(file: File, packing: Packing, back_max: usize) -> io::Result<Self> {
        let bytes = file.metadata()?.len();
        let unpacker = unpacker(&file, bytes, packing)?;
        Ok(Self { file, bytes, packing, unpacker, unpacked: 0, at: 0, recent: Vec::new(), back_max })
    }

    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let back = self.unpacked - self.at;
        if back > 0 {
            // A seek has made sure that it is still there.
            let from = self.recent.len() - back as usize;
            let read = (&self.recent[from..]).read(out)?;
            self.at += read as u64;
            return Ok(read);
        }
        let read = self.unpack(out)?;
        self.at = self.unpacked;
        Ok(read)
    }

    fn unpack(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.unpacker.read(out).map_err(|error| self.broken(&error))?;
        self.unpacked += read as u64;
        if self.back_max > 0 {
            if self.recent.len() + read > 2 * self.back_max.max(read) {
                self.recent.drain(..self.recent.len().saturating_sub(self.back_max));
            }
            self.recent.extend_from_slice(&out[..read]);
        }
        Ok(read)
    }

    fn broken(&self, error: &io::Error) -> io::Error {
        let packing = self.packing;
        let problem = match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                format!("the {packing} file breaks off, after {} bytes of its content", self.unpacked)
            }
            _ => format!("the {packing} file cannot be unpacked after {} bytes of its content: {error}", self.unpacked),
        };
        io::Error::new(io::ErrorKind::InvalidData, problem)
    }

    fn seek(&mut self, to: u64) -> io::Result<u64> {
        if to < self.unpacked - self.recent.len() as u64 {
            self.unpacker = unpacker(&self.file, self.bytes, self.packing)?;
            self.unpacked = 0;
            self.recent.clear();
        }
        self.skip_to(to)?;
        self.at = to.min(self.unpacked);
        Ok(self.at)
    }

    fn skip_to(&mut self, to: u64) -> io::Result<()> {
        let mut skipped = vec![0; if to > self.unpacked { SKIP_BYTES } else { 0 }];
        while self.unpacked < to {
            let wanted = skipped.len().min(usize::try_from(to - self.unpacked).unwrap_or(usize::MAX));
            if self.unpack(&mut skipped[..wanted])? == 0 {
                break;
            }
        }
        self.at = self.unpacked;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::path::PathBuf;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use tempfile::TempDir;

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        zstd::stream::encode_all(text, 1).unwrap()
    }

    fn write(folder: &TempDir, bytes: &[u8]) -> PathBuf {
        let path = folder.path().join("whatever.csv");
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn text() -> Vec<u8> {
        (0..200_000_u32).flat_map(|i| format!("{i} {}\n", i.wrapping_mul(2_654_435_761)).into_bytes()).collect()
    }

    /// Content is content, whatever the file is called, in one member or in many; any place of it can be read.
    #[test]
    fn content_is_the_same_however_it_is_packed() {
        let (folder, text) = (TempDir::new().unwrap(), text());
        let halves = text.split_at(text.len() / 3);
        let skipped = [&[0x50, 0x2A, 0x4D, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstd(&text)].concat();
        for packed in [
            text.clone(),
            gzip(&text),
            [gzip(halves.0), gzip(b""), gzip(halves.1)].concat(),
            zstd(&text),
            [zstd(halves.0), zstd(halves.1)].concat(),
            skipped,
        ] {
            let path = write(&folder, &packed);
            assert_eq!(Source::measure(&path).unwrap(), text.len() as u64);
            let mut source = Source::open(&path, 100_000).unwrap();
            assert_eq!(source.is_packed(), packed != text);
            let (mut all, mut part) = (Vec::new(), [0; 10_000]);
            loop {
                let read = source.read(&mut part).unwrap();
                all.extend_from_slice(&part[..read]);
                if read == 0 {
                    break;
                }
            }
            assert!(all == text);
            let end = text.len() as u64;
            for from in [end - 1, end - 90_000, 5, 1_000_000, 950_000, 0, end, 300_000] {
                source.seek(SeekFrom::Start(from)).unwrap();
                let mut part = Vec::new();
                (&mut source).take(250_000).read_to_end(&mut part).unwrap();
                let from = from as usize;
                assert!(part == text[from..text.len().min(from + 250_000)], "from {from}");
            }
            if let Source::Packed(packed) = &source {
                assert!(packed.recent.capacity() < 2_000_000, "{}", packed.recent.capacity());
            }
        }
    }

    /// A file that breaks off anywhere, or has a wrong byte, is told before it is loaded.
    #[test]
    fn what_is_damaged_is_told() {
        let (folder, text) = (TempDir::new().unwrap(), &text()[..100_000]);
        for whole in [gzip(text), zstd::stream::encode_all(text, 19).unwrap()] {
            for length in [5, 20, whole.len() / 2, whole.len() - 5, whole.len() - 1] {
                let told = Source::measure(&write(&folder, &whole[..length])).unwrap_err().to_string();
                assert!(told.contains("breaks off"), "{length} of {}: {told}", whole.len());
            }
            let followed = [&whole[..], b"garbage"].concat();
            assert!(Source::measure(&write(&folder, &followed)).is_err());
        }
        // gzip has a check of its content; zstd only where it was asked for.
        let mut wrong = gzip(text);
        let middle = wrong.len() / 2;
        wrong[middle] ^= 0x10;
        let told = Source::measure(&write(&folder, &wrong)).unwrap_err().to_string();
        assert!(told.contains("cannot be unpacked") || told.contains("breaks off"), "{told}");
    }
}
