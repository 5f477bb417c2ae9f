//! Client for Tidegauge: publish events, read current values, query SQL.
//!
//! It speaks only the public protobuf contracts and Arrow Flight SQL; it knows nothing of the server's insides. Start
//! with [`Client::connect`], then [`Client::producer`] to publish, [`Client::watch`] to follow current values and
//! [`Client::query`] for SQL over live values and history.
//!
//! ```no_run
//! # async fn example() -> Result<(), tidegauge_client::ClientError> {
//! use tidegauge_client::{Client, ClientOptions};
//!
//! let client = Client::connect(ClientOptions {
//!     token: Some("…".to_owned()),
//!     tenant: Some("local".to_owned()),
//!     ..ClientOptions::default()
//! })
//! .await?;
//! let mut result = client.query("SELECT * FROM dashboard_metrics").await?;
//! while let Some(batch) = result.next_batch().await? {
//!     println!("{} rows", batch.num_rows());
//! }
//! # Ok(())
//! # }
//! ```

mod channel;
mod client;
pub mod columns;
mod error;
pub mod producer;
mod query;

pub use channel::ClientOptions;
pub use client::{Client, MessageStream};
pub use columns::{ColumnsBuilder, EventRef};
pub use error::{ClientError, Obstacle, RefusedField, ServerError};
pub use producer::stalls::Stalls;
pub use producer::{Ack, Batch, Producer, ProducerOptions, Ticket, Totals};
pub use query::QueryResult;

/// The contracts and limits that this client's types come from.
pub use tidegauge_proto as proto;
pub use tidegauge_proto::stream::v1::Mode;
