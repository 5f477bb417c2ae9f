//! Bytes of a segment file. All numbers are little endian, every checksum is CRC32C.
//!
//! ```text
//! segment  = header (512) record* zero*          zeros: written ahead, never part of a sealed segment
//! header   = magic "TGLOGSEG" (8) version (4) shard (4) base position (8) created, Unix ns (8) zeros checksum (4)
//! record   = payload length (3) key length (1) zero pieces (2) light pieces (2) distance to its commit's start (4)
//!            header checksum (4)
//!            key payload zeros checksum (4)      padded to a multiple of 16 bytes; the zeros stand before the checksum
//! ```
//! A position counts the bytes of records since the shard began; a record at position `p` lies at file offset
//! `512 + p - base`. Both checksums of a record cover its position too, so a block that lands in a wrong place is noticed.
//!
//! Three fields serve the rule for a torn tail (I1). Sectors of 512 bytes reach the disk whole or not at all, and a place
//! that was not written is zero, since segments are never recycled. *Zero pieces* and *light pieces* count the sectors of
//! the record that hold no bit, and at most one bit, by nature. A damaged record that has more of both lost sectors; a
//! single changed bit never raises both. *Distance to its commit's start* tells which records were written after which
//! sync: a record whose commit began after a place proves that the place was durable. Records are aligned so that no
//! header spans sectors.

use tidegauge_core::ShardId;
use tidegauge_core::limits::RECORD_BYTES_MAX;

/// Bytes of a segment's header.
pub(super) const SEGMENT_HEADER_BYTES: usize = 512;
/// Bytes of a record's header.
pub(super) const RECORD_HEADER_BYTES: usize = 16;
/// Bytes of a record's trailing checksum.
const TRAILER_BYTES: usize = 4;
/// Bytes of the longest key: its length is one byte.
pub(super) const KEY_BYTES_MAX: usize = 255;
/// Records start and end at multiples of this.
pub(super) const ALIGN: usize = 16;
/// The unit that a disk writes whole or not at all.
pub(super) const SECTOR_BYTES: u64 = 512;

const MAGIC: &[u8; 8] = b"TGLOGSEG";
const VERSION: u32 = 1;
const ZEROS: [u8; ALIGN] = [0; ALIGN];

/// Header of a segment file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SegmentHeader {
    pub(super) shard: ShardId,
    pub(super) base: u64,
    pub(super) created_ns: i64,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.shard.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.base.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.created_ns.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..SEGMENT_HEADER_BYTES - 4]);
        bytes[SEGMENT_HEADER_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// # Errors
    /// What is wrong with it.
    pub(super) fn decode(bytes: &[u8; SEGMENT_HEADER_BYTES]) -> Result<Self, String> {
        if crc32c::crc32c(&bytes[..SEGMENT_HEADER_BYTES - 4]) != u32_at(bytes, SEGMENT_HEADER_BYTES - 4) {
            return Err("the checksum of the segment's header is wrong".to_owned());
        }
        if &bytes[..8] != MAGIC {
            return Err("this is not a segment file".to_owned());
        }
        match u32_at(bytes, 8) {
            VERSION => Ok(Self {
                shard: ShardId(u32_at(bytes, 12)),
                base: u64_at(bytes, 16),
                created_ns: u64_at(bytes, 24).cast_signed(),
            }),
            version => Err(format!("format version {version} is not known here, only {VERSION}")),
        }
    }
}

/// Bytes that a record takes in the file.
pub(super) const fn stored_bytes(key_bytes: usize, payload_bytes: usize) -> usize {
    (RECORD_HEADER_BYTES + key_bytes + payload_bytes + TRAILER_BYTES).next_multiple_of(ALIGN)
}

/// Checksum of key and payload; made by the caller of `append`, off the writer's thread.
pub(super) fn content_checksum(key: &[u8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), payload)
}

/// Where a record is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Position of its first byte.
    pub(super) position: u64,
    /// Offset in the file.
    pub(super) offset: u64,
    /// Position at which the commit that writes it starts.
    pub(super) commit_start: u64,
}

/// What goes around key and payload: the header before them, padding and checksum after them.
pub(super) struct Envelope {
    pub(super) header: [u8; RECORD_HEADER_BYTES],
    tail: [u8; ALIGN + TRAILER_BYTES],
    tail_bytes: usize,
}

