//! What a start finds: the end of the log, a torn tail to cut, or damage that refuses the start.
//!
//! The rule (I1): a tail is torn only if the file ends inside a record or whole sectors of it were never written.
//! A commit is written and synced before the next one begins, so only the last commit can be torn: a record further on
//! whose commit began later proves that the place was durable, and then it is damage. So is everything else that does
//! not check. Zeros written ahead end the log; what follows them must be zero as well, or be the rest of one torn commit.

use std::io;
use std::path::Path;

use tidegauge_core::log::StoreError;

use super::format::{self, Found, RECORD_HEADER_BYTES, RecordHeader, SECTOR_BYTES, SEGMENT_HEADER_BYTES};
use super::segment::{damaged, failed};
use super::tally::Tally;
use super::window::Window;
use crate::files::FileHandle;

/// Bytes read at once.
const WINDOW_BYTES: usize = 1 << 20;

const ZERO_SECTOR: [u8; SECTOR_BYTES as usize] = [0; SECTOR_BYTES as usize];

/// The end of the last segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct End {
    /// Offset after the last whole record.
    pub(super) offset: u64,
    /// Whether what follows is a torn tail, to be cut.
    pub(super) torn: bool,
}

/// Checks every record of the last segment, which begins at position `base`, and finds its end; counts whose its bytes are.
pub(super) fn find_end(file: &dyn FileHandle, path: &Path, base: u64, tally: &mut Tally) -> Result<End, StoreError> {
    let io_failed = |error| failed("read", path, error);
    let bytes = file.len().map_err(io_failed)?;
    let mut window = Window::new(file, bytes, WINDOW_BYTES);
    let mut offset = SEGMENT_HEADER_BYTES as u64;
    let mut wanted = RECORD_HEADER_BYTES;
    loop {
        let position = base + offset - SEGMENT_HEADER_BYTES as u64;
        let found_bytes = window.at(offset, wanted).map_err(io_failed)?;
        let sign = match format::examine(found_bytes, position, offset) {
            Found::Record(header) => {
                tally.add(header.key_of(found_bytes), header.stored_bytes() as u64);
                offset += header.stored_bytes() as u64;
                wanted = RECORD_HEADER_BYTES;
                continue;
            }
            Found::Needs(needed) if found_bytes.len() >= wanted => {
                wanted = needed;
                continue;
            }
            Found::Needs(_) if found_bytes.is_empty() => return Ok(End { offset, torn: false }),
            Found::Needs(_) => Sign::FileEnds,
            Found::Nothing => Sign::NoHeader,
            Found::BadContent { sectors_missing: true, .. } => Sign::SectorsMissing,
            Found::BadContent { sectors_missing: false, .. } => {
                return Err(damaged(path, offset, "the checksum of the record is wrong"));
            }
            Found::BadHeader => return Err(damaged(path, offset, "the checksum of the record's header is wrong")),
        };
        let rest = survey(&mut window, offset, position).map_err(io_failed)?;
        return match judge(sign, &rest) {
            Ok(torn) => Ok(End { offset, torn }),
            Err(what) => Err(damaged(path, offset, what)),
        };
    }
}

/// Why a tail may be torn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sign {
    FileEnds,
    NoHeader,
    SectorsMissing,
}

/// What stands from a doubtful place to the end of the file.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Rest {
    /// Some bit is set.
    any: bool,
    /// Some bit is set in the sector of the place itself.
    in_first_sector: bool,
    /// Some sector has more than one bit set.
    written: bool,
    /// A record stands there whose commit began after the place.
    later_commit: bool,
}

/// Whether the tail is torn (true) or simply the end (false).
///
/// # Errors
/// Why it is damage.
fn judge(sign: Sign, rest: &Rest) -> Result<bool, &'static str> {
    if rest.later_commit {
        return Err("records are missing here, and later ones show that they were durable");
    }
    match sign {
        Sign::NoHeader if !rest.any => Ok(false),
        Sign::NoHeader if rest.in_first_sector => Err("the log ends here, but bytes follow in the same sector"),
        Sign::NoHeader if !rest.written => Err("the log ends here, but single bits are set behind it"),
        Sign::NoHeader | Sign::FileEnds | Sign::SectorsMissing => Ok(true),
    }
}

fn survey(window: &mut Window<'_>, offset: u64, position: u64) -> io::Result<Rest> {
    let mut rest = Rest::default();
    let mut from = offset;
    while from < window.bytes {
        let sector_at = from;
        let to = (from / SECTOR_BYTES + 1) * SECTOR_BYTES;
        let sector = window.at(from, (to - from) as usize)?;
        from = to;
        // Nearly always: zeros written ahead, millions of them at every start.
        if *sector == ZERO_SECTOR[..sector.len()] {
            continue;
        }
        let bits: u32 = sector.iter().map(|byte| byte.count_ones()).sum();
        rest.any = true;
        rest.in_first_sector |= sector_at == offset;
        rest.written |= bits > 1;
        for (index, header) in sector.chunks_exact(format::ALIGN).enumerate() {
            let here = position + (sector_at - offset) + (index * format::ALIGN) as u64;
            let later = RecordHeader::decode(header, here).is_some_and(|header| header.commit_start > position);
            rest.later_commit |= later;
        }
    }
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Torn is only what a single unsynced commit can leave; everything else is damage or the plain end.
    #[test]
    fn torn_only_what_one_commit_can_leave() {
        let nothing = Rest::default();
        let written = Rest { any: true, in_first_sector: false, written: true, later_commit: false };
        assert_eq!(judge(Sign::NoHeader, &nothing), Ok(false));
        assert_eq!(judge(Sign::NoHeader, &written), Ok(true));
        assert_eq!(judge(Sign::SectorsMissing, &written), Ok(true));
        assert_eq!(judge(Sign::FileEnds, &nothing), Ok(true));
        assert!(judge(Sign::NoHeader, &Rest { in_first_sector: true, ..written }).is_err());
        assert!(judge(Sign::NoHeader, &Rest { written: false, ..written }).is_err());
        for sign in [Sign::NoHeader, Sign::SectorsMissing, Sign::FileEnds] {
            assert!(judge(sign, &Rest { later_commit: true, ..written }).is_err());
        }
    }
}
