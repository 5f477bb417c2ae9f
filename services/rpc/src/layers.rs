//! The layers around every service.
