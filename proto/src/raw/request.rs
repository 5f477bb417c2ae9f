//! `tidegauge.ingest.v1.PublishRequest` in place, its rows one by one.

use std::borrow::Cow;

use super::columns::pair;
use super::wire::{Fields, Malformed, join, text};

/// A request in place: its parts are found, rows and columns not yet read.
#[derive(Clone, Debug)]
pub struct RequestView<'a> {
    message: &'a [u8],
    /// `producer_id`.
    pub producer_id: &'a [u8],
    /// `sequence`.
    pub sequence: u64,
    /// `mode`.
    pub mode: i32,
    /// Number of `events`.
    pub rows: usize,
    /// Encoded `columns`.
    pub columns: Option<Cow<'a, [u8]>>,
}

impl<'a> RequestView<'a> {
    /// Finds the parts of an encoded message.
    ///
    /// # Errors
    /// [`Malformed`]; inside of rows and columns is looked later.
    pub fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut view = Self { message, producer_id: &[], sequence: 0, mode: 0, rows: 0, columns: None };
        let mut fields = Fields::of(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => view.producer_id = value.bytes()?,
                2 => view.sequence = value.varint()?,
                3 => view.mode = value.varint()? as i32,
                4 => {
                    value.bytes()?;
                    view.rows += 1;
                }
                5 => join(&mut view.columns, value.bytes()?)?,
                _ => {}
            }
        }
        Ok(view)
    }

    /// The request inside an encoded `PublishStreamRequest`; an absent one is empty.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn of_stream(message: &'a [u8]) -> Result<Cow<'a, [u8]>, Malformed> {
        let mut request = None;
        let mut fields = Fields::of(message);
        while let Some((number, value)) = fields.next()? {
            if number == 1 {
                join(&mut request, value.bytes()?)?;
            }
        }
        Ok(request.unwrap_or_default())
    }

    /// The payloads of `events` and `columns` as sent, in order, with their field numbers: what a digest of the
    /// request's events covers.
    pub fn content(&self) -> impl Iterator<Item = (u32, &'a [u8])> + use<'a> {
        let mut fields = Fields::of(self.message);
        std::iter::from_fn(move || {
            // The message has been walked once: there is no error left.
            while let Ok(Some((number, value))) = fields.next() {
                if let (4 | 5, Ok(bytes)) = (number, value.bytes()) {
                    return Some((number, bytes));
                }
            }
            None
        })
    }

    /// The rows in order.
    pub fn rows(&self) -> impl Iterator<Item = Result<Row<'a>, Malformed>> + use<'a> {
        let events = self.content().filter(|(number, _)| *number == 4);
        events.map(|(_, event)| Row::parse(event))
    }
}

/// An `Event` in place. Texts are bytes: whoever meets one for the first time checks with [`Row::text`] that it is
/// UTF-8, so that a text that occurs in many rows is checked once.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Row<'a> {
    /// `tenant_id`.
    pub tenant_id: &'a [u8],
    /// `event_type`.
    pub event_type: &'a [u8],
    /// `timestamp`: seconds and nanos.
    pub timestamp: Option<(i64, i32)>,
    /// `metric_name`.
    pub metric_name: &'a [u8],
    /// `metric_value`.
    pub metric_value: f64,
    /// `source`.
    pub source: &'a [u8],
    /// `version`.
    pub version: &'a [u8],
    /// `dimensions` as they came: equal bytes are equal dimensions.
    pub dimensions: RowDimensions<'a>,
}

/// The dimensions of a row in their encoded form.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RowDimensions<'a> {
    /// From the first entry of the map to the last; other fields may stand between.
    pub encoded: &'a [u8],
}

impl<'a> Row<'a> {
    fn parse(event: &'a [u8]) -> Result<Self, Malformed> {
        let mut row = Self::default();
        let mut dimensions: Option<(usize, usize)> = None;
        let mut fields = Fields::of(event);
        let mut start = 0;
        while let Some((number, value)) = fields.next()? {
            let end = event.len() - fields.remaining();
            match number {
                1 => replace(&mut row.tenant_id, value.bytes()?)?,
                2 => replace(&mut row.event_type, value.bytes()?)?,
                3 => row.timestamp = Some(timestamp(row.timestamp.unwrap_or_default(), value.bytes()?)?),
                4 => replace(&mut row.metric_name, value.bytes()?)?,
                5 => row.metric_value = f64::from_le_bytes(value.fixed64()?),
                6 => {
                    value.bytes()?;
                    dimensions = Some((dimensions.map_or(start, |(first, _)| first), end));
                }
                7 => replace(&mut row.source, value.bytes()?)?,
                8 => replace(&mut row.version, value.bytes()?)?,
                _ => {}
            }
            start = end;
        }
        if let Some((first, end)) = dimensions {
            row.dimensions.encoded = &event[first..end];
        }
        Ok(row)
    }

    /// Checks that a text of the row is UTF-8.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn text(bytes: &'a [u8]) -> Result<&'a str, Malformed> {
        text(bytes)
    }
}

impl<'a> RowDimensions<'a> {
    /// The entries of the map in the order sent; a key that stands twice counts with its last value.
    pub fn entries(self) -> impl Iterator<Item = Result<(&'a str, &'a str), Malformed>> {
        let mut fields = Fields::of(self.encoded);
        std::iter::from_fn(move || {
            loop {
                match fields.next() {
                    Ok(Some((6, value))) => return Some(value.bytes().and_then(pair)),
                    Ok(Some(_)) => {}
                    Ok(None) => return None,
                    Err(error) => return Some(Err(error)),
                }
            }
        })
    }
}

/// The last of several values counts, but each must be UTF-8.
#[inline]
fn replace<'a>(place: &mut &'a [u8], bytes: &'a [u8]) -> Result<(), Malformed> {
    if !place.is_empty() {
        text(place)?;
    }
    *place = bytes;
    Ok(())
}

fn timestamp((mut seconds, mut nanos): (i64, i32), message: &[u8]) -> Result<(i64, i32), Malformed> {
    let mut fields = Fields::of(message);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => seconds = value.varint()? as i64,
            2 => nanos = value.varint()? as i32,
            _ => {}
        }
    }
    Ok((seconds, nanos))
}
