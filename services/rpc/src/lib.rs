//! The one server builder of the platform, and what every service needs around its methods.
//!
//! * [`ServerBuilder`] takes [`Mount`]s (a tonic service with a permission for each method), refuses to start when a
//!   method has none, and serves them with the layers of `layers.rs`, in the one order written down there, over TCP and
//!   over the in-memory channel.
//! * [`scope`] and [`Guard`] give a handler the proof of authorization that the interceptor left in the request.
//! * [`status`] is the one place where an error becomes a gRPC status.
//! * [`InternalChannel`] is how services of one process call each other: the same contracts, through the same layers.
//! * [`walk`] calls every method of a running server with credentials that must not suffice.
//!
//! It is not a framework: handlers stay plain tonic services. A service should be mounted with
//! `max_decoding_message_size(limits::REQUEST_BYTES_MAX)` and `max_encoding_message_size(limits::RESPONSE_BYTES_MAX)`;
//! tonic's own default for requests is 4 MiB.

mod builder;
mod connections;
mod context;
mod descriptors;
pub mod doors;
mod error;
mod guest;
mod health;
mod internal;
mod layers;
mod meters;
mod methods;
mod mount;
mod share;
mod status;
mod tls;
pub mod walk;

pub use builder::{ServerBuilder, ServerHandle, ServerOptions, TlsFiles};
pub use context::{Guard, scope};
pub use descriptors::merged_descriptor_set;
pub use error::StartError;
pub use guest::Kept;
pub use internal::{InternalChannel, InternalClient, InternalCredentials};
pub use mount::Mount;
pub use status::{DOMAIN, status};
