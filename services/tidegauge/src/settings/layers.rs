//! Flag over environment over file over default. Every layer gives texts; they are read once, at the end.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::schema::{KEYS, Value};

/// Where a value came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// A file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A flag of the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// A setting that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    /// A key that there is not.
    #[error("{origin}: there is no setting {key}{}", .similar.map(|s| format!("; did you mean {s}?")).unwrap_or_default())]
    Unknown {
        /// Where it stands.
        origin: Origin,
        /// The key.
        key: String,
        /// A key that looks like it.
        similar: Option<&'static str>,
    },
    /// A value that cannot be read.
    #[error("{origin}: {key}: {problem}")]
    Value {
        /// Where it stands.
        origin: Origin,
        /// The key.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A file that cannot be read.
    #[error("{}: {problem}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// Values by section and key, each from the highest layer that has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layers {
    values: BTreeMap<(String, String), (String, Origin)>,
}

impl Layers {
    /// Adds the values of a TOML file's text.
    ///
    /// # Errors
    /// Text that is no TOML, an unknown key, a value that is no single value.
    pub(crate) fn add_file(&mut self, path: &Path, text: &str) -> Result<(), SettingsError> {
        let file = |problem: String| SettingsError::File { path: path.to_owned(), problem };
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| file(error.to_string()))?;
        for (section, entries) in table {
            let toml::Value::Table(entries) = entries else {
                return Err(self.unknown(Origin::File(path.to_owned()), &section));
            };
            for (key, value) in entries {
                let text = match value {
                    toml::Value::String(text) => text,
                    toml::Value::Integer(_) | toml::Value::Boolean(_) | toml::Value::Float(_) => value.to_string(),
                    _ => return Err(file(format!("{section}.{key} must be one value"))),
                };
                self.set(&section, &key, text, Origin::File(path.to_owned()))?;
            }
        }
        Ok(())
    }

    /// Adds `TIDEGAUGE_<SECTION>_<KEY>` variables.
    ///
    /// # Errors
    /// A variable that names no setting. Variables of other commands, and those that Kubernetes makes for a service
    /// called `tidegauge`, are left alone.
    pub(crate) fn add_environment(
        &mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), SettingsError> {
        for (name, value) in variables {
            let Some(rest) = name.strip_prefix("TIDEGAUGE_") else { continue };
            let Some((section, key)) = rest.split_once('_') else { continue };
            if NOT_SETTINGS.contains(&rest) || section == "SERVICE" || section == "PORT" {
                continue;
            }
            let (section, key) = (section.to_ascii_lowercase(), key.to_ascii_lowercase());
            self.set(&section, &key, value, Origin::Environment(name.clone()))?;
        }
        Ok(())
    }

    /// Adds a flag's value.
    ///
    /// # Errors
    /// Never for keys that exist.
    pub(crate) fn add_flag(&mut self, section: &str, key: &str, flag: &'static str, value: String) {
        self.values.insert((section.to_owned(), key.to_owned()), (value, Origin::Flag(flag)));
    }

    fn set(&mut self, section: &str, key: &str, value: String, origin: Origin) -> Result<(), SettingsError> {
        if !KEYS.iter().any(|known| known.section == section && known.key == key) {
            return Err(self.unknown(origin, &format!("{section}.{key}")));
        }
        self.values.insert((section.to_owned(), key.to_owned()), (value, origin));
        Ok(())
    }

    fn unknown(&self, origin: Origin, key: &str) -> SettingsError {
        let similar = SIMILAR.iter().find(|(wrong, _)| *wrong == key).map(|(_, right)| *right);
        SettingsError::Unknown { origin, key: key.to_owned(), similar }
    }

    /// A value and where it came from; `None` for the default.
    pub(crate) fn text(&self, section: &str, key: &str) -> Option<(&str, &Origin)> {
        let found = self.values.get(&(section.to_owned(), key.to_owned()))?;
        Some((&found.0, &found.1))
    }

    /// A value, read.
    ///
    /// # Errors
    /// With key and origin.
    pub(crate) fn get<V: Value>(
        &self,
        section: &str,
        key: &str,
        default: impl FnOnce() -> V,
    ) -> Result<V, SettingsError> {
        let Some((text, origin)) = self.text(section, key) else { return Ok(default()) };
        V::read(text).map_err(|problem| SettingsError::Value {
            origin: origin.clone(),
            key: format!("{section}.{key}"),
            problem,
        })
    }
}