impl Envelope {
    pub(super) fn new(place: Place, key: &[u8], payload: &[u8], content_checksum: u32) -> Self {
        let padding = padding_bytes(key.len(), payload.len());
        let mut tail = [0; ALIGN + TRAILER_BYTES];
        let trailer = trailer(content_checksum, padding, place.position);
        tail[padding..padding + TRAILER_BYTES].copy_from_slice(&trailer.to_le_bytes());
        let tail_bytes = padding + TRAILER_BYTES;
        let pieces = Pieces::count(place.offset, &[key, payload, &tail[..tail_bytes]]);

        let mut header = [0; RECORD_HEADER_BYTES];
        header[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        header[3] = key.len() as u8;
        header[4..6].copy_from_slice(&pieces.zero.to_le_bytes());
        header[6..8].copy_from_slice(&pieces.light.to_le_bytes());
        header[8..12].copy_from_slice(&((place.position - place.commit_start) as u32).to_le_bytes());
        let checksum = header_checksum(&header, place.position);
        header[12..].copy_from_slice(&checksum.to_le_bytes());
        Self { header, tail, tail_bytes }
    }

    pub(super) fn tail(&self) -> &[u8] {
        &self.tail[..self.tail_bytes]
    }
}

/// What a record's header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RecordHeader {
    pub(super) payload_bytes: usize,
    pub(super) key_bytes: usize,
    pieces: Pieces,
    /// Position at which the commit that wrote it started.
    pub(super) commit_start: u64,
}

impl RecordHeader {
    /// The header at the front of `bytes` (at least [`RECORD_HEADER_BYTES`]), if it is one of this position.
    pub(super) fn decode(bytes: &[u8], position: u64) -> Option<Self> {
        let distance = u64::from(u32_at(bytes, 8));
        if header_checksum(bytes, position) != u32_at(bytes, 12) || distance > position {
            return None;
        }
        let header = Self {
            payload_bytes: (u32_at(bytes, 0) & 0xFF_FFFF) as usize,
            key_bytes: usize::from(bytes[3]),
            pieces: Pieces {
                zero: u16::from_le_bytes([bytes[4], bytes[5]]),
                light: u16::from_le_bytes([bytes[6], bytes[7]]),
            },
            commit_start: position - distance,
        };
        (header.key_bytes > 0 && header.key_bytes + header.payload_bytes <= RECORD_BYTES_MAX).then_some(header)
    }

    /// The key in the bytes of the record, which must hold it.
    pub(super) fn key_of<'a>(&self, record: &'a [u8]) -> &'a [u8] {
        record.get(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + self.key_bytes).unwrap_or_default()
    }

    pub(super) fn stored_bytes(&self) -> usize {
        stored_bytes(self.key_bytes, self.payload_bytes)
    }
}

/// What stands at a place of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// A whole record with its key at `[16, 16 + key_bytes)`, its payload after it.
    Record(RecordHeader),
    /// The bytes given end inside the record; this many are needed.
    Needs(usize),
    /// A zero header: the end of the log, or a sector that was never written.
    Nothing,
    /// A header that was changed after it was written.
    BadHeader,
    /// The checksum over the content is wrong; `sectors_missing` if whole sectors were never written.
    BadContent {
        /// The record's header.
        header: RecordHeader,
        /// Whether more of its sectors are zero than by nature.
        sectors_missing: bool,
    },
}

impl Found {
    /// What is wrong with this where a whole record has to stand, and all of its bytes were given; `None` for a record.
    pub(super) fn fault(&self) -> Option<&'static str> {
        match self {
            Self::Record(_) => None,
            Self::Needs(_) => Some("the segment ends inside a record"),
            Self::Nothing => Some("zeros stand where a record was"),
            Self::BadHeader => Some("the checksum of the record's header is wrong"),
            Self::BadContent { .. } => Some("the checksum of the record is wrong"),
        }
    }
}

/// Examines the bytes at `position`, which lies at `offset` of its file.
pub(super) fn examine(bytes: &[u8], position: u64, offset: u64) -> Found {
    if bytes.len() < RECORD_HEADER_BYTES {
        return Found::Needs(RECORD_HEADER_BYTES);
    }
    if bytes[..RECORD_HEADER_BYTES] == ZEROS {
        return Found::Nothing;
    }
    let Some(header) = RecordHeader::decode(bytes, position) else {
        return Found::BadHeader;
    };
    let stored = header.stored_bytes();
    if bytes.len() < stored {
        return Found::Needs(stored);
    }
    let body = &bytes[RECORD_HEADER_BYTES..stored];
    let (content, tail) = body.split_at(header.key_bytes + header.payload_bytes);
    let padding = tail.len() - TRAILER_BYTES;
    let expected = trailer(crc32c::crc32c(content), padding, position);
    if tail[..padding].iter().all(|byte| *byte == 0) && expected == u32_at(tail, padding) {
        return Found::Record(header);
    }
    let now = Pieces::count(offset, &[body]);
    let sectors_missing = now.zero > header.pieces.zero && now.light > header.pieces.light;
    Found::BadContent { header, sectors_missing }
}

fn padding_bytes(key_bytes: usize, payload_bytes: usize) -> usize {
    stored_bytes(key_bytes, payload_bytes) - RECORD_HEADER_BYTES - key_bytes - payload_bytes - TRAILER_BYTES
}

