//! What the end-to-end tests share besides the process harness: clients, events, waiting.

pub mod events;
pub mod raw;
pub mod tenants;
pub mod wait;

pub use tidegauge_harness::{Server, ServerOptions, Token, WITHOUT_MOUNTS, binary, is_without_mounts, token};

use tidegauge_client::{Client, ClientOptions};

/// A client of the server with this token, for one tenant.
///
/// # Panics
/// When the server does not accept.
pub async fn client(server: &Server, token: &str, tenant: Option<&str>) -> Client {
    let options = ClientOptions {
        endpoint: server.endpoint(),
        token: Some(token.to_owned()),
        tenant: tenant.map(str::to_owned),
        ..ClientOptions::default()
    };
    Client::connect(options).await.expect("the server accepts")
}
