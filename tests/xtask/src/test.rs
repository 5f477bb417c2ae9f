//! `cargo xtask test`: everything that must hold before a change lands.

use anyhow::Result;
use tidegauge_harness::{WITHOUT_MOUNTS, is_without_mounts};

use crate::environment::{cargo, root, target};
use crate::python;

pub(crate) fn run_command_env(command: &mut std::process::Command) -> &mut std::process::Command {
    command.env("TIDEGAUGE_BIN", target().join("debug/tidegauge"))
}

pub(crate) fn run(flags: &[&str]) -> Result<()> {
    let rust_only = flags.contains(&"--rust-only");
    // The reader's environment first: a missing toolchain should be told before minutes of compiling.
    let interpreter = if rust_only { None } else { Some(python::interpreter()?) };

    crate::environment::run(cargo().args(["build", "--workspace", "--bins"]))?;
    crate::environment::run(run_command_env(cargo().args(["test", "--workspace", "--quiet"])))?;

    match interpreter {
        None => println!("left out with --rust-only: the Python readers (DuckDB, pyarrow, ADBC Flight SQL)"),
        Some(interpreter) => {
            let mut readers = std::process::Command::new(interpreter);
            readers.current_dir(root()).arg("tests/interop/readers.py");
            crate::environment::run(run_command_env(&mut readers))?;
        }
    }
    if is_without_mounts() {
        println!("left out with {WITHOUT_MOUNTS}: what happens when the disk fills up (tests/e2e/disk.rs)");
    }
    Ok(())
}
