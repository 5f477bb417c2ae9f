//! Historical query service
