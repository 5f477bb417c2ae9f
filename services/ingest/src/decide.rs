//! What becomes of a request: pure functions over values, without async, clock or I/O.
//!
//! [`request`] checks a request as a whole, [`rows`] and [`columns`] judge its events one by one, [`records`] makes log
//! records of those that were accepted. [`quota`], [`order`] and [`recent`] decide over a tenant's requests.

pub mod columns;
pub mod draft;
pub mod interner;
pub mod order;
pub mod quota;
pub mod recent;
pub mod records;
pub mod request;
pub mod rows;
pub mod rules;

#[cfg(test)]
mod tests;

use tidegauge_core::event::IndexRange;
use tidegauge_core::limits;
use tidegauge_proto::raw::ColumnsView;

use self::draft::Draft;
use self::rules::Refusal;

/// The verdicts over a request's events.
#[derive(Debug)]
pub struct Decision<'a> {
    /// Events in the request.
    pub received: u32,
    /// Those that were refused, in order of their index.
    pub rejected: Vec<(u32, Refusal)>,
    /// Original indexes of those that were accepted.
    pub indexes: Vec<IndexRange>,
    /// Those that were accepted.
    pub accepted: Accepted<'a>,
}

impl Decision<'_> {
    /// Number of accepted events.
    pub fn accepted_len(&self) -> u32 {
        self.received - self.rejected.len() as u32
    }
}

/// Accepted events as columns.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one value a request, never moved far")]
pub enum Accepted<'a> {
    /// All of the columns that were sent: their own bytes can stand on the log.
    AsSent {
        /// The encoded columns.
        message: &'a [u8],
        /// The same, in place.
        view: &'a ColumnsView<'a>,
    },
    /// New columns.
    Built(Draft<'a>),
}

/// Collects the verdicts over refused events, in order of their index.
#[derive(Debug, Default)]
pub(crate) struct Verdicts {
    refused: Vec<(u32, Refusal)>,
    text_bytes: usize,
}

impl Verdicts {
    /// Behind [`limits::VERDICT_TEXT_BYTES_MAX`] of texts a verdict goes without one; field and reason stay.
    pub(crate) fn push(&mut self, index: u32, mut refusal: Refusal) {
        self.text_bytes += refusal.message.len();
        if self.text_bytes > limits::VERDICT_TEXT_BYTES_MAX {
            refusal.message = String::new();
        }
        self.refused.push((index, refusal));
    }

    pub(crate) fn into_refused(self) -> Vec<(u32, Refusal)> {
        self.refused
    }
}

/// Collects original indexes as ranges.
#[derive(Debug, Default)]
pub(crate) struct Indexes(Vec<IndexRange>);

impl Indexes {
    pub(crate) fn push(&mut self, index: u32) {
        match self.0.last_mut() {
            Some(last) if last.first + last.count == index => last.count += 1,
            _ => self.0.push(IndexRange { first: index, count: 1 }),
        }
    }

    pub(crate) fn into_ranges(self) -> Vec<IndexRange> {
        self.0
    }
}