fn trailer(content_checksum: u32, padding: usize, position: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(content_checksum, &ZEROS[..padding]), &position.to_le_bytes())
}

fn header_checksum(header: &[u8], position: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &position.to_le_bytes())
}

/// Sectors of a record after its first one, which holds the header and so is never zero.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Pieces {
    /// Without a bit.
    zero: u16,
    /// With at most one bit.
    light: u16,
}

impl Pieces {
    /// Counts them in the record at `offset`, of which `body` follows the header, in parts.
    fn count(offset: u64, body: &[&[u8]]) -> Self {
        let body_bytes: usize = body.iter().map(|part| part.len()).sum();
        let first_sector_left = SECTOR_BYTES - offset % SECTOR_BYTES;
        let mut from = first_sector_left as usize - RECORD_HEADER_BYTES;
        let mut pieces = Self::default();
        while from < body_bytes {
            let to = (from + SECTOR_BYTES as usize).min(body_bytes);
            let bits = bits_up_to_two(body, from, to);
            pieces.zero += u16::from(bits == 0);
            pieces.light += u16::from(bits <= 1);
            from = to;
        }
        pieces
    }
}

/// Bits set in a range of parts; stops counting at the second, which most sectors have in their first bytes.
fn bits_up_to_two(parts: &[&[u8]], from: usize, to: usize) -> u32 {
    let mut bits = 0;
    let mut part_start = 0;
    for part in parts {
        let start = from.saturating_sub(part_start).min(part.len());
        let end = to.saturating_sub(part_start).min(part.len());
        for byte in &part[start..end] {
            bits += byte.count_ones();
            if bits > 1 {
                return 2;
            }
        }
        part_start += part.len();
    }
    bits
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(place: Place, key: &[u8], payload: &[u8]) -> Vec<u8> {
        let envelope = Envelope::new(place, key, payload, content_checksum(key, payload));
        [&envelope.header, key, payload, envelope.tail()].concat()
    }

    /// The bytes of a record and of a segment header are fixed: a change of the format must change its version.
    #[test]
    fn the_format_is_what_it_was() {
        let place = Place { position: 4_096, offset: 512, commit_start: 4_000 };
        let bytes = record(place, b"tenant-001#3", b"payload");
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text, GOLDEN_RECORD);
        let header = SegmentHeader { shard: ShardId(3), base: 4_096, created_ns: 1_700_000_000_000_000_000 };
        assert_eq!(crc32c::crc32c(&header.encode()[..508]), GOLDEN_HEADER_CHECKSUM);
        assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
    }

    const GOLDEN_RECORD: &str =
        "0700000c000000006000000056b2207c74656e616e742d30303123337061796c6f6164000000000000000000a3a9f171";
    const GOLDEN_HEADER_CHECKSUM: u32 = 1_104_791_509;

    /// A record that lost any sector after its first is told from one in which a bit was changed, whatever its
    /// payload: noise, zeros, or sectors with a single bit.
    #[test]
    fn lost_sectors_are_told_from_changed_bits() {
        let noise: Vec<u8> = (0..3_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8 | 1).collect();
        let mut sparse = vec![0; 3_000];
        sparse[1_100] = 4;
        let place = Place { position: 496, offset: 1_008, commit_start: 0 };
        for payload in [noise, vec![0; 3_000], sparse] {
            let whole = record(place, b"t", &payload);
            assert!(matches!(examine(&whole, place.position, place.offset), Found::Record(_)));
            for bit in 0..whole.len() * 8 {
                let mut changed = whole.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                let found = examine(&changed, place.position, place.offset);
                let noticed = matches!(found, Found::BadHeader | Found::BadContent { sectors_missing: false, .. });
                assert!(noticed, "bit {bit}: {found:?}");
            }
            for start in (16..whole.len()).step_by(512) {
                let mut torn = whole.clone();
                let end = (start + 512).min(torn.len());
                let bits: u32 = torn[start..end].iter().map(|byte| byte.count_ones()).sum();
                torn[start..end].fill(0);
                let found = examine(&torn, place.position, place.offset);
                match bits {
                    0 => assert!(matches!(found, Found::Record(_)), "nothing was lost at {start}"),
                    // One bit alone could as well have been changed: on the safe side, not torn.
                    1 => assert!(matches!(found, Found::BadContent { sectors_missing: false, .. })),
                    _ => {
                        assert!(matches!(found, Found::BadContent { sectors_missing: true, .. }), "{start}: {found:?}")
                    }
                }
            }
        }
    }

    /// The same bytes at another position are no record.
    #[test]
    fn a_record_belongs_to_its_position() {
        let place = Place { position: 0, offset: 512, commit_start: 0 };
        let bytes = record(place, b"t", b"payload");
        assert_eq!(examine(&bytes, 16, 528), Found::BadHeader);
    }
}
