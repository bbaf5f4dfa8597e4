//! Child processes that end with the driver, and the ports that they listen on.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use anyhow::{Context, Result, bail};

/// A running child. Dropping it kills it and waits for its end.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
}

/// Set when the user wants the driver to end.
#[derive(Clone, Debug)]
pub(super) struct Interrupt(Arc<AtomicBool>);

/// Listening ports come from below the ephemeral range: the churn workload fills that with closed connections.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// A TCP port of 127.0.0.1 that nobody listens on, a different one at each call.
pub(super) fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let span = PORTS.end - PORTS.start;
    // Two drivers at once begin at different places.
    let begin = (std::process::id() % u32::from(span)) as u16;
    for _ in 0..span {
        let port = PORTS.start + (begin + NEXT.fetch_add(1, Ordering::Relaxed)) % span;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port from {} to {}", PORTS.start, PORTS.end)
}

// === impl Process ===

impl Process {
    /// Starts `command` with both outputs going to the file `log`, in a process group of its own: Ctrl-C reaches the
    /// driver alone, which then ends its children.
    pub(super) fn spawn(command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        Ok(Self { child })
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its status if it has ended.
    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === impl Interrupt ===

impl Interrupt {
    /// From now on Ctrl-C and SIGTERM only set the flag; the second one ends the driver where it stands.
    pub(super) fn on_signals() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag))?;
            signal_hook::flag::register(signal, Arc::clone(&flag))?;
        }
        Ok(Self(flag))
    }

    /// # Errors
    /// Once a signal has come.
    pub(super) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }
}
