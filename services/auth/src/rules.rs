//! The rules file: CSV with the header `UserName,tenant_id`, one grant a line.

use std::collections::HashMap;
use std::path::Path;

use tidegauge_core::TenantId;

use crate::AuthError;

/// Which tenants each user may see. A user without a line sees nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Rules {
    users: HashMap<String, Vec<TenantId>>,
}

impl Rules {
    /// The user's tenants, sorted.
    pub(crate) fn of(&self, user: &str) -> &[TenantId] {
        self.users.get(user).map_or(&[], Vec::as_slice)
    }

    /// Reads the file's text. Names may stand in double quotes, doubled inside; blank lines are skipped.
    pub(crate) fn parse(text: &str, path: &Path) -> Result<Self, AuthError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut lines = text.lines().enumerate();
        match lines.next() {
            Some((_, header)) if fields(header).as_deref() == Some(&["UserName".into(), "tenant_id".into()]) => {}
            _ => return Err(AuthError::invalid(path, Some(1), "the header must be UserName,tenant_id")),
        }
        let mut users: HashMap<String, Vec<TenantId>> = HashMap::new();
        for (index, line) in lines {
            if line.trim().is_empty() {
                continue;
            }
            let invalid = |problem: String| AuthError::invalid(path, Some(index + 1), problem);
            let Some([user, tenant]) = fields(line).and_then(|fields| <[String; 2]>::try_from(fields).ok()) else {
                return Err(invalid("a line has two fields, user name and tenant id".to_owned()));
            };
            if user.is_empty() {
                return Err(invalid("the user name is empty".to_owned()));
            }
            let tenant =
                TenantId::parse(&tenant).map_err(|error| invalid(format!("the tenant id {tenant:?} {error}")))?;
            users.entry(user).or_default().push(tenant);
        }
        for tenants in users.values_mut() {
            tenants.sort();
            tenants.dedup();
        }
        Ok(Self { users })
    }
}

/// Splits one line; `None` when its quotes do not match. Blanks around a bare field do not count.
fn fields(line: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = line.trim();
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut field = String::new();
            let mut chars = quoted.char_indices();
            let after = loop {
                let (at, c) = chars.next()?;
                if c != '"' {
                    field.push(c);
                } else if quoted[at + 1..].starts_with('"') {
                    field.push('"');
                    chars.next();
                } else {
                    break quoted[at + 1..].trim_start();
                }
            };
            fields.push(field);
            match after.strip_prefix(',') {
                Some(next) => rest = next.trim_start(),
                None => return after.is_empty().then_some(fields),
            }
        } else {
            match rest.split_once(',') {
                Some((field, next)) => {
                    fields.push(field.trim().to_owned());
                    rest = next.trim_start();
                }
                None => {
                    fields.push(rest.trim().to_owned());
                    return Some(fields);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Rules, AuthError> {
        Rules::parse(text, Path::new("rules.csv"))
    }

    /// Proves that grants are read as written, and that every broken line is refused by its number.
    #[test]
    fn reads_grants_and_names_broken_lines() {
        let text = "\u{feff}UserName,tenant_id\r\nann,t1\r\n\"doe, \"\"jo\"\"\" , \"t2\"\r\n\r\nann,t0\nann,t1\n";
        let rules = parse(text).expect("valid");
        assert_eq!(rules.of("ann").iter().map(TenantId::as_str).collect::<Vec<_>>(), ["t0", "t1"]);
        assert_eq!(rules.of("doe, \"jo\"").len(), 1);
        assert!(rules.of("Ann").is_empty() && rules.of("").is_empty());

        for (broken, line) in [
            ("", 1),
            ("user,tenant\nann,t1", 1),
            ("UserName,tenant_id\nann,t1\nann", 3),
            ("UserName,tenant_id\nann,t1,x", 2),
            ("UserName,tenant_id\n,t1", 2),
            ("UserName,tenant_id\nann,T1", 2),
            ("UserName,tenant_id\nann,", 2),
            ("UserName,tenant_id\nann,*", 2),
            ("UserName,tenant_id\n\"ann,t1", 2),
            ("UserName,tenant_id\n\"ann\"x,t1", 2),
        ] {
            let message = parse(broken).expect_err(broken).to_string();
            assert!(message.contains(&format!("line {line}")), "{broken:?}: {message}");
        }
    }
}
