//! Proofs that take longer than a test may.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tidegauge_core::clock::{Clock as _, SystemClock};
use tidegauge_core::time::{MINUTE_NS, floor_ns, rfc3339};
use tidegauge_harness::{Server, ServerOptions};

use crate::environment::{cargo, flag, number, output, root, run, target};
use crate::{generate, python};

/// Minutes between the last nominal event time and now: past the allowed lateness, so that everything can close.
const AGE_MINUTES: i64 = 135;

/// `prove load`: a file loaded live and as backfill, with kills on the way, equals DuckDB's `GROUP BY` over the file, row for
/// row, by our SQL and by DuckDB on the lake's files alone.
pub(crate) fn load(flags: &[&str]) -> Result<()> {
    let events = number(flags, "--events", 2_000_000)?;
    let kills = number(flags, "--kills", 5)?;
    let only = flag(flags, "--only")?;

    let python = python::interpreter()?;
    let binary = build(flags)?;

    let folder = target().join("prove/load");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let file = folder.join("events.ndjson");
    eprintln!("xtask: writing {events} events to {}", file.display());
    let start_ms = generate::now_ms() - AGE_MINUTES * 60_000;
    generate::write(&file, events, start_ms)?;
    // All windows of the file end at or before this round minute.
    let through = rfc3339(floor_ns((start_ms + generate::SPAN_MS) * 1_000_000 + MINUTE_NS, MINUTE_NS));

    for mode in ["live", "backfill"] {
        if only.is_none_or(|only| only == mode) {
            eprintln!("xtask: === {mode}");
            let (binary, python, folder, file, through) = (&binary, &python, &folder, &file, &through);
            one_mode(&Proof { binary, python, folder, file, through, events, kills }, mode)?;
        }
    }
    println!("prove load: {events} events, live and backfill, {kills} kills each: all windows equal");
    Ok(())
}

/// Builds the server, for release unless `--debug` is given, and returns its path.
fn build(flags: &[&str]) -> Result<PathBuf> {
    let debug = flags.contains(&"--debug");
    let mut build = cargo();
    build.args(["build", "-p", "tidegauge"]);
    if !debug {
        build.arg("--release");
    }
    run(&mut build)?;
    Ok(target().join(if debug { "debug" } else { "release" }).join("tidegauge"))
}

/// `prove seam`: the end-to-end test of the seam with as many answers as the proof asks for.
pub(crate) fn seam(flags: &[&str]) -> Result<()> {
    let answers = number(flags, "--answers", 10_000)?;
    let binary = build(flags)?;
    let mut test = cargo();
    test.args(["test", "-p", "tidegauge-tests", "--test", "e2e", "seam::", "--", "--nocapture"])
        .env("TIDEGAUGE_BIN", binary)
        .env("SEAM_ANSWERS", answers.to_string());
    run(&mut test)
}

struct Proof<'a> {
    binary: &'a Path,
    python: &'a Path,
    folder: &'a Path,
    file: &'a Path,
    /// Boundary from which on everything is in the lake, RFC 3339.
    through: &'a str,
    events: u64,
    kills: u64,
}

