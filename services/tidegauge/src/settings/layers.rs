//! Flag over environment over file over default. Every layer gives texts; they are read once, at the end.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::schema::{KEYS, Value};

/// Where a value came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// A file.
    File {
        /// Its path.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// A flag of the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}, line {line}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// A setting that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    /// A key that there is not.
    #[error("{origin}: there is no setting {key}{}", .similar.as_ref().map(|s| format!("; did you mean {s}?")).unwrap_or_default())]
    Unknown {
        /// Where it stands.
        origin: Origin,
        /// The key.
        key: String,
        /// A key that looks like it.
        similar: Option<String>,
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
    /// Text that is no TOML, an unknown key, a value that is no single value; with the line.
    pub(crate) fn add_file(&mut self, path: &Path, text: &str) -> Result<(), SettingsError> {
        let file = |error: toml::de::Error| SettingsError::File { path: path.to_owned(), problem: error.to_string() };
        let table: toml::Table = text.parse().map_err(file)?;
        let lines = Lines { text, table: DeTable::parse(text).map_err(file)?.into_inner() };
        for (section, entries) in table {
            let origin = |key: Option<&str>| Origin::File { path: path.to_owned(), line: lines.of(&section, key) };
            let toml::Value::Table(entries) = entries else {
                return Err(unknown(origin(None), &section));
            };
            for (key, value) in entries {
                let origin = origin(Some(&key));
                let text = match value {
                    toml::Value::String(text) => text,
                    toml::Value::Integer(_) | toml::Value::Boolean(_) | toml::Value::Float(_) => value.to_string(),
                    _ => {
                        let problem = "must be one value".to_owned();
                        return Err(SettingsError::Value { origin, key: format!("{section}.{key}"), problem });
                    }
                };
                self.set(&section, &key, text, origin)?;
            }
        }
        Ok(())
    }

    /// Adds `TIDEGAUGE_<SECTION>_<KEY>` variables.
    ///
    /// # Errors
    /// A variable that names no setting. Variables of other commands, and those that Kubernetes makes for services whose
    /// names begin with `tidegauge`, are left alone.
    pub(crate) fn add_environment(
        &mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), SettingsError> {
        for (name, value) in variables {
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            if NOT_SETTINGS.contains(&rest) || is_kubernetes(rest, &value) {
                continue;
            }
            let rest = rest.to_ascii_lowercase();
            match rest.split_once('_') {
                Some((section, key)) => self.set(section, key, value, Origin::Environment(name.clone()))?,
                None => return Err(unknown(Origin::Environment(name.clone()), &rest)),
            }
        }
        Ok(())
    }

    /// Adds a flag's value.
    pub(crate) fn add_flag(&mut self, section: &str, key: &str, flag: &'static str, value: String) {
        self.values.insert((section.to_owned(), key.to_owned()), (value, Origin::Flag(flag)));
    }

    fn set(&mut self, section: &str, key: &str, value: String, origin: Origin) -> Result<(), SettingsError> {
        if !KEYS.iter().any(|known| known.section == section && known.key == key) {
            return Err(unknown(origin, &format!("{section}.{key}")));
        }
        self.values.insert((section.to_owned(), key.to_owned()), (value, origin));
        Ok(())
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

/// Start of the names of our variables.
pub(super) const PREFIX: &str = "TIDEGAUGE_";

/// Variables that are no settings of the server: of the commands that talk to one, of the log, of tests.
const NOT_SETTINGS: [&str; 8] = ["BIN", "CA", "CONFIG", "CRASH_AT", "ENDPOINT", "LOG", "TENANT", "TOKEN"];

/// Whether Kubernetes made the variable, for a service called `tidegauge` or `tidegauge-<something>`.
fn is_kubernetes(rest: &str, value: &str) -> bool {
    let words: Vec<&str> = rest.split('_').collect();
    let address = value.contains("://");
    words.iter().enumerate().any(|(at, word)| match (*word, words.get(at + 1).copied()) {
        ("SERVICE", next) => matches!(next, Some("HOST" | "PORT")),
        ("PORT", None) => address,
        ("PORT", Some(next)) => next.bytes().all(|byte| byte.is_ascii_digit()),
        _ => false,
    })
}

fn unknown(origin: Origin, key: &str) -> SettingsError {
    let written = key.replace('.', "_");
    let elsewhere = KEYS.iter().find(|known| known.key == written);
    let similar = match SIMILAR.iter().find(|(wrong, _)| *wrong == key) {
        Some((_, right)) => Some((*right).to_owned()),
        None => elsewhere.map(|known| format!("{}.{}", known.section, known.key)),
    };
    SettingsError::Unknown { origin, key: key.to_owned(), similar }
}

/// Where the keys of a file stand.
struct Lines<'a> {
    text: &'a str,
    table: DeTable<'a>,
}

impl Lines<'_> {
    /// The line of a key, or of a section's name, from 1.
    fn of(&self, section: &str, key: Option<&str>) -> usize {
        let found = self.table.iter().find(|(name, _)| name.get_ref() == section);
        let start = found.map(|(name, entries)| match (key, entries.get_ref().as_table()) {
            (Some(key), Some(entries)) => {
                let found = entries.keys().find(|name| name.get_ref() == key);
                found.map_or(name.span().start, |key| key.span().start)
            }
            _ => name.span().start,
        });
        let before = self.text.as_bytes().get(..start.unwrap_or(0)).unwrap_or_default();
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }
}

/// What people write instead.
const SIMILAR: [(&str, &str); 8] = [
    ("port", "server.grpc"),
    ("server.port", "server.grpc"),
    ("datadir", "server.data_dir"),
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
            ("TIDEGAUGE_PORT", "tcp://10.0.0.1:7171"),
            ("TIDEGAUGE_PORT_7171_TCP", "x"),
            ("TIDEGAUGE_QUERY_SERVICE_HOST", "10.0.0.1"),
            ("TIDEGAUGE_QUERY_SERVICE_PORT_GRPC", "7171"),
            ("TIDEGAUGE_QUERY_PORT_7171_TCP_ADDR", "10.0.0.1"),
            ("HOME", "x"),
        ];
        layers.add_environment(environment(&variables)).unwrap();
        layers.add_flag("server", "grpc", "--grpc", "c:1".to_owned());
        let settings = Settings::read(&layers).unwrap();
        assert_eq!((&*settings.server.grpc, &*settings.server.http), ("c:1", "a:2"));
        assert_eq!(settings.publish.interval.0, Duration::from_secs(120));
        assert_eq!(settings.publish.checkpoint_interval.0, Duration::from_millis(300));
        assert_eq!((settings.log.shards, settings.window.length.0), (8, Duration::from_secs(60)));
        assert_eq!(layers.text("server", "http").unwrap().1.to_string(), "tidegauge.toml, line 3");
    }

    /// Unknown keys and unreadable values are errors that name key and place, whatever they look like.
    #[test]
    fn mistakes_are_named() {
        let path = Path::new("x.toml");
        let wrong = |text: &str| Layers::default().add_file(path, text).unwrap_err().to_string();
        assert_eq!(
            wrong("# comment\n[window]\nlength = \"1m\"\nlateness = \"5m\"\n"),
            "x.toml, line 4: there is no setting window.lateness; did you mean window.allowed_lateness?"
        );
        assert!(wrong("\n[wndow]\nlength = \"1m\"\n").contains("line 3: there is no setting wndow.length"));
        assert!(wrong("window = 7\n").starts_with("x.toml, line 1: there is no setting window"));
        assert!(wrong("grpc = \"x\"\n").ends_with("line 1: there is no setting grpc; did you mean server.grpc?"));
        assert_eq!(wrong("[log]\nshards = [1]\n"), "x.toml, line 2: log.shards: must be one value");
        assert!(wrong("window.x.y = 1\n").contains("line 1: window.x: must be one value"));
        assert!(wrong("[log]\n[log\n").starts_with("x.toml: TOML parse error at line 2"));

        let wrong = |name: &str, value: &str| {
            let error = Layers::default().add_environment(environment(&[(name, value)]));
            error.unwrap_err().to_string()
        };
        assert_eq!(wrong("TIDEGAUGE_LOG_RETENTON", "1h"), "TIDEGAUGE_LOG_RETENTON: there is no setting log.retenton");
        for (name, value, meant) in [
            ("TIDEGAUGE_GRPC", "0.0.0.0:7171", "server.grpc"),
            ("TIDEGAUGE_DATA_DIR", "/data", "server.data_dir"),
            ("TIDEGAUGE_DATADIR", "/data", "server.data_dir"),
            ("TIDEGAUGE_PORT", "7171", "server.grpc"),
            ("TIDEGAUGE_SERVER_PORT", "7171", "server.grpc"),
            ("TIDEGAUGE_LOG_LEVEL", "debug", "diagnostics.filter"),
        ] {
            let error = wrong(name, value);
            assert!(error.starts_with(name) && error.ends_with(&format!("did you mean {meant}?")), "{error}");
        }
        assert!(wrong("TIDEGAUGE_", "x").contains("there is no setting"));

        let mut layers = Layers::default();
        layers.add_file(path, "[log]\n\nretention = \"soon\"\n").unwrap();
        let error = Settings::read(&layers).unwrap_err().to_string();
        assert!(error.starts_with("x.toml, line 3: log.retention: \"soon\" is no duration"), "{error}");
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
