//! Credentials, rules and grants