/// Variables with an underscore that are no settings.
const NOT_SETTINGS: [&str; 2] = ["CRASH_AT", "BIN_DIR"];

/// What people write instead.
const SIMILAR: [(&str, &str); 6] = [
    ("server.port", "server.grpc"),
    ("server.datadir", "server.data_dir"),
    ("window.lateness", "window.allowed_lateness"),
    ("window.size", "window.length"),
    ("auth.rules", "auth.rules_file"),
    ("log.level", "diagnostics.filter"),
];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::schema::Settings;
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// Each layer wins over the one below, and says so.
    #[test]
    fn layers_win_in_order() {
        let mut layers = Layers::default();
        let file = "[server]\ngrpc = \"a:1\"\nhttp = \"a:2\"\n[publish]\ninterval = \"2m\"\n[log]\nshards = 8\n";
        layers.add_file(Path::new("tidegauge.toml"), file).unwrap();
        let variables = [
            ("TIDEGAUGE_SERVER_GRPC", "b:1"),
            ("TIDEGAUGE_PUBLISH_CHECKPOINT_INTERVAL", "300ms"),
            ("TIDEGAUGE_LOG", "debug"),
            ("TIDEGAUGE_TOKEN", "x"),
            ("TIDEGAUGE_CRASH_AT", "x"),
            ("TIDEGAUGE_PORT_7171_TCP", "x"),
            ("HOME", "x"),
        ];
        layers.add_environment(environment(&variables)).unwrap();
        layers.add_flag("server", "grpc", "--grpc", "c:1".to_owned());
        let settings = Settings::read(&layers).unwrap();
        assert_eq!((&*settings.server.grpc, &*settings.server.http), ("c:1", "a:2"));
        assert_eq!(settings.publish.interval.0, Duration::from_secs(120));
        assert_eq!(settings.publish.checkpoint_interval.0, Duration::from_millis(300));
        assert_eq!((settings.log.shards, settings.window.length.0), (8, Duration::from_secs(60)));
        assert_eq!(layers.text("server", "http").unwrap().1.to_string(), "tidegauge.toml");
    }

    /// Unknown keys and unreadable values are errors that name key and place.
    #[test]
    fn mistakes_are_named() {
        let path = Path::new("x.toml");
        let wrong = |text: &str| Layers::default().add_file(path, text).unwrap_err().to_string();
        assert_eq!(
            wrong("[window]\nlateness = \"5m\"\n"),
            "x.toml: there is no setting window.lateness; did you mean window.allowed_lateness?"
        );
        assert!(wrong("[wndow]\nlength = \"1m\"\n").contains("wndow.length"));
        assert!(wrong("grpc = \"x\"\n").contains("no setting grpc"));
        assert!(wrong("[log]\nshards = [1]\n").contains("log.shards must be one value"));
        assert!(wrong("[log\n").starts_with("x.toml: "));
        let error = Layers::default().add_environment(environment(&[("TIDEGAUGE_LOG_RETENTON", "1h")])).unwrap_err();
        assert_eq!(error.to_string(), "TIDEGAUGE_LOG_RETENTON: there is no setting log.retenton");

        let mut layers = Layers::default();
        layers.add_environment(environment(&[("TIDEGAUGE_LOG_RETENTION", "soon")])).unwrap();
        let error = Settings::read(&layers).unwrap_err().to_string();
        assert!(error.starts_with("TIDEGAUGE_LOG_RETENTION: log.retention: \"soon\" is no duration"), "{error}");
    }

    /// What is printed as effective is read back as the same.
    #[test]
    fn printed_settings_are_read_back() {
        let mut layers = Layers::default();
        layers.add_flag("window", "idle_timeout", "--x", "90s".to_owned());
        layers.add_flag("server", "data_dir", "--y", "a \"quoted\" \\ path".to_owned());
        let printed = super::super::print(&layers);
        assert!(printed.contains("idle_timeout = \"90s\""), "{printed}");
        let mut again = Layers::default();
        again.add_file(Path::new("printed"), &printed).unwrap();
        let values = |layers: &Layers| format!("{:?}", Settings::read(layers).unwrap());
        assert_eq!(values(&again), values(&layers));
    }
}
