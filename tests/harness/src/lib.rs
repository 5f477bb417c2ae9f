//! Starts the real Tidegauge process, and the command line beside it. Only the standard library, so that `cargo xtask` stays
//! quick to build; the end-to-end tests add the client.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// A credential for tests.
pub type Token = String;

/// Path of the binary: `TIDEGAUGE_BIN`, or beside the test executable in the target folder.
///
/// # Panics
/// When there is none, with what to do.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("TIDEGAUGE_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a running test has a path");
    let folder = test.ancestors().nth(2).expect("tests lie in target/<profile>/deps");
    let path = folder.join("tidegauge");
    assert!(
        path.exists(),
        "{} does not exist: run `cargo build -p tidegauge` first, or `cargo xtask test`",
        path.display()
    );
    path
}

/// Set to 1 on a machine that is known to give no mount namespaces: the tests of a full disk are then left out, and
/// `cargo xtask test` says so at its end.
pub const WITHOUT_MOUNTS: &str = "TIDEGAUGE_TEST_WITHOUT_MOUNTS";

/// Whether [`WITHOUT_MOUNTS`] is set.
pub fn is_without_mounts() -> bool {
    std::env::var_os(WITHOUT_MOUNTS).is_some_and(|value| value == "1")
}

/// How a server is started.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    /// The binary; [`binary`] finds one when this is not set.
    pub binary: Option<PathBuf>,
    /// Address of gRPC; a free port of this machine if not given.
    pub grpc: Option<String>,
    /// Further arguments of `serve`.
    pub arguments: Vec<String>,
    /// Environment, mostly settings (`TIDEGAUGE_<SECTION>_<KEY>`).
    pub environment: Vec<(String, String)>,
    /// A command that becomes the server: its program and arguments, before the server's own.
    pub wrapper: Vec<OsString>,
}

impl ServerOptions {
    /// Short intervals, so that windows close and are published within seconds.
    pub fn quick() -> Self {
        let settings = [
            ("TIDEGAUGE_WINDOW_IDLE_TIMEOUT", "1s"),
            ("TIDEGAUGE_PUBLISH_INTERVAL", "500ms"),
            ("TIDEGAUGE_PUBLISH_CHECKPOINT_INTERVAL", "300ms"),
        ];
        Self { environment: settings.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec(), ..Self::default() }
    }

    /// Listens at this address, so that clients of an earlier life find the server again.
    #[must_use]
    pub fn at(mut self, grpc: &str) -> Self {
        self.grpc = Some(grpc.to_owned());
        self
    }

    /// Starts the server through a command that ends in `exec "$@"`; `argument` stands before the server's command line.
    #[must_use]
    pub fn wrapped(mut self, command: &[&str], argument: &Path) -> Self {
        self.wrapper = command.iter().map(OsString::from).chain([argument.into()]).collect();
        self
    }

    /// Sets one setting.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A running server. Dropping it kills it; what it wrote to standard error is shown if the test fails.
#[derive(Debug)]
pub struct Server {
    child: Child,
    binary: PathBuf,
    data_dir: PathBuf,
    /// `127.0.0.1:port` of gRPC.
    pub grpc: String,
    /// `127.0.0.1:port` of HTTP.
    pub http: String,
    log: Arc<Mutex<String>>,
    /// Collects the log until the process has ended.
    reading: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a server and waits until it accepts.
    ///
    /// # Panics
    /// When it does not start; the text holds what it wrote.
    pub fn start(data_dir: &Path, options: &ServerOptions) -> Self {
        Self::try_start(data_dir, options).unwrap_or_else(|log| panic!("the server did not start:\n{log}"))
    }

    /// Starts a server.
    ///
    /// # Errors
    /// What it wrote to standard error, when it ended instead of listening.
    pub fn try_start(data_dir: &Path, options: &ServerOptions) -> Result<Self, String> {
        let binary = options.binary.clone().unwrap_or_else(binary);
        let mut words = options.wrapper.iter().map(OsString::as_os_str).chain([binary.as_os_str()]);
        let mut command = Command::new(words.next().unwrap_or(binary.as_os_str()));
        command
            .args(words)
            .args(["serve", "--grpc", options.grpc.as_deref().unwrap_or("127.0.0.1:0")])
            .args(["--http", "127.0.0.1:0", "--data-dir"])
            .arg(data_dir)
            .args(&options.arguments)
            // A share of a large disk is more than these tests need: they must also pass where it is nearly full.
            .env("TIDEGAUGE_LOG_RESERVE_PERCENT", "0")
            .envs(options.environment.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{}: {e}", binary.display()));

        let log = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().expect("standard error is piped");
        let sink = Arc::clone(&log);
        let reading = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = sink.lock().expect("no holder panics");
                log.push_str(&line);
                log.push('\n');
            }
        });

