//! TLS from the command line: what fits works, and each way in which server and client do not fit is named with a way out.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;
use tidegauge_tests::{Server, ServerOptions, binary};

const CERTIFICATE: &str = "TIDEGAUGE_SERVER_TLS_CERTIFICATE";
const KEY: &str = "TIDEGAUGE_SERVER_TLS_KEY";

/// A file of the identity for `localhost` that only tests use.
fn identity(name: &str) -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../services/rpc/tests/data");
    folder.join(name).display().to_string()
}

/// Runs `status` with these flags and variables; what it wrote to standard error, if it failed.
fn status(flags: &[&str], variables: &[(&str, &str)]) -> Result<(), String> {
    let output = Command::new(binary())
        .arg("status")
        .args(flags)
        .env_remove("SSL_CERT_FILE")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

#[test]
fn every_misfit_is_named() {
    let folder = TempDir::new().expect("a temporary folder");
    let ca = identity("ca.pem");
    let options = ServerOptions::quick().set(CERTIFICATE, &identity("server.pem")).set(KEY, &identity("server.key"));
    let secure = Server::start(&folder.path().join("secure"), &options);
    let plain = Server::start(&folder.path().join("plain"), &ServerOptions::quick());
    let port = |address: &str| address.rsplit(':').next().expect("an address has a port").to_owned();
    let url = format!("https://localhost:{}", port(&secure.grpc));
    let token = secure.token("ann", "admin", &["tenant-001"]);
    let plain_token = plain.token("ann", "admin", &["tenant-001"]);

    // The authority from the flag, from its variable, and from this machine's list.
    let flags = ["--endpoint", &url, "--token", &token];
    status(&[&flags[..], &["--ca", &ca]].concat(), &[]).expect("--ca");
    status(&flags, &[("TIDEGAUGE_CA", &ca)]).expect("TIDEGAUGE_CA");
    status(&flags, &[("SSL_CERT_FILE", &ca)]).expect("the machine's authorities");
    status(&["--endpoint", &plain.endpoint(), "--token", &plain_token], &[]).expect("plaintext on loopback");

    let not_pem = folder.path().join("not.pem");
    std::fs::write(&not_pem, "no certificate").expect("writable");
    let by_address = format!("https://127.0.0.1:{}", port(&secure.grpc));
    let to_plain = format!("https://localhost:{}", port(&plain.grpc));
    let to_http = format!("http://{}", secure.http);
    let (stranger, not_pem) = (identity("server.pem"), not_pem.display().to_string());
    for (endpoint, authority, problem, hint) in [
        (url.as_str(), stranger.as_str(), "UnknownIssuer", "--ca or TIDEGAUGE_CA"),
        (&by_address, &ca, "not valid for name \"127.0.0.1\"", "stands in the server's certificate"),
        (&secure.endpoint(), &ca, "no connection to http://", "begins with https://"),
        (&to_plain, &ca, "no connection to https://", "begins with http://"),
        (&to_http, &ca, "no connection to http://", "the address of gRPC?"),
        (&url, &not_pem, "ca has no certificate", ""),
        (&url, "no-such-file.pem", "no-such-file.pem: No such file", ""),
    ] {
        let error = status(&["--endpoint", endpoint, "--token", &token, "--ca", authority], &[]).expect_err(endpoint);
        assert!(error.contains(problem) && error.contains(hint), "{endpoint} with {authority}: {error}");
    }
}

/// An identity that cannot be used stops the start and names the file or the setting.
#[test]
fn a_broken_identity_stops_the_start() {
    let folder = TempDir::new().expect("a temporary folder");
    for (certificate, key, problem) in [
        (identity("server.pem"), String::new(), "server.tls_certificate and server.tls_key belong together"),
        (identity("server.pem"), identity("no-such.key"), "no-such.key"),
        (identity("README.md"), identity("server.key"), "README.md"),
        (identity("server.pem"), identity("ca.pem"), "ca.pem"),
        // The key of another certificate.
        (identity("ca.pem"), identity("server.key"), "ca.pem"),
    ] {
        let options = ServerOptions::quick().set(CERTIFICATE, &certificate).set(KEY, &key);
        let log = Server::try_start(&folder.path().join("data"), &options).expect_err(problem);
        assert!(log.contains("error: ") && log.contains(problem), "{problem}: {log}");
    }
}
