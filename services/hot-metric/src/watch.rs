//! Changes on their way to watchers.
//!
//! A tenant that is watched has a [`Feed`]: a ring of the latest changes. Publishing appends to it once, however many
//! watchers there are; each watcher reads with a cursor of its own, at its own pace. One that falls out of the ring is
//! told how many changes it missed and reads the newest values from the store.

mod feed;
mod hub;
mod stream;

pub(crate) use self::hub::Hub;
pub(crate) use self::stream::Watcher;
