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
    let result = match words.as_slice() {
        ["test", flags @ ..] => test::run(flags),
        ["prove", "load", flags @ ..] => prove::load(flags),
        ["prove", "seam", flags @ ..] => prove::seam(flags),
        ["generate", file, flags @ ..] => generate::command(file, flags),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