        let mut stdout = BufReader::new(child.stdout.take().expect("standard output is piped"));
        let mut first = String::new();
        loop {
            first.clear();
            let read = stdout.read_line(&mut first).unwrap_or(0);
            if read == 0 {
                let status = child.wait().map(|s| s.to_string()).unwrap_or_default();
                // What it wrote last is what matters.
                let _ = reading.join();
                let log = log.lock().expect("no holder panics").clone();
                return Err(format!("{log}{status}"));
            }
            if first.starts_with("listening ") {
                break;
            }
        }
        std::thread::spawn(move || {
            let mut rest = Vec::new();
            let _ = stdout.read_to_end(&mut rest);
        });
        let address = |name: &str| {
            let found = first.split_whitespace().find_map(|word| word.strip_prefix(name));
            found.unwrap_or_else(|| panic!("no {name} in {first:?}")).to_owned()
        };
        Ok(Self {
            binary,
            data_dir: data_dir.to_owned(),
            grpc: address("grpc="),
            http: address("http="),
            child,
            log,
            reading: Some(reading),
        })
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// `http://…` of gRPC.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// What the server has written to standard error.
    pub fn log(&self) -> String {
        self.log.lock().expect("no holder panics").clone()
    }

    /// Makes a token offline, with the data directory's signing key.
    pub fn token(&self, user: &str, role: &str, tenants: &[&str]) -> Token {
        make_token(&self.binary, &self.data_dir, user, role, tenants)
    }

    /// Ends the process at once, as a power cut of the process would.
    pub fn kill(mut self) -> PathBuf {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a killed child ends");
        std::mem::take(&mut self.data_dir)
    }

    /// Asks the process to end and waits for it.
    pub fn terminate(mut self) -> (ExitStatus, String) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().expect("kill exists");
        assert!(sent.success(), "kill -TERM {pid}");
        let status = self.child.wait().expect("a child can be awaited");
        (status, self.whole_log())
    }

    /// What the server has written to standard error until its end, which is waited for.
    fn whole_log(&mut self) -> String {
        let _ = self.reading.take().map(JoinHandle::join);
        self.log()
    }

    /// Waits for the process to end by itself.
    pub fn wait(mut self) -> (ExitStatus, PathBuf) {
        let status = self.child.wait().expect("a child can be awaited");
        (status, std::mem::take(&mut self.data_dir))
    }

    /// Id of the process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Runs the command line against this server.
    pub fn cli<S: AsRef<OsStr>>(&self, token: &str, arguments: &[S]) -> Output {
        Command::new(&self.binary)
            .args(arguments)
            .env("TIDEGAUGE_ENDPOINT", self.endpoint())
            .env("TIDEGAUGE_TOKEN", token)
            .stdin(Stdio::null())
            .output()
            .expect("the binary runs")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- server's log\n{}", self.whole_log());
        }
    }
}

/// Makes a token with the signing key of a data directory.
///
/// # Panics
/// When the command fails.
pub fn token(data_dir: &Path, user: &str, role: &str, tenants: &[&str]) -> Token {
    make_token(&binary(), data_dir, user, role, tenants)
}

fn make_token(binary: &Path, data_dir: &Path, user: &str, role: &str, tenants: &[&str]) -> Token {
    let mut command = Command::new(binary);
    command.args(["token", "create", "--user", user, "--role", role, "--ttl", "1h", "--data-dir"]).arg(data_dir);
    match tenants {
        [] => {
            command.arg("--all-tenants");
        }
        tenants => {
            command.args(tenants.iter().flat_map(|t| ["--tenant", t]));
        }
    }
    let output = command.output().expect("the binary runs");
    assert!(output.status.success(), "token create: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("a token is text").trim().to_owned()
}
