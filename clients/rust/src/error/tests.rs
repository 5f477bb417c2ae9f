use super::*;

/// Only frames that are none prove that a stranger answers; all else may be a server that dies, and can be tried again.
#[test]
fn what_a_failed_greeting_proves() {
    for (error, expected) in [
        (Box::new(h2::Error::from(h2::Reason::FRAME_SIZE_ERROR)) as Box<dyn Error>, Obstacle::NoHttp2),
        (Box::new(h2::Error::from(h2::Reason::PROTOCOL_ERROR)), Obstacle::NoHttp2),
        (Box::new(h2::Error::from(h2::Reason::NO_ERROR)), Obstacle::HungUp),
        (Box::new(io::Error::from(io::ErrorKind::ConnectionRefused)), Obstacle::Unreachable),
        (Box::new(io::Error::from(io::ErrorKind::ConnectionReset)), Obstacle::HungUp),
        (Box::new(io::Error::from(io::ErrorKind::BrokenPipe)), Obstacle::HungUp),
        ("connection closed".into(), Obstacle::HungUp),
    ] {
        assert_eq!(Obstacle::of_greeting(error.as_ref()), expected, "{error:?}");
    }
}
