//! Reading the protobuf wire format in place. Accepts and refuses exactly what prost does.

use std::borrow::Cow;
use std::str;

/// Why bytes are no message of their type.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not the protobuf message it should be: {0}")]
pub struct Malformed(pub(crate) &'static str);

const TRUNCATED: Malformed = Malformed("it ends inside a field");

/// Nesting of unknown groups that is skipped; as prost's limit, less the depth of our own messages.
const GROUP_DEPTH_MAX: u32 = 96;

/// The value of one field.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
    Fixed32,
    Group,
}

impl<'a> Value<'a> {
    #[inline]
    pub(crate) fn varint(self) -> Result<u64, Malformed> {
        match self {
            Self::Varint(value) => Ok(value),
            _ => Err(Malformed("a number has another wire type")),
        }
    }

    #[inline]
    pub(crate) fn fixed64(self) -> Result<[u8; 8], Malformed> {
        match self {
            Self::Fixed64(value) => Ok(value),
            _ => Err(Malformed("a 64-bit number has another wire type")),
        }
    }

    #[inline]
    pub(crate) fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Bytes(value) => Ok(value),
            _ => Err(Malformed("a text, array or message has another wire type")),
        }
    }

    pub(crate) fn text(self) -> Result<&'a str, Malformed> {
        text(self.bytes()?)
    }
}

/// Checks that the bytes are UTF-8.
#[inline]
pub(crate) fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    str::from_utf8(bytes).map_err(|_| Malformed("a text is not UTF-8"))
}

/// Walks over the fields of a message.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// Bytes not yet read.
    #[inline]
    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next field's number and value; `None` at the end.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (number, wire_type) = self.key()?;
        let value = match wire_type {
            0 => Value::Varint(varint(&mut self.rest)?),
            1 => Value::Fixed64(self.fixed::<8>()?),
            2 => Value::Bytes(self.delimited()?),
            3 => {
                self.skip_group(number, GROUP_DEPTH_MAX)?;
                Value::Group
            }
            5 => {
                self.fixed::<4>()?;
                Value::Fixed32
            }
            _ => return Err(Malformed("a group ends that has not begun")),
        };
        Ok(Some((number, value)))
    }

    #[inline]
    fn key(&mut self) -> Result<(u32, u8), Malformed> {
        let key = varint(&mut self.rest)?;
        let key = u32::try_from(key).map_err(|_| Malformed("a field number is too large"))?;
        let wire_type = (key & 7) as u8;
        if wire_type > 5 {
            return Err(Malformed("a wire type does not exist"));
        }
        match key >> 3 {
            0 => Err(Malformed("a field has number 0")),
            number => Ok((number, wire_type)),
        }
    }

    #[inline]
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(*head)
    }

    #[inline]
    fn delimited(&mut self) -> Result<&'a [u8], Malformed> {
        let length = varint(&mut self.rest)?;
        let length = usize::try_from(length).map_err(|_| TRUNCATED)?;
        let (head, rest) = self.rest.split_at_checked(length).ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(head)
    }

    fn skip_group(&mut self, number: u32, depth: u32) -> Result<(), Malformed> {
        let depth = depth.checked_sub(1).ok_or(Malformed("groups are nested too deeply"))?;
        loop {
            let (inner, wire_type) = self.key()?;
            match wire_type {
                0 => drop(varint(&mut self.rest)?),
                1 => drop(self.fixed::<8>()?),
                2 => drop(self.delimited()?),
                3 => self.skip_group(inner, depth)?,
                4 if inner == number => return Ok(()),
                4 => return Err(Malformed("a group ends that has not begun")),
                _ => drop(self.fixed::<4>()?),
            }
        }
    }
}

/// Adds a further piece of a nested message that was sent in pieces: concatenation of encoded messages is protobuf's
/// merge, provided that each piece ends where a field ends.
pub(crate) fn join<'a>(whole: &mut Option<Cow<'a, [u8]>>, more: &'a [u8]) -> Result<(), Malformed> {
    let Some(whole) = whole else {
        *whole = Some(Cow::Borrowed(more));
        return Ok(());
    };
    let first = matches!(whole, Cow::Borrowed(_)).then_some(&whole[..]);
    for piece in first.into_iter().chain([more]) {
        let mut fields = Fields::of(piece);
        while fields.next()?.is_some() {}
    }
    whole.to_mut().extend_from_slice(more);
    Ok(())
}

/// Reads a varint of at most 64 bits.
#[inline]
pub(crate) fn varint(rest: &mut &[u8]) -> Result<u64, Malformed> {
    match **rest {
        [byte, ref tail @ ..] if byte < 0x80 => {
            *rest = tail;
            Ok(u64::from(byte))
        }
        _ => long_varint(rest),
    }
}

fn long_varint(rest: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0_u64;
    for (at, byte) in rest.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7F) << (7 * at);
        if at == 9 && *byte > 1 {
            break;
        }
        if *byte < 0x80 {
            *rest = &rest[at + 1..];
            return Ok(value);
        }
    }
    Err(if rest.len() < 10 { TRUNCATED } else { Malformed("a number has more than 64 bits") })
}

/// What a packed array of ids holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdSummary {
    /// Number of ids.
    pub count: usize,
    /// The largest; 0 if there are none.
    pub max: u32,
}

/// Calls `each` with every id of a packed array, as prost reads them: varints cut to 32 bits.
#[inline]
pub(crate) fn for_each_id(mut packed: &[u8], mut each: impl FnMut(u32)) -> Result<(), Malformed> {
    while let [first, tail @ ..] = packed {
        match (first, tail) {
            (0..0x80, _) => {
                each(u32::from(*first));
                packed = tail;
            }
            (_, [second @ 0..0x80, tail @ ..]) => {
                each(u32::from(first & 0x7F) | u32::from(*second) << 7);
                packed = tail;
            }
            _ => each(long_varint(&mut packed)? as u32),
        }
    }
    Ok(())
}

/// Counts the ids of a packed array and finds the largest.
pub(crate) fn summarize_ids(packed: &[u8]) -> Result<IdSummary, Malformed> {
    // Without a branch per byte, so that the compiler uses vectors: most dictionaries have at most 128 entries.
    let largest_byte = packed.iter().fold(0, |max, byte| max.max(*byte));
    if largest_byte < 0x80 {
        return Ok(IdSummary { count: packed.len(), max: u32::from(largest_byte) });
    }
    let mut summary = IdSummary { count: 0, max: 0 };
    for_each_id(packed, |id| {
        summary.count += 1;
        summary.max = summary.max.max(id);
    })?;
    Ok(summary)
}

/// Reads a packed array of ids; `count` is what is expected, for the allocation alone.
pub(crate) fn read_ids(packed: &[u8], count: usize) -> Result<Vec<u32>, Malformed> {
    if packed.len() == count && packed.iter().fold(0, |or, byte| or | byte) < 0x80 {
        return Ok(packed.iter().map(|byte| u32::from(*byte)).collect());
    }
    let mut ids = Vec::with_capacity(count.min(packed.len()));
    for_each_id(packed, |id| ids.push(id))?;
    Ok(ids)
}
