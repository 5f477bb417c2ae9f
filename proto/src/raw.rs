//! The contracts' hot messages as bytes: taken from the wire and written to it without building the generated types.
//!
//! Wire compatible with the generated types, byte for byte; property tests hold the two against each other. Start with
//! [`RawPublishRequest`], the type that [`v1::ingest_service_server`] hands to its service, and [`RequestView`], which
//! finds its parts in place. [`decode_batch`] reads log records, [`encode`] writes them.

pub mod batch;
pub mod columns;
pub mod encode;
pub mod request;
#[cfg(test)]
mod tests;
mod wire;

use bytes::{Buf, BufMut, Bytes};
use prost::encoding::{DecodeContext, WireType, decode_varint, encode_key, encode_varint, skip_field};
use prost::{DecodeError, Message};

pub use self::batch::decode_batch;
pub use self::columns::{ColumnsError, ColumnsView, Dictionary};
pub use self::request::{RequestView, Row, RowDimensions};
pub use self::wire::{IdSummary, Malformed};

/// `IngestService` with requests of raw types: same paths, same answers as the generated service.
#[allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::all, clippy::unwrap_used, rustdoc::all)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/raw/tidegauge.ingest.v1.rs"));
}

/// A `tidegauge.ingest.v1.PublishRequest` in its encoded form; nothing of it is checked yet.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RawPublishRequest(pub Bytes);

/// A `tidegauge.ingest.v1.PublishStreamRequest` in its encoded form; nothing of it is checked yet.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RawPublishStreamRequest(pub Bytes);

macro_rules! raw_message {
    ($($name:ident),*) => {$(
        impl Message for $name {
            fn encode_raw(&self, buf: &mut impl BufMut) {
                buf.put_slice(&self.0);
            }

            /// Takes the whole buffer, without a copy where the buffer allows it.
            fn merge(&mut self, mut buf: impl Buf) -> Result<(), DecodeError> {
                let more = buf.copy_to_bytes(buf.remaining());
                // Concatenation of encoded messages is protobuf's merge.
                self.0 = if self.0.is_empty() { more } else { [&self.0[..], &more].concat().into() };
                Ok(())
            }

            fn merge_field(
                &mut self,
                tag: u32,
                wire_type: WireType,
                buf: &mut impl Buf,
                ctx: DecodeContext,
            ) -> Result<(), DecodeError> {
                self.0 = append_field(&self.0, tag, wire_type, buf, ctx)?;
                Ok(())
            }

            fn encoded_len(&self) -> usize {
                self.0.len()
            }

            fn clear(&mut self) {
                self.0 = Bytes::new();
            }
        }
    )*};
}
raw_message!(RawPublishRequest, RawPublishStreamRequest);

/// The bytes with one more field behind them. Only for a raw message nested in a generated one, which none is today.
fn append_field(
    bytes: &[u8],
    tag: u32,
    wire_type: WireType,
    buf: &mut impl Buf,
    ctx: DecodeContext,
) -> Result<Bytes, DecodeError> {
    let mut out = bytes.to_vec();
    encode_key(tag, wire_type, &mut out);
    let length = match wire_type {
        WireType::Varint => {
            encode_varint(decode_varint(buf)?, &mut out);
            0
        }
        WireType::SixtyFourBit => 8,
        WireType::ThirtyTwoBit => 4,
        WireType::LengthDelimited => {
            let length = decode_varint(buf)?;
            encode_varint(length, &mut out);
            length
        }
        WireType::StartGroup | WireType::EndGroup => {
            skip_field(wire_type, tag, buf, ctx)?;
            return Ok(Bytes::copy_from_slice(bytes));
        }
    };
    if length > buf.remaining() as u64 {
        // Fails as it must: the buffer is shorter than the field says.
        skip_field(WireType::LengthDelimited, tag, &mut &[0xFF_u8, 0x7F][..], ctx)?;
    }
    out.put(buf.take(length as usize));
    Ok(out.into())
}
