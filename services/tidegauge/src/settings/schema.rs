//! Every setting with its default: the one place to add one.

use std::path::PathBuf;

use tidegauge_core::limits;

use super::layers::{Layers, SettingsError};
use crate::units::{Size, Span};

/// A value as people write it: what it shows, it reads.
pub(crate) trait Value: Sized + std::fmt::Display {
    /// Whether TOML writes it in quotes.
    const QUOTED: bool;
    /// Reads it.
    fn read(text: &str) -> Result<Self, String>;
}

macro_rules! value {
    ($($type:ty, $quoted:literal, $what:literal;)*) => {$(
        impl Value for $type {
            const QUOTED: bool = $quoted;
            fn read(text: &str) -> Result<Self, String> {
                text.parse().map_err(|_| format!(concat!("{:?} is no ", $what), text))
            }
        }
    )*};
}
value! {
    u64, false, "number";
    u32, false, "number";
    usize, false, "number";
    bool, false, "truth value (true or false)";
    String, true, "text";
}
impl Value for Span {
    const QUOTED: bool = true;
    fn read(text: &str) -> Result<Self, String> {
        text.parse()
    }
}
impl Value for Size {
    const QUOTED: bool = true;
    fn read(text: &str) -> Result<Self, String> {
        text.parse()
    }
}

/// A path; empty means none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct OptionalPath(pub(crate) Option<PathBuf>);

impl std::fmt::Display for OptionalPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.as_ref().map_or(Ok(()), |path| write!(f, "{}", path.display()))
    }
}
impl Value for OptionalPath {
    const QUOTED: bool = true;
    fn read(text: &str) -> Result<Self, String> {
        Ok(Self((!text.is_empty()).then(|| text.into())))
    }
}

/// One setting, for listing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    /// Its section.
    pub(crate) section: &'static str,
    /// Its name in the section.
    pub(crate) key: &'static str,
    /// What it does.
    pub(crate) doc: &'static str,
    /// Whether TOML writes it in quotes.
    pub(crate) quoted: bool,
    /// Its default, as text.
    pub(crate) default: fn() -> String,
}

impl Key {
    /// Whether its value must not be shown.
    pub(crate) fn is_secret(&self) -> bool {
        ["secret", "password", "token"].iter().any(|word| self.key.split('_').any(|part| part == *word))
    }
}

