//! The Python tools that read what Tidegauge writes, in a virtual environment under the target folder.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::environment::{root, run, target};

/// Makes the virtual environment with the pinned packages of `tests/interop/requirements.txt`, once per content of that
/// file, and returns its interpreter.
pub(crate) fn interpreter() -> Result<PathBuf> {
    let requirements = root().join("tests/interop/requirements.txt");
    let wanted = std::fs::read_to_string(&requirements)?;
    let folder = target().join("python");
    let interpreter = folder.join("bin/python");
    let stamp = folder.join("installed.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(interpreter);
    }
    if Command::new("python3").arg("--version").output().is_err() {
        bail!("python3 was not found; install Python 3.10 or later, or leave the Python readers out with --rust-only");
    }
    let venv = Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder).status()?;
    if !venv.success() {
        bail!("python3 -m venv failed; on Debian install the package python3-venv");
    }
    let mut install = Command::new(&interpreter);
    install
        .args(["-m", "pip", "install", "--disable-pip-version-check", "--only-binary=:all:", "-r"])
        .arg(&requirements);
    run(&mut install)?;
    std::fs::write(stamp, wanted)?;
    Ok(interpreter)
}
