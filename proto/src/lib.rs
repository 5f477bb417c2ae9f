//! The protobuf contracts of Tidegauge as Rust types, and the conversions between them and the types of
//! `tidegauge-core`: the only place that names both.
//!
//! The `.proto` files beside this crate are the source; [`DESCRIPTORS`] is their description for reflection, Arrow
//! Flight's included. Start with [`ingest`] and [`stream`].

pub mod convert;
#[cfg(feature = "conformance")]
pub mod encodings;
pub mod raw;

/// Every limit of the platform, for clients, which know this crate but not the core.
pub use tidegauge_core::limits;

/// Encoded `google.protobuf.FileDescriptorSet` of every contract, with imports.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

macro_rules! package {
    ($(#[$doc:meta])* $module:ident, $package:literal) => {
        $(#[$doc])*
        #[allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::all, clippy::unwrap_used, rustdoc::all)]
        pub mod $module {
            /// Version 1.
            pub mod v1 {
                tonic::include_proto!($package);
            }
        }
    };
}
package!(/// What stands on the log.
    stream, "tidegauge.stream.v1");
package!(/// Taking events in.
    ingest, "tidegauge.ingest.v1");
package!(/// Freshness of answers.
    freshness, "tidegauge.freshness.v1");
package!(/// Current values and live windows.
    hotmetric, "tidegauge.hotmetric.v1");
package!(/// Status of aggregation.
    aggregation, "tidegauge.aggregation.v1");
