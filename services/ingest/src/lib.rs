//! Ingest service
