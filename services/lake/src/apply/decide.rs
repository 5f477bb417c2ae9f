//! The decision about one object: skip, write or refuse. Pure.

use bytes::Bytes;
use tidegauge_core::ids::{Epoch, Key};
use tidegauge_core::lake::{Expected, ObjectVersion};
use tidegauge_core::scope::ScopedTenant;
use tidegauge_core::time::Hour;

use super::{ApplyError, Standing, expected};
use crate::footer::Footer;
use crate::merge::merge_rows;
use crate::object::{self, ObjectError};
use crate::row::AggregatedRow;

/// The object to write: one hour of a key.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The tenant.
    pub tenant: &'a ScopedTenant,
    /// The bucket of the tenant.
    pub bucket: u32,
    /// The hour.
    pub hour: Hour,
}

/// Rows that one epoch adds to an object: deltas.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The epoch that first carried the rows.
    pub epoch: Epoch,
    /// The rows.
    pub rows: &'a [AggregatedRow],
}

/// An object as it stands in the store, decoded.
#[derive(Clone, PartialEq, Debug)]
pub struct Current {
    /// Its rows.
    pub rows: Vec<AggregatedRow>,
    /// Its footer.
    pub footer: Footer,
    /// Its size.
    pub bytes: u64,
    /// Its version.
    pub version: ObjectVersion,
}

/// What to do with an object.
#[derive(Clone, PartialEq, Debug)]
pub enum Plan {
    /// Everything is in it already.
    Skip(Current),
    /// Replace it.
    Write {
        /// What must stand at the path.
        expected: Expected,
        /// The new object.
        content: Bytes,
        /// Its rows.
        rows: Vec<AggregatedRow>,
    },
}

/// Decides what to do: checks that object and writer belong together, merges the parts above the object's footer in the
/// order of their epochs, and encodes. Takes processor time (about a millisecond for an ordinary hour), no I/O.
///
/// # Errors
/// [`ApplyError`], never [`ApplyError::Store`].
pub fn plan(
    target: &Target<'_>,
    current: Option<Current>,
    parts: &[Part<'_>],
    footer: &Footer,
) -> Result<Plan, ApplyError> {
    check_parts(target, parts, footer)?;
    if let Some(current) = &current {
        check_standing(target, &current.footer, footer)?;
    }
    let applied = current.as_ref().map_or(0, |current| current.footer.epoch);
    let mut waiting: Vec<&Part<'_>> =
        parts.iter().filter(|part| part.epoch > applied && !part.rows.is_empty()).collect();
    let current = match current {
        Some(current) if waiting.is_empty() => return Ok(Plan::Skip(current)),
        other => other,
    };
    if waiting.is_empty() {
        return Err(ApplyError::Invalid { path: target.path(), why: "there are no rows to apply".to_owned() });
    }
    waiting.sort_by_key(|part| part.epoch);
    let expected = expected(current.as_ref());
    let existing = current.map_or_else(Vec::new, |current| current.rows);
    let rows = waiting.into_iter().fold(existing, |rows, part| merge_rows(rows, part.rows));
    let content = object::encode(&rows, footer).map_err(|source| match source {
        ObjectError::Invalid(why) => ApplyError::Invalid { path: target.path(), why },
        other => ApplyError::Unreadable { path: target.path(), source: other },
    })?;
    Ok(Plan::Write { expected, content, rows })
}

/// Checks what the caller brings.
fn check_parts(target: &Target<'_>, parts: &[Part<'_>], footer: &Footer) -> Result<(), ApplyError> {
    let invalid = |why: String| Err(ApplyError::Invalid { path: target.path(), why });
    let key = Key { tenant: target.tenant.id().clone(), bucket: target.bucket };
    if footer.key != key {
        return invalid(format!("the footer to write is for {}, the object is of {key}", footer.key));
    }
    if let Some(part) = parts.iter().find(|part| part.epoch > footer.epoch) {
        return invalid(format!("rows of epoch {} under a footer of epoch {}", part.epoch, footer.epoch));
    }
    let next_hour_ns = Hour(target.hour.0 + 1).start_ns();
    let inside = |row: &AggregatedRow| {
        Hour::of(row.start_ns) == target.hour && row.start_ns < row.end_ns && row.end_ns <= next_hour_ns
    };
    match parts.iter().flat_map(|part| part.rows).find(|row| !inside(row)) {
        Some(row) => invalid(format!("the window of row {:?} is not inside the hour {}", row.order(), target.hour)),
        None => Ok(()),
    }
}

/// Checks that the object in the store is one that this writer may continue.
fn check_standing(target: &Target<'_>, found: &Footer, ours: &Footer) -> Result<(), ApplyError> {
    let path = target.path();
    if found.key != ours.key {
        return Err(ApplyError::WrongKey { path, found: found.key.clone(), ours: ours.key.clone() });
    }
    if found.lineage != ours.lineage {
        return Err(ApplyError::ForeignLineage { path, found: found.lineage, ours: ours.lineage });
    }
    // In one history epoch, ordinal and generation rise together, and an epoch has one ordinal. Anything else is a
    // history that was cut back and went on differently.
    let same_epoch = found.epoch == ours.epoch;
    let ahead = found.epoch > ours.epoch || found.ordinal > ours.ordinal || found.generation > ours.generation;
    if ahead || (same_epoch && found.ordinal != ours.ordinal) {
        return Err(ApplyError::Ahead { path, found: standing(found), ours: standing(ours) });
    }
    Ok(())
}

fn standing(footer: &Footer) -> Standing {
    Standing { epoch: footer.epoch, ordinal: footer.ordinal, generation: footer.generation }
}
