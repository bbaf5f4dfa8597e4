//! Child processes that never outlive us.
//!
//! ```text
//!  test process --spawn--> redis-server, sentinel, slipring     each in a process group of its own: a terminal's
//!       |                        ^                              Ctrl-C reaches us alone, and we clean up
//!       | pipe: watch / leave    | kill -9 once the pipe ends
//!       +-----------------> guardian (sh) ---> removes the scratch folder
//! ```
//! A normal end drops each [`Process`], which kills it by its own pid. After `kill -9`, an abort or a test runner's
//! timeout nothing is dropped, but the kernel closes the pipe: the guardian then kills what it was told of.
//! The kernel's own parent-death signal would need unsafe code in the child, and is bound to the spawning thread.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::wait::{STEP_TIMEOUT, wait_for};

/// When set, the scratch folders with all logs stay after the end.
pub const KEEP_SCRATCH: &str = "TESTKIT_KEEP";

const LOG_TAIL_LINES: usize = 25;

/// One program, its arguments and at most one running instance of it; killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    program: PathBuf,
    args: Vec<String>,
    envs: Vec<(String, String)>,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

/// A folder for one server's or cluster's files, below the scratch folder of this test process.
///
/// # Errors
/// When the folder cannot be made.
pub fn scratch(name: &str) -> Result<TempDir> {
    let root = &guardian().root;
    let mut folder = tempfile::Builder::new()
        .prefix(&format!("{name}-"))
        .tempdir_in(root)
        .with_context(|| format!("cannot make a folder in {}", root.display()))?;
    folder.disable_cleanup(keeps_scratch());
    Ok(folder)
}

/// The cargo that runs us, or the one of this machine.
#[must_use]
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What cargo has told us of our own package. Build scripts that heed it (ring's) would run again, with all that is
    // built upon them, each time that cargo is asked by us and not by a shell.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_MANIFEST_") || text.starts_with("CARGO_PKG_") {
            cargo.env_remove(&name);
        }
    }
    cargo
}

/// Kills everything that this process started and removes its scratch folder, now. Nothing can be started afterwards: it
/// is for the last line before an exit that drops nothing, such as Ctrl-C's.
pub fn end_all() {
    let guardian = guardian();
    drop(
        guardian
            .orders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(),
    );
    // Fails only if someone else waited for it: then it has ended.
    let _ = guardian.sh.lock().unwrap_or_else(PoisonError::into_inner).wait();
}

// === impl Process ===

impl Process {
    /// Starts `program`; its output and errors are appended to `log`.
    ///
    /// # Errors
    /// When the log cannot be opened or the program cannot be started.
    pub fn start(name: &str, program: &Path, args: Vec<String>, log: PathBuf) -> Result<Self> {
        Self::start_with_env(name, program, args, Vec::new(), log)
    }

    /// The same with environment variables added.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn start_with_env(
        name: &str,
        program: &Path,
        args: Vec<String>,
        envs: Vec<(String, String)>,
        log: PathBuf,
    ) -> Result<Self> {
        let process = Self {
            name: name.to_owned(),
            program: program.to_owned(),
            args,
            envs,
            log,
            child: Mutex::new(None),
        };
        process.restart()?;
        Ok(process)
    }

    /// Starts the program again with the same arguments, after it has ended or been killed.
    ///
    /// # Errors
    /// When it still runs or cannot be started.
    pub fn restart(&self) -> Result<()> {
        let mut child = self.child();
        if let Some(running) = child.as_mut() {
            if running.try_wait()?.is_none() {
                bail!("{} still runs as {}", self.name, running.id());
            }
            forget(running.id());
        }
        let log = File::options().create(true).append(true).open(&self.log)?;
        let started = Command::new(&self.program)
            .args(&self.args)
            .envs(self.envs.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {} for {}", self.program.display(), self.name))?;
        guardian().tell("watch", started.id());
        *child = Some(started);
        Ok(())
    }

    /// The name given at the start, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pid, while it runs or is stopped.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        let mut child = self.child();
        let child = child.as_mut()?;
        matches!(child.try_wait(), Ok(None)).then(|| child.id())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self
            .pid()
            .ok_or_else(|| anyhow!("{} has ended\n{}", self.name, self.log_tail()))?;
        signal::kill(Pid::from_raw(pid.cast_signed()), signal)
            .with_context(|| format!("{signal} to {}", self.name))
    }

    /// `kill -9`, and waits until the kernel has closed its sockets. Nothing happens if it has ended already.
    pub fn kill(&self) {
        if let Some(mut child) = self.child().take() {
            // Both fail only for a child that is gone, which is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
            forget(child.id());
        }
    }

    /// Waits for the end by itself.
    ///
    /// # Errors
    /// When it still runs after `timeout`, or was never running; with the tail of its log.
    pub fn wait(&self, timeout: Duration) -> Result<ExitStatus> {
        let status = wait_for(&format!("the end of {}", self.name), timeout, || {
            let mut child = self.child();
            let child = child
                .as_mut()
                .ok_or_else(|| anyhow!("{} was killed", self.name))?;
            child
                .try_wait()?
                .ok_or_else(|| anyhow!("{} still runs", self.name))
        })
        .with_context(|| self.log_tail())?;
        if let Some(child) = self.child().take() {
            forget(child.id());
        }
        Ok(status)
    }

    /// Waits, for the length of [`STEP_TIMEOUT`], until `attempt` succeeds.
    ///
    /// # Errors
    /// The last error of `attempt` when the time is over or the process has ended, with the tail of its log.
    pub fn wait_until<T>(&self, what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let outcome = wait_for(what, STEP_TIMEOUT, || match attempt() {
            Err(error) if self.pid().is_none() => Ok(Err(error.context(format!("{} has ended", self.name)))),
            attempted => attempted.map(Ok),
        });
        outcome.flatten().with_context(|| self.log_tail())
    }

    /// All that it has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    /// The last lines of its log under a heading, for error messages.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
        format!("--- the last lines of {} ---\n{}", self.name, tail.join("\n"))
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

