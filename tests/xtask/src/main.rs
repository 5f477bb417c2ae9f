//! Development commands of Tidegauge.
//!
//! `cargo xtask test` runs everything that must hold before a change lands; `cargo xtask prove …` runs the longer proofs.
//! Whatever a command needs from a package registry it installs under the target folder.

mod environment;
mod generate;
mod prove;
mod python;
mod test;

use std::process::ExitCode;

use anyhow::Result;

const USAGE: &str = "\
usage: cargo xtask <command>

  test [--rust-only]      Rust suites, then the Python readers (DuckDB, pyarrow, ADBC) against a real server
  prove load [--events N] [--kills N] [--debug]
                          load N events (2,000,000) live and as backfill, kill the server N times (5) on the way,
                          compare every window with DuckDB's GROUP BY over the file
  prove seam [--answers N] [--debug]
                          readers ask N times (10,000) during publish, correction, kill and restart
  generate FILE [--events N]
                          write the events that `prove load` uses
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["help" | "--help" | "-h"] = words.as_slice() {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let Some(task) = task(&words) else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    match task() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the words ask for; nothing where one of them is unknown: a wrong call must not take minutes, or write a file.
fn task<'a>(words: &'a [&'a str]) -> Option<Box<dyn FnOnce() -> Result<()> + 'a>> {
    match words {
        ["test", flags @ ..] if are_flags(flags, &[], &["--rust-only"]) => Some(Box::new(|| test::run(flags))),
        ["prove", "load", flags @ ..] if are_flags(flags, &["--events", "--kills", "--only"], &["--debug"]) => {
            Some(Box::new(|| prove::load(flags)))
        }
        ["prove", "seam", flags @ ..] if are_flags(flags, &["--answers"], &["--debug"]) => {
            Some(Box::new(|| prove::seam(flags)))
        }
        ["generate", file, flags @ ..] if !file.starts_with('-') && are_flags(flags, &["--events"], &[]) => {
            Some(Box::new(|| generate::command(file, flags)))
        }
        _ => None,
    }
}

/// Whether these are flags of a command: `valued` ones each with a value behind it, and `plain` ones.
fn are_flags(flags: &[&str], valued: &[&str], plain: &[&str]) -> bool {
    let mut flags = flags.iter();
    while let Some(flag) = flags.next() {
        let is_known = match valued.contains(flag) {
            true => flags.next().is_some_and(|value| !value.starts_with('-')),
            false => plain.contains(flag),
        };
        if !is_known {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What looks like a flag is never taken for a file, and an unknown one starts nothing.
    #[test]
    fn wrong_calls_start_nothing() {
        let calls = [
            "test",
            "test --rust-only",
            "prove load --events 2_000 --kills 0 --only live --debug",
            "prove seam",
            "generate events.ndjson --events 10",
        ];
        let is_task = |call: &str| task(&call.split(' ').collect::<Vec<_>>()).is_some();
        assert!(calls.into_iter().all(is_task));
        for call in calls {
            assert!(!is_task(&format!("{call} --help")) && !is_task(&format!("{call} more")), "{call}");
        }
        for call in [
            "prove",
            "prove load --events",
            "prove seam --answers --debug",
            "generate",
            "generate --help",
            "generate -h --events 3",
        ] {
            assert!(!is_task(call), "{call}");
        }
    }
}
