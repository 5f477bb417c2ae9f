//! The gRPC methods. Generated types stop here.

mod live;
mod reads;
mod updates;

pub(crate) use self::reads::Reads;
pub(crate) use self::updates::Updates;