// === the guardian ===

/// Reads `watch PID` and `leave PID` until the pipe ends with our own end, however that comes.
const GUARDIAN: &str = r#"
trap '' HUP INT
pids=
while read -r word pid; do
  case $word in
    watch) pids="$pids $pid" ;;
    leave) kept=; for one in $pids; do [ "$one" = "$pid" ] || kept="$kept $one"; done; pids=$kept ;;
  esac
done
[ -z "$pids" ] || kill -9 $pids
[ -n "$2" ] || rm -rf "$1" || { sleep 1; rm -rf "$1"; }
"#;

struct Guardian {
    root: PathBuf,
    sh: Mutex<Child>,
    orders: Mutex<Option<ChildStdin>>,
}

fn guardian() -> &'static Guardian {
    static GUARDIAN_OF_THIS_PROCESS: OnceLock<Guardian> = OnceLock::new();
    GUARDIAN_OF_THIS_PROCESS
        .get_or_init(|| Guardian::start().expect("sh and a temporary folder exist on any Unix"))
}

fn forget(pid: u32) {
    guardian().tell("leave", pid);
}

fn keeps_scratch() -> bool {
    std::env::var_os(KEEP_SCRATCH).is_some_and(|value| !value.is_empty())
}

// === impl Guardian ===

impl Guardian {
    fn start() -> Result<Self> {
        // In memory where there is such a folder: Sentinel syncs its file to disk at each step of a failover, which
        // takes seconds while a build keeps the disk busy.
        let mut builder = tempfile::Builder::new();
        builder.prefix("slipring-");
        let root = builder
            .tempdir_in("/dev/shm")
            .or_else(|_| builder.tempdir())?
            .keep();
        let mut child = Command::new("sh")
            .args(["-c", GUARDIAN, "guardian"])
            .arg(&root)
            .arg(if keeps_scratch() { "keep" } else { "" })
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let orders = child.stdin.take().expect("stdin was asked to be a pipe");
        Ok(Self {
            root,
            sh: Mutex::new(child),
            orders: Mutex::new(Some(orders)),
        })
    }

    fn tell(&self, word: &str, pid: u32) {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        // Fails only if someone killed the guardian: then Drop alone cleans up.
        if let Some(orders) = orders.as_mut() {
            let _ = writeln!(orders, "{word} {pid}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(folder: &TempDir) -> Process {
        let args = vec!["-c".to_owned(), "echo up; exec sleep 60".to_owned()];
        Process::start("sleeper", Path::new("sh"), args, folder.path().join("log")).unwrap()
    }

    fn lives(pid: u32) -> bool {
        signal::kill(Pid::from_raw(pid.cast_signed()), None).is_ok()
    }

    fn said(process: &Process, text: &str) {
        let there = || {
            process
                .log()
                .contains(text)
                .then_some(())
                .ok_or_else(|| anyhow!(process.log_tail()))
        };
        wait_for(text, Duration::from_secs(5), there).unwrap();
    }

    #[test]
    fn dies_with_its_owner_and_can_be_restarted() {
        let folder = scratch("process").unwrap();
        let process = sleeper(&folder);
        let first = process.pid().unwrap();
        assert!(process.restart().is_err(), "two instances at once");
        said(&process, "up");
        process.kill();
        assert!(!lives(first) && process.pid().is_none());
        process.restart().unwrap();
        let second = process.pid().unwrap();
        wait_for("its first line", Duration::from_secs(5), || {
            process
                .log_tail()
                .contains("up\nup")
                .then_some(())
                .ok_or_else(|| anyhow!(process.log_tail()))
        })
        .unwrap();
        drop(process);
        assert!(!lives(second));
    }

    #[test]
    fn tells_how_it_ended() {
        let folder = scratch("process").unwrap();
        let process = sleeper(&folder);
        assert!(process.wait(Duration::from_millis(20)).is_err());
        process.signal(Signal::SIGTERM).unwrap();
        let status = process.wait(Duration::from_secs(5)).unwrap();
        assert!(!status.success());
        assert!(process.signal(Signal::SIGTERM).is_err());
    }
}