fn one_mode(proof: &Proof<'_>, mode: &str) -> Result<()> {
    let clock = SystemClock::default();
    let data = proof.folder.join(format!("data-{mode}"));
    let options = ServerOptions { binary: Some(proof.binary.to_owned()), ..ServerOptions::default() }
        .set("TIDEGAUGE_WINDOW_IDLE_TIMEOUT", "5s")
        .set("TIDEGAUGE_PUBLISH_INTERVAL", "5s")
        .set("TIDEGAUGE_PUBLISH_CHECKPOINT_INTERVAL", "1s");

    let mut server = Server::start(&data, &options);
    let token = server.token("prove", "admin", &[]);

    // Kills fall at even steps of the load's own progress: the state file lists the acknowledged chunks.
    let state = proof.folder.join(format!("load-{mode}.state"));
    let mut loader = Loader::start(proof, mode, &server, &token, &state)?;
    let mut killed = 0;
    while killed < proof.kills {
        let wanted = proof.events * (killed + 1) / (proof.kills + 1);
        match loader.wait_for(wanted, &clock)? {
            Progress::Reached => {
                killed += 1;
                eprintln!("xtask: kill -9 number {killed} at about {wanted} events");
                server.kill();
                loader.stop();
                server = Server::start(&data, &options);
                loader = Loader::start(proof, mode, &server, &token, &state)?;
            }
            Progress::Ended => {
                eprintln!("xtask: the load ended before kill {}; killing while it is aggregated", killed + 1);
                killed += 1;
                server.kill();
                server = Server::start(&data, &options);
                loader = Loader::start(proof, mode, &server, &token, &state)?;
            }
        }
    }
    loader.finish()?;

    eprintln!("xtask: waiting until everything is published");
    let from = clock.monotonic_ns();
    loop {
        let answer = server.cli(&token, &["status", "-o", "json"]);
        ensure!(answer.status.success(), "status: {}", String::from_utf8_lossy(&answer.stderr));
        let status: serde_json::Value = serde_json::from_slice(&answer.stdout).context("status is no JSON")?;
        let keys = status["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
        // Texts of one form compare like their times: boundaries are round minutes.
        let all_through = keys.iter().all(|key| key["boundary"].as_str().is_some_and(|at| at >= proof.through));
        if status["quiescent"].as_bool() == Some(true) && !keys.is_empty() && all_through {
            break;
        }
        ensure!(clock.monotonic_ns() - from < 300_000_000_000, "not published within five minutes: {status}");
        pause();
    }

    let rows = proof.folder.join(format!("rows-{mode}.csv"));
    let sql = "SELECT tenant_id, window_start, metric_name, event_count, sum_value, avg_value, min_value, max_value FROM dashboard_metrics";
    let answer = server.cli(&token, &["query", "-o", "csv", sql]);
    ensure!(answer.status.success(), "query: {}", String::from_utf8_lossy(&answer.stderr));
    fs::write(&rows, answer.stdout)?;
    let (status, log) = server.terminate();
    ensure!(status.success(), "the server ended with {status}:\n{log}");

    let mut compare = Command::new(proof.python);
    compare
        .arg(root().join("tests/interop/compare.py"))
        .arg("--events")
        .arg(proof.file)
        .arg("--rows")
        .arg(&rows)
        .arg("--lake")
        .arg(data.join("lake"));
    run(&mut compare)?;
    let mut verify = Command::new(proof.binary);
    verify.args(["verify", "--data-dir"]).arg(&data);
    print!("{}", output(&mut verify)?);
    Ok(())
}

/// A moment between two questions of a poll.
#[expect(clippy::disallowed_methods, reason = "paces the polling of another process")]
fn pause() {
    std::thread::sleep(Duration::from_millis(100));
}

enum Progress {
    Reached,
    Ended,
}

/// The `tidegauge load` under way.
struct Loader {
    child: std::process::Child,
    state: PathBuf,
    errors: Option<JoinHandle<String>>,
}

impl Loader {
    fn start(proof: &Proof<'_>, mode: &str, server: &Server, token: &str, state: &Path) -> Result<Self> {
        let mut command = Command::new(proof.binary);
        command.arg("load").arg(proof.file).arg("--state").arg(state).arg("--progress").arg("json");
        if mode == "live" {
            command.arg("--live");
        }
        command
            .env("TIDEGAUGE_ENDPOINT", server.endpoint())
            .env("TIDEGAUGE_TOKEN", token)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("tidegauge load")?;
        let mut stderr = child.stderr.take().context("standard error is piped")?;
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = std::io::Read::read_to_string(&mut stderr, &mut text);
            text
        });
        Ok(Self { child, state: state.to_owned(), errors: Some(errors) })
    }

    /// Waits until about `events` events are acknowledged, by the state file.
    fn wait_for(&mut self, events: u64, clock: &SystemClock) -> Result<Progress> {
        let from = clock.monotonic_ns();
        loop {
            if acknowledged(&self.state) >= events {
                return Ok(Progress::Reached);
            }
            if let Some(status) = self.child.try_wait()? {
                let text = self.errors.take().map(|e| e.join().unwrap_or_default()).unwrap_or_default();
                ensure!(status.success(), "tidegauge load ended with {status}: {text}");
                return Ok(Progress::Ended);
            }
            if clock.monotonic_ns() - from > 300_000_000_000 {
                bail!("{events} events were not acknowledged within five minutes");
            }
            pause();
        }
    }

    fn stop(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn finish(mut self) -> Result<()> {
        let status = self.child.wait()?;
        let text = self.errors.take().map(|e| e.join().unwrap_or_default()).unwrap_or_default();
        ensure!(status.success(), "tidegauge load ended with {status}: {text}");
        Ok(())
    }
}

/// Events acknowledged according to a load's state file; 0 while there is none.
fn acknowledged(state: &Path) -> u64 {
    let Ok(text) = fs::read_to_string(state) else { return 0 };
    text.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|line| line["events"].as_u64())
        .sum()
}
