//! Who calls, and for which tenants: credentials, rules and grants.
//!
//! An [`Authenticator`] turns the value of an `authorization` header into a [`Grant`]: principal, tenants, expiry. It
//! knows three credentials: tokens (EdDSA JWT, made offline by [`create_token`]), API keys (made by [`create_key`], kept
//! as hashes) and the short-lived service tokens with which the parts of the platform call each other. Where a rules
//! file is configured, a user's tenants are cut down to it.
//!
//! This crate makes no [`tidegauge_core::TenantScope`]: the interceptor of `tidegauge-rpc` does that, from a grant. It
//! knows no RPC library. Start with [`Authenticator::authenticate`].

mod authenticator;
pub mod cache;
mod claims;
mod error;
mod files;
mod grant;
mod header;
mod key;
mod keyfile;
mod rules;

pub use authenticator::{AuthOptions, Authenticator, ServiceToken};
pub use claims::user_name_problem;
pub use error::{AuthError, Denied};
pub use grant::{Grant, GrantedTenants, TenantClaim};
pub use header::{audit_name, bearer_value};
pub use key::create_token;
pub use keyfile::create_key;
