//! Runtimes of client libraries in other languages, with the packages that the set-up brought for them.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

use crate::servers::{target_folder, under_ci};

/// Another language that the tests bring clients of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// python3
    Python,
    /// node
    Node,
}

// === impl Runtime ===

impl Runtime {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Python, Self::Node];

    /// The program that runs a file of it.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::Python => "python3",
            Self::Node => "node",
        }
    }

    /// The folder of the programmes of this language, and of the file that pins their packages.
    #[must_use]
    pub fn programmes(self) -> PathBuf {
        let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("../slipring/tests/clients");
        clients.join(match self {
            Self::Python => "python",
            Self::Node => "node",
        })
    }

    /// The file, among the programmes and in turn beside the packages, that says which packages in which versions.
    #[must_use]
    pub fn pins(self) -> &'static str {
        match self {
            Self::Python => "requirements.txt",
            Self::Node => "package-lock.json",
        }
    }

    /// Where `cargo xtask setup` puts its packages.
    #[must_use]
    pub fn packages(self) -> PathBuf {
        target_folder().join("clients").join(match self {
            Self::Python => "python",
            Self::Node => "node",
        })
    }

    /// The program is there, and its packages are those that are pinned.
    ///
    /// # Errors
    /// When not, saying what to do.
    pub fn check(self) -> Result<()> {
        ensure!(
            self.runs(),
            "{self} is missing: install it and run `cargo xtask setup`"
        );
        let pinned = fs::read(self.programmes().join(self.pins()))?;
        ensure!(
            fs::read(self.packages().join(self.pins())).is_ok_and(|brought| brought == pinned),
            "the packages for {self} are missing: run `cargo xtask setup`"
        );
        Ok(())
    }

    /// The program can be started.
    #[must_use]
    pub fn runs(self) -> bool {
        let mut version = Command::new(self.program());
        let version = version
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        version.status().is_ok_and(|status| status.success())
    }

    /// Whether its programmes can run here; where not, says so once on standard error.
    ///
    /// # Panics
    /// Under CI, where a missing runtime is a failure.
    #[must_use]
    pub fn runs_here(self) -> bool {
        match self.check() {
            Ok(()) => true,
            Err(error) => {
                assert!(!under_ci(), "{error}");
                eprintln!("not run: {error}");
                false
            }
        }
    }

    /// One of its programmes, with the packages in its reach.
    #[must_use]
    pub fn programme(self, name: &str) -> Command {
        let mut command = Command::new(self.program());
        match self {
            // Compiled files do not belong among the sources.
            Self::Python => command
                .env("PYTHONDONTWRITEBYTECODE", "1")
                .env("PYTHONPATH", self.packages()),
            Self::Node => command.env("NODE_PATH", self.packages().join("node_modules")),
        };
        command.arg(self.programmes().join(name));
        command
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program())
    }
}