macro_rules! settings {
    ($($(#[doc = $section_doc:literal])* $section:ident: $type:ident {
        $(#[doc = $doc:literal] $key:ident: $value:ty = $default:expr;)*
    })*) => {
        /// The effective settings.
        #[derive(Clone, Debug)]
        pub(crate) struct Settings {
            $($(#[doc = $section_doc])* pub(crate) $section: $type,)*
        }
        $(
            $(#[doc = $section_doc])*
            #[derive(Clone, Debug)]
            pub(crate) struct $type {
                $(#[doc = $doc] pub(crate) $key: $value,)*
            }
        )*
        /// Every setting, in the order of printing.
        pub(crate) const KEYS: &[Key] = &[$($(Key {
            section: stringify!($section),
            key: stringify!($key),
            doc: $doc,
            quoted: <$value as Value>::QUOTED,
            default: || { let value: $value = $default; value.to_string() },
        },)*)*];
        impl Settings {
            /// Reads the settings out of their layers.
            ///
            /// # Errors
            /// The first value that cannot be read or breaks a rule, with its key and where it came from.
            pub(crate) fn read(layers: &Layers) -> Result<Self, SettingsError> {
                let settings = Self {
                    $($section: $type {
                        $($key: layers.get::<$value>(stringify!($section), stringify!($key), || $default)?,)*
                    },)*
                };
                super::rules::check(&settings, layers)?;
                Ok(settings)
            }
        }
    };
}

settings! {
    /// Where the server listens and keeps its data.
    server: Server {
        /// Directory of everything durable
        data_dir: String = "./tidegauge-data".to_owned();
        /// Address of gRPC: own services and Flight SQL
        grpc: String = "127.0.0.1:7171".to_owned();
        /// Address of HTTP: /livez, /readyz, /metrics
        http: String = "127.0.0.1:7172".to_owned();
        /// Listen beyond this machine without TLS: something else protects the line
        insecure_plaintext: bool = false;
        /// Certificate chain (PEM) of the server; with it gRPC speaks TLS
        tls_certificate: OptionalPath = OptionalPath::default();
        /// Private key (PEM) of the certificate
        tls_key: OptionalPath = OptionalPath::default();
        /// Connections from one address; 0 for half of all. Raise it where a proxy or sidecar makes many connections
        connections_per_address: usize = 0;
        /// Connections of one principal; 0 for a quarter of all
        connections_per_principal: usize = 0;
        /// Threads that serve; 0 for one a core
        threads: usize = 0;
    }
    /// What the process says about itself.
    diagnostics: Diagnostics {
        /// Filter of log lines, as in TIDEGAUGE_LOG
        filter: String = "info,fjall=warn,lsm_tree=warn".to_owned();
        /// text or json
        format: String = "text".to_owned();
    }
    /// Who may do what.
    auth: Auth {
        /// Rules file (CSV UserName,tenant_id); none: a credential's own tenants count
        rules_file: OptionalPath = OptionalPath::default();
    }
    /// The event log.
    log: Log {
        /// Shards; fixed when the data directory is made
        shards: u32 = limits::SHARDS;
        /// Bytes of a segment file
        segment_bytes: Size = Size(limits::SEGMENT_BYTES);
        /// Bytes of older segments that a start checks whole; the others are checked while the server runs
        start_check_bytes: Size = Size(limits::LOG_START_CHECK_BYTES);
        /// Bytes waiting in a shard before requests are refused
        queue_bytes: Size = Size(limits::INGEST_QUEUE_BYTES as u64);
        /// How long records are kept, if nothing needs them longer
        retention: Span = Span(limits::LOG_RETENTION);
        /// Share of the disk that one tenant may take with log that nothing needs, in percent; over it that goes first when room is short
        tenant_share_percent: u64 = limits::LOG_TENANT_SHARE_PERCENT;
        /// Share of the disk that stays free, in percent
        reserve_percent: u64 = limits::DISK_RESERVE_PERCENT;
        /// Bytes of the disk that stay free
        reserve_bytes: Size = Size(limits::DISK_RESERVE_BYTES);
    }
    /// Event time.
    window: Window {
        /// Length of a window; divides an hour
        length: Span = Span(limits::WINDOW);
        /// How long a window waits for events after its end
        allowed_lateness: Span = Span(limits::ALLOWED_LATENESS);
        /// Silence after which a tenant's watermark follows the clock
        idle_timeout: Span = Span(limits::IDLE_TIMEOUT);
        /// Age behind the watermark beyond which a LIVE event becomes a dead letter
        lateness_horizon: Span = Span(limits::LATENESS_HORIZON);
        /// How far ahead of the clock an event's time may be
        future_tolerance: Span = Span(limits::FUTURE_TOLERANCE);
    }
    /// Checkpoints and publishing into the lake.
    publish: Publish {
        /// Age at which what waits is published
        interval: Span = Span(limits::PUBLISH_INTERVAL);
        /// Longest time between two checkpoints
        checkpoint_interval: Span = Span(limits::CHECKPOINT_INTERVAL);
        /// Bytes of log between two checkpoints
        checkpoint_log_bytes: Size = Size(limits::CHECKPOINT_LOG_BYTES);
        /// Rows of one shard in memory; reached, publishing is forced
        state_rows: usize = limits::STATE_ROWS_MAX;
    }
    /// What one tenant may publish.
    quota: Quota {
        /// Events a second
        events_per_second: u64 = limits::QUOTA_EVENTS_PER_SECOND;
        /// Bytes a second
        bytes_per_second: Size = Size(limits::QUOTA_BYTES_PER_SECOND);
    }
    /// Limits of SQL.
    query: Query {
        /// Wall time of a query
        time: Span = Span(limits::QUERY_TIME_MAX);
        /// Memory of a query
        memory_bytes: Size = Size(limits::QUERY_MEMORY_BYTES as u64);
        /// Memory of all queries together
        total_memory_bytes: Size = Size(4 * limits::QUERY_MEMORY_BYTES as u64);
        /// Bytes of the lake that a query may read
        scan_bytes: Size = Size(limits::QUERY_SCAN_BYTES_MAX);
        /// Rows of a result
        rows: u64 = limits::QUERY_ROWS_MAX;
        /// Queries of one tenant that run at once
        per_tenant: usize = limits::QUERIES_PER_TENANT;
        /// Queries of one tenant that wait
        waiting_per_tenant: usize = limits::QUERIES_WAITING_PER_TENANT;
        /// Bytes of lake objects kept in memory
        cache_bytes: Size = Size(64 << 20);
    }
}
