//! The server under test: a child process of ours, or one that runs already.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tidegauge_client::{Client, ClientOptions};

use super::TargetArgs;
use crate::failure::{Doing as _, Failure, Outcome};

/// Tenant of the benchmarks.
pub(super) const TENANT: &str = "bench";
/// Another tenant, where a benchmark needs one.
pub(super) const NEIGHBOUR: &str = "bench-neighbour";

/// A server and how to reach it.
#[derive(Debug)]
pub(super) struct Server {
    endpoint: String,
    token: String,
    http: Option<String>,
    child: Option<Child>,
    _folder: Option<TempDir>,
}

impl Server {
    /// The server named by the arguments, otherwise a new one with these settings.
    ///
    /// # Errors
    /// When it does not start.
    pub(super) fn start(args: &TargetArgs, settings: &[(&str, &str)]) -> Outcome<Self> {
        if let (Some(endpoint), Some(token)) = (&args.endpoint, &args.token) {
            let (endpoint, token) = (endpoint.clone(), token.clone());
            return Ok(Self { endpoint, token, http: None, child: None, _folder: None });
        }
        let program = std::env::current_exe().doing("this program's path")?;
        // Beside the caller, not in the system's temporary folder, which may be memory: a sync must reach a disk.
        let folder =
            tempfile::Builder::new().prefix(".tidegauge-bench-").tempdir_in(".").doing("a temporary folder")?;
        let data_dir = folder.path().join("data");
        let mut child = Command::new(&program)
            .args(["serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir"])
            .arg(&data_dir)
            .envs(settings.iter().copied())
            .env_remove("TIDEGAUGE_TOKEN")
            .env("TIDEGAUGE_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .doing("starting a server")?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).doing("reading the server's address")?;
        }
        let address = |name: &str| line.split_whitespace().find_map(|word| word.strip_prefix(name)).map(str::to_owned);
        let Some(grpc) = address("grpc=") else {
            let _ = child.kill();
            let _ = child.wait();
            return Err(Failure::new("the server did not start"));
        };
        let made = Command::new(&program)
            .args([
                "token",
                "create",
                "--user",
                "bench",
                "--role",
                "admin",
                "--ttl",
                "1d",
                "--all-tenants",
                "--data-dir",
            ])
            .arg(&data_dir)
            .stderr(Stdio::null())
            .output()
            .doing("making a token")?;
        Ok(Self {
            endpoint: format!("http://{grpc}"),
            token: String::from_utf8_lossy(&made.stdout).trim().to_owned(),
            http: address("http="),
            child: Some(child),
            _folder: Some(folder),
        })
    }

    /// A new connection.
    ///
    /// # Errors
    /// When the server does not accept.
    pub(super) async fn connect(&self) -> Outcome<Client> {
        self.connect_as(TENANT).await
    }

    /// A new connection, for a tenant.
    ///
    /// # Errors
    /// When the server does not accept.
    pub(super) async fn connect_as(&self, tenant: &str) -> Outcome<Client> {
        self.connect_for(Some(tenant.to_owned())).await
    }

    /// A new connection, for all tenants.
    ///
    /// # Errors
    /// When the server does not accept.
    pub(super) async fn connect_to_all(&self) -> Outcome<Client> {
        self.connect_for(None).await
    }

    async fn connect_for(&self, tenant: Option<String>) -> Outcome<Client> {
        let options = ClientOptions {
            endpoint: self.endpoint.clone(),
            token: Some(self.token.clone()),
            tenant,
            ..ClientOptions::default()
        };
        Ok(Client::connect(options).await?)
    }

    /// Environment for our own commands against this server.
    pub(super) fn credentials(&self) -> [(&'static str, &str); 2] {
        [("TIDEGAUGE_ENDPOINT", &self.endpoint), ("TIDEGAUGE_TOKEN", &self.token)]
    }

    /// Resident memory of our child, in bytes; `None` for a foreign server or where the system does not tell.
    pub(super) fn memory_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.as_ref()?.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
    }

    /// Sum of a counter of `/metrics` over its labels; `None` for a foreign server.
    pub(super) async fn counter(&self, name: &str) -> Option<f64> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        let address = self.http.as_ref()?;
        let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            matches!(rest.as_bytes().first(), Some(b' ' | b'{'))
                .then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
        });
        Some(values.sum())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
