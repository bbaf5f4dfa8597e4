//! The client libraries of other languages that the tests put before slipring: the versions that a file among the
//! tests pins, by their own installer, below `target/clients`, and again only when that file changes.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use testkit::Runtime;

use super::{install, pip};
use crate::tool::Tool;

/// Finds or brings the libraries of one language, and says how.
pub(super) fn find_or_bring(runtime: Runtime, system: bool) -> Result<&'static str> {
    if runtime.check().is_ok() {
        return Ok("found");
    }
    if !runtime.runs() {
        install(system, package(runtime)).with_context(|| format!("there is no {runtime}"))?;
    }
    let packages = runtime.packages();
    let beside = packages.parent().context("it is a folder in target")?;
    fs::create_dir_all(beside).with_context(|| format!("cannot make {}", beside.display()))?;
    let fresh = tempfile::tempdir_in(beside)?;
    let pins = runtime.pins();
    fs::copy(runtime.programmes().join(pins), fresh.path().join(pins))?;
    let how = match runtime {
        Runtime::Python => {
            from_wheels(fresh.path(), system)?;
            "brought by pip and kept"
        }
        Runtime::Node => {
            from_packages(fresh.path(), system)?;
            "brought by npm and kept"
        }
    };
    // Whole and at once: half brought would look like brought.
    if packages.exists() {
        fs::remove_dir_all(&packages).with_context(|| format!("cannot empty {}", packages.display()))?;
    }
    fs::rename(fresh.keep(), &packages)?;
    runtime.check()?;
    Ok(how)
}

pub(super) fn remedy(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Python if cfg!(target_os = "macos") => "brew install python && cargo xtask setup",
        Runtime::Python => "sudo apt-get install --yes python3-pip && cargo xtask setup",
        Runtime::Node if cfg!(target_os = "macos") => "brew install node && cargo xtask setup",
        Runtime::Node => "sudo apt-get install --yes nodejs npm && cargo xtask setup",
    }
}

/// The system's package that holds the program.
fn package(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Python => "python3",
        Runtime::Node => "nodejs",
    }
}

/// Into a folder of their own: no virtual environment, which a bare system may lack the means for.
fn from_wheels(folder: &Path, system: bool) -> Result<()> {
    if pip().is_none() {
        install(system, "python3-pip").context("there is no pip")?;
    }
    let pip = pip().context("there is no pip")?;
    let options = [
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--require-hashes",
        "--only-binary=:all:",
        "--target",
    ];
    let installer = Tool::new(pip[0], &pip[1..]).args(&options).args(&[folder]);
    installer
        .args(&["--requirement"])
        .args(&[folder.join(Runtime::Python.pins())])
        .output()?;
    Ok(())
}

fn from_packages(folder: &Path, system: bool) -> Result<()> {
    let npm = |args: &[&str]| Tool::new("npm", args);
    if !npm(&["--version"]).works() {
        install(system, "npm").context("there is no npm")?;
    }
    fs::copy(
        Runtime::Node.programmes().join("package.json"),
        folder.join("package.json"),
    )?;
    let options = ["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"];
    npm(&options).args(&[folder]).output()?;
    Ok(())
}
