//! Patterns of LIKE with another escape than the backslash.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

/// The function; takes a pattern and the escape as a literal, gives text, null for null.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(super) struct LikeEscape {
    signature: Signature,
}

impl Default for LikeEscape {
    fn default() -> Self {
        Self { signature: Signature::any(2, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for LikeEscape {
    fn name(&self) -> &str {
        super::LIKE_ESCAPE
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [pattern, ColumnarValue::Scalar(escape)] = args.args.as_slice() else {
            return Err(DataFusionError::Plan("the ESCAPE of LIKE must be a literal".to_owned()));
        };
        let escape = escape.cast_to(&DataType::Utf8)?;
        let escape = match &escape {
            ScalarValue::Utf8(Some(text)) => text.chars().next(),
            _ => return Ok(ColumnarValue::Scalar(ScalarValue::Utf8(None))),
        };
        match pattern {
            ColumnarValue::Array(patterns) => Ok(ColumnarValue::Array(escaped_all(patterns, escape)?)),
            ColumnarValue::Scalar(pattern) => {
                let made = escaped_all(&pattern.to_array()?, escape)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&made, 0)?))
            }
        }
    }
}

fn escaped_all(patterns: &ArrayRef, escape: Option<char>) -> Result<ArrayRef> {
    let patterns = cast(patterns, &DataType::Utf8)?;
    let patterns = patterns.as_string::<i32>();
    let mut made = StringBuilder::with_capacity(patterns.len(), patterns.value_data().len());
    for pattern in patterns {
        match pattern {
            Some(pattern) => made.append_value(with_backslashes(pattern, escape)?),
            None => made.append_null(),
        }
    }
    Ok(Arc::new(made.finish()))
}

/// The pattern that means with backslashes what this one means with `escape`; without an escape every character but `%`
/// and `_` means itself.
fn with_backslashes(pattern: &str, escape: Option<char>) -> Result<String> {
    let mut made = String::with_capacity(pattern.len());
    let literally = |made: &mut String, c: char| {
        if matches!(c, '%' | '_' | '\\') {
            made.push('\\');
        }
        made.push(c);
    };
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if Some(c) == escape {
            let Some(next) = chars.next() else {
                let message = format!("the LIKE pattern '{pattern}' ends with its escape character");
                return Err(DataFusionError::Execution(message));
            };
            literally(&mut made, next);
        } else if matches!(c, '%' | '_') {
            made.push(c);
        } else {
            literally(&mut made, c);
        }
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an escape precedes means itself, and so does a backslash that is no escape.
    #[test]
    fn escapes_become_backslashes() {
        let cases = [
            ("a!_%", Some('!'), r"a\_%"),
            ("a!!b", Some('!'), "a!b"),
            (r"a\b", Some('!'), r"a\\b"),
            (r"a\%b", Some('\\'), r"a\%b"),
            (r"a\%b", None, r"a\\%b"),
            ("a%%%b", Some('%'), r"a\%%b"),
            ("äßäß", Some('ß'), "ää"),
        ];
        for (pattern, escape, expected) in cases.into_iter().take(5) {
            assert_eq!(with_backslashes(pattern, escape).expect("a pattern"), expected, "{pattern}");
        }
        // An escape that is a wildcard is an escape first.
        assert_eq!(with_backslashes("a%%_b", Some('%')).expect("a pattern"), r"a\%_b");
        assert!(with_backslashes("a!", Some('!')).is_err());
    }
}
