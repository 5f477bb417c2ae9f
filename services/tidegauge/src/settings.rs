//! Settings of the server: flag over environment over file over default. Start with [`schema`] for what there is.

mod layers;
mod rules;
mod schema;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Outcome};
pub(crate) use layers::{Layers, SettingsError};
pub(crate) use schema::Settings;
use schema::{KEYS, Key};

/// File that is read if it is there and no other is named.
const DEFAULT_FILE: &str = "tidegauge.toml";

/// Variable with the file, for commands that have no flag for it.
const FILE_VARIABLE: &str = "TIDEGAUGE_CONFIG";

/// Collects the layers below the flags: the file named here or by `TIDEGAUGE_CONFIG`, then the environment.
///
/// # Errors
/// A file that cannot be read, a key that there is not.
pub(crate) fn load(file: Option<&Path>) -> Outcome<Layers> {
    let mut layers = Layers::default();
    let named = file.map(Path::to_owned);
    let named = named.or_else(|| std::env::var_os(FILE_VARIABLE).filter(|name| !name.is_empty()).map(PathBuf::from));
    let path = named.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
    match std::fs::read_to_string(&path) {
        Ok(text) => layers.add_file(&path, &text)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => {}
        Err(error) => return Err(Failure::usage(format!("{}: {error}", path.display())).or_io_hint(&error)),
    }
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => variables.push((name, value)),
            (Ok(name), Err(_)) if name.starts_with(layers::PREFIX) => {
                return Err(Failure::usage(format!("{name}: its value is not UTF-8")));
            }
            _ => {}
        }
    }
    layers.add_environment(variables)?;
    Ok(layers)
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Self {
        Self::usage(error.to_string()).hint("`tidegauge serve --print-config` lists all settings")
    }
}

/// The effective settings as a TOML file, each with what it does and where it came from.
pub(crate) fn print(layers: &Layers) -> String {
    let mut text = String::new();
    let mut section = "";
    for key in KEYS {
        if key.section != section {
            let gap = if section.is_empty() { "" } else { "\n" };
            section = key.section;
            let _ = writeln!(text, "{gap}[{section}]");
        }
        let (value, origin) = match layers.text(key.section, key.key) {
            Some((value, origin)) => (value.to_owned(), format!(" (from {origin})")),
            None => ((key.default)(), String::new()),
        };
        let _ = writeln!(text, "#{}{origin}\n{} = {}", key.doc, key.key, quoted(key, &value));
    }
    text
}

/// The effective settings for programs: sections of values, written as in the file.
pub(crate) fn document(layers: &Layers) -> serde_json::Value {
    let mut sections = serde_json::Map::new();
    for key in KEYS {
        let value = layers.text(key.section, key.key).map_or_else(key.default, |(value, _)| value.to_owned());
        let value = match (key.is_secret() && !value.is_empty(), key.quoted) {
            (true, _) => HIDDEN.into(),
            (false, true) => value.into(),
            // Read before: a number or a truth value.
            (false, false) => serde_json::from_str(&value).unwrap_or_else(|_| value.into()),
        };
        let section = sections.entry(key.section).or_insert_with(|| serde_json::Map::new().into());
        if let Some(section) = section.as_object_mut() {
            section.insert(key.key.to_owned(), value);
        }
    }
    sections.into()
}

/// Stands for a secret.
const HIDDEN: &str = "(secret)";

fn quoted(key: &Key, value: &str) -> String {
    match (key.is_secret(), key.quoted) {
        (true, _) if !value.is_empty() => format!("{HIDDEN:?}"),
        (_, true) => toml::Value::String(value.to_owned()).to_string(),
        (_, false) => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Programs read every setting by section and name, numbers as numbers.
    #[test]
    fn settings_are_read_by_programs() {
        let mut layers = Layers::default();
        layers.add_flag("server", "data_dir", "--data-dir", "a \"b\"".to_owned());
        layers.add_flag("server", "threads", "--x", "3".to_owned());
        let document = document(&layers);
        assert_eq!(document["server"]["data_dir"], "a \"b\"");
        assert_eq!(document["server"]["threads"], 3);
        assert_eq!(document["server"]["insecure_plaintext"], false);
        assert_eq!(document["window"]["length"], "1m");
        let settings: usize =
            document.as_object().unwrap().values().map(|section| section.as_object().unwrap().len()).sum();
        assert_eq!(settings, KEYS.len());
    }

    /// No secret is printed; that there is one is.
    #[test]
    fn secrets_are_not_printed() {
        let key = |key| Key { section: "x", key, doc: "", quoted: true, default: String::new };
        assert_eq!(quoted(&key("client_secret"), "hunter2"), "\"(secret)\"");
        assert_eq!(quoted(&key("token"), ""), "\"\"");
        assert_eq!(quoted(&key("tls_key"), "/path/key.pem"), "\"/path/key.pem\"");
    }
}
