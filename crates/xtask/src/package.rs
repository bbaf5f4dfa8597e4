//! The Debian package: program, unit, configuration, manual and completions, by cargo-deb.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use testkit::servers::target_folder;

use crate::tool::Tool;

/// What must be in it.
const FILES: [&str; 9] = [
    "./usr/bin/slipring",
    "./etc/slipring/slipring.toml",
    "./usr/lib/systemd/system/slipring.service",
    "./usr/lib/systemd/system/slipring.socket",
    "./usr/share/slipring/upgrade.conf",
    "./usr/share/man/man1/slipring.1.gz",
    "./usr/share/bash-completion/completions/slipring",
    "./usr/share/zsh/vendor-completions/_slipring",
    "./usr/share/fish/vendor_completions.d/slipring.fish",
];

/// Builds the package into `target/debian`, and looks into it.
///
/// # Errors
/// What is missing on this machine, or in the package.
pub(crate) fn run() -> Result<bool> {
    let build = Tool::cargo(&["build", "--release", "--package", "slipring"]);
    ensure!(build.passes()?, "slipring does not build");
    // The flags are known to the program alone: its own test writes what is made of them.
    let manual = ["test", "--package", "slipring", "--bin", "slipring", "manual"];
    ensure!(Tool::cargo(&manual).passes()?, "no manual");
    let made = Tool::cargo(&["deb", "--package", "slipring", "--no-build"])
        .output()
        .context("cargo-deb makes the package: cargo install cargo-deb")?;
    let package = made.lines().last().context("cargo-deb names no package")?;
    let content = Tool::new("dpkg-deb", &["--contents", package]).output()?;
    for file in FILES {
        let there = content.lines().any(|line| line.ends_with(file));
        ensure!(there, "{file} is not in {package}:\n{content}");
    }
    let unit = Tool::new("systemd-analyze", &["--version"]).works();
    if unit {
        verify_unit(package)?;
    }
    println!("{package}");
    Ok(true)
}

/// systemd takes the units as they are in the package.
fn verify_unit(package: &str) -> Result<()> {
    let root = target_folder().join("package/root");
    let root = root.to_str().context("paths of this project are plain text")?;
    let _ = fs::remove_dir_all(root);
    Tool::new("dpkg-deb", &["--extract", package, root]).output()?;
    let [unit, socket] =
        ["service", "socket"].map(|kind| format!("{root}/usr/lib/systemd/system/slipring.{kind}"));
    // It names programs where they will be, not where they are now.
    let here = fs::read_to_string(&unit)?.replace("/usr/bin/slipring", &format!("{root}/usr/bin/slipring"));
    fs::write(&unit, here)?;
    Tool::new("systemd-analyze", &["verify", "--man=no", &unit, &socket])
        .output()
        .map(drop)
}
