//! Other programs, run in the workspace.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use testkit::process::cargo;

/// One run of a program.
#[derive(Debug)]
pub(crate) struct Tool {
    command: Command,
}

// === impl Tool ===

impl Tool {
    pub(crate) fn new(program: &str, args: &[&str]) -> Self {
        Self::of(Command::new(program), args)
    }

    /// The cargo that runs us.
    pub(crate) fn cargo(args: &[&str]) -> Self {
        Self::of(cargo(), args)
    }

    fn of(mut command: Command, args: &[&str]) -> Self {
        command.args(args).current_dir(crate::workspace());
        Self { command }
    }

    pub(crate) fn args<A: AsRef<OsStr>>(mut self, args: &[A]) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it in our terminal: whether it succeeded.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn passes(mut self) -> Result<bool> {
        let status = self
            .command
            .status()
            .with_context(|| format!("cannot run {self}"))?;
        Ok(status.success())
    }

    /// Runs it silently, and gives what it printed.
    ///
    /// # Errors
    /// When it cannot be started or fails, with the last lines of what it complained.
    pub(crate) fn output(mut self) -> Result<String> {
        let output = self
            .command
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {self}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let complaint = String::from_utf8_lossy(&output.stderr);
        let last = complaint.trim().lines().last().unwrap_or("without a word");
        bail!("{self} failed: {last}")
    }

    /// Whether it can be run and succeeds; what it prints is thrown away.
    pub(crate) fn works(self) -> bool {
        self.output().is_ok()
    }
}

impl std::fmt::Display for Tool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let program = self.command.get_program();
        let program = Path::new(program).file_name().unwrap_or(program);
        let words = [program].into_iter().chain(self.command.get_args());
        let line: Vec<_> = words.map(OsStr::to_string_lossy).collect();
        f.write_str(&line.join(" "))
    }
}
