//! Page sizes and page tokens of `GetStatus`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tidegauge_core::{Key, ServiceError, limits};

/// First byte of a token: its layout.
const VERSION: u8 = 1;

/// The number of keys of a page that was asked for.
///
/// # Errors
/// INVALID_ARGUMENT over [`limits::PAGE_SIZE_MAX`].
pub(crate) fn size(asked: u32) -> Result<usize, ServiceError> {
    match asked as usize {
        0 => Ok(limits::PAGE_SIZE_DEFAULT),
        asked if asked <= limits::PAGE_SIZE_MAX => Ok(asked),
        asked => {
            let max = limits::PAGE_SIZE_MAX;
            let what = format!("{asked} entries were asked for, at most {max} are allowed");
            Err(ServiceError::invalid("page_size", "PAGE_SIZE_TOO_LARGE", what))
        }
    }
}

/// The token of the page after this key. No secret: whoever brings it is shown the keys of its own scope.
pub(crate) fn token(after: &Key) -> String {
    let mut bytes = vec![VERSION];
    bytes.extend(after.to_string().as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Where the page of a token begins; `None` for the first page.
///
/// # Errors
/// INVALID_ARGUMENT for anything but a token.
pub(crate) fn after(token: &str) -> Result<Option<Key>, ServiceError> {
    if token.is_empty() {
        return Ok(None);
    }
    let read = || {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        Key::parse(std::str::from_utf8(bytes.strip_prefix(&[VERSION])?).ok()?).ok()
    };
    read().map(Some).ok_or_else(|| {
        let what = "is no page token of this list; ask for the first page with an empty one";
        ServiceError::invalid("page_token", "PAGE_TOKEN_INVALID", what)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_back_and_others_refused() {
        for name in ["a", "tenant-001#7"] {
            let key = Key::parse(name).expect("a key");
            assert_eq!(after(&token(&key)).expect("good"), Some(key));
        }
        assert_eq!(after("").expect("first page"), None);
        for bad in ["über", "AQ", "AmE", "!"] {
            let error = after(bad).expect_err(bad);
            assert_eq!((error.reason, error.fields[0].field.as_str()), ("PAGE_TOKEN_INVALID", "page_token"));
        }
        assert_eq!(size(1_001).expect_err("too large").reason, "PAGE_SIZE_TOO_LARGE");
        assert_eq!((size(0).expect("default"), size(7).expect("small")), (100, 7));
    }
}
