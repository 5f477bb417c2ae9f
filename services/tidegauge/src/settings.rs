//! Settings of the server: flag over environment over file over default. Start with [`schema`] for what there is.

mod layers;
mod schema;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Outcome};
pub(crate) use layers::{Layers, SettingsError};
pub(crate) use schema::Settings;
use schema::{KEYS, Key};

/// File that is read if it is there and no other is named.
const DEFAULT_FILE: &str = "tidegauge.toml";

/// Collects the layers below the flags.
///
/// # Errors
/// A file that cannot be read, a key that there is not.
pub(crate) fn load(file: Option<&Path>) -> Outcome<Layers> {
    let mut layers = Layers::default();
    let path = file.map_or_else(|| PathBuf::from(DEFAULT_FILE), Path::to_owned);
    match std::fs::read_to_string(&path) {
        Ok(text) => layers.add_file(&path, &text)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && file.is_none() => {}
        Err(error) => return Err(Failure::usage(format!("{}: {error}", path.display()))),
    }
    let utf8 = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    layers.add_environment(std::env::vars_os().filter_map(utf8))?;
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

fn quoted(key: &Key, value: &str) -> String {
    match (key.is_secret(), key.quoted) {
        (true, _) if !value.is_empty() => "\"(secret)\"".to_owned(),
        (_, true) => toml::Value::String(value.to_owned()).to_string(),
        (_, false) => value.to_owned(),
    }
}
