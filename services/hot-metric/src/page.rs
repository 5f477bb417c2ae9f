//! Page sizes and page tokens.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tidegauge_core::ids::{MetricName, TenantId};
use tidegauge_core::{ServiceError, limits};

/// First byte of a token: its layout.
const VERSION: u8 = 1;

/// The number of entries of a page that was asked for.
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

/// The token of the page after this metric.
pub(crate) fn token(tenant: &TenantId, after: &MetricName) -> String {
    let mut bytes = vec![VERSION];
    bytes.extend(checksum(tenant, after.as_str()).to_le_bytes());
    bytes.extend(after.as_str().as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Where the page of a token begins; `None` for the first page.
///
/// # Errors
/// INVALID_ARGUMENT for anything but a token that this tenant was given.
pub(crate) fn after(tenant: &TenantId, token: &str) -> Result<Option<MetricName>, ServiceError> {
    if token.is_empty() {
        return Ok(None);
    }
    let read = || {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (sum, name) = bytes.strip_prefix(&[VERSION])?.split_first_chunk::<4>()?;
        let metric = MetricName::parse(std::str::from_utf8(name).ok()?).ok()?;
        (checksum(tenant, metric.as_str()) == u32::from_le_bytes(*sum)).then_some(metric)
    };
    match read() {
        Some(metric) => Ok(Some(metric)),
        None => {
            let what = "is no page token of this list; ask for the first page with an empty one";
            Err(ServiceError::invalid("page_token", "PAGE_TOKEN_INVALID", what))
        }
    }
}

/// Notices a token that was cut, changed or taken from another tenant. No secret: a token gives no access.
fn checksum(tenant: &TenantId, name: &str) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(tenant.as_str().as_bytes()), name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_back_and_others_refused() {
        let tenant = |text| TenantId::parse(text).expect("valid");
        let metric = MetricName::parse("Größe#%").expect("valid");
        let good = token(&tenant("a"), &metric);
        assert_eq!(after(&tenant("a"), &good).expect("good"), Some(metric));
        assert_eq!(after(&tenant("a"), "").expect("first page"), None);
        assert!(after(&tenant("b"), &good).is_err(), "another tenant's");
        for at in 0..good.len() {
            assert!(after(&tenant("a"), &good[..at]).is_err() || at == 0);
            let mut changed = good.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(after(&tenant("a"), &String::from_utf8(changed).expect("text")).is_err());
        }
        let error = after(&tenant("a"), "über").expect_err("not base64");
        assert_eq!((error.reason, error.fields[0].field.as_str()), ("PAGE_TOKEN_INVALID", "page_token"));
        assert!(size(1_001).is_err());
        assert_eq!((size(0).expect("default"), size(7).expect("small")), (100, 7));
    }
}
