//! A client programme as a process: it says when a failover may begin, is told when it is over, and ends well or not.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use testkit::{Client, Cluster, Flavor, Proxy};

/// Past anything that a programme does, on a machine busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running programme; killed when dropped.
pub(crate) struct Programme {
    child: Child,
    input: Option<ChildStdin>,
    /// What it prints, line by line.
    lines: Receiver<String>,
    /// What it complains of.
    complaints: Option<JoinHandle<String>>,
}

/// Three nodes, three sentinels, and slipring before them. Sentinel redials a new primary once a second: with a
/// down-after of one second it would now and then call that one down at once, and fail over again.
pub(crate) fn lab(flavor: Flavor) -> Result<(Cluster, Proxy)> {
    let cluster = Cluster::builder(flavor)
        .down_after(Duration::from_secs(2))
        .start()?;
    let proxy = Proxy::builder(env!("CARGO_BIN_EXE_slipring"))
        .sentinels(&cluster)
        .start()?;
    Ok((cluster, proxy))
}

/// A failover by order of an operator, until all know of it. It waits for the replica: programmes may count on every
/// write that was acknowledged, however busy the machine. (One that Sentinel makes alone keeps what was acknowledged
/// since the hold began: the stories judge that one.)
pub(crate) fn fail_over(cluster: &Cluster, proxy: SocketAddr) -> Result<()> {
    let old = cluster.primary()?.port();
    let mut operator = Client::connect(proxy)?;
    operator.set_timeout(PATIENCE)?;
    let said = operator.command(&["PROXY", "FAILOVER"])?.texts().join(" ");
    ensure!(said.starts_with("OK "), "{said}");
    cluster.wait_switched(cluster.shard(), old, PATIENCE)?;
    Ok(())
}

/// No client of this proxy was told of an unknown outcome, and none was closed by a defect.
pub(crate) fn left_no_trace(proxy: &Proxy) -> Result<()> {
    for counter in ["slipring_unknown_outcomes_total", "slipring_session_panics_total"] {
        let count = proxy.metric(counter, &[])?;
        ensure!(count == 0.0, "{counter} is {count}");
    }
    Ok(())
}

// === impl Programme ===

impl Programme {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{command:?}"))?;
        let (say, lines) = mpsc::channel();
        let output = child.stdout.take().context("stdout is a pipe")?;
        thread::spawn(move || {
            let said = BufReader::new(output).lines().map_while(Result::ok);
            for line in said {
                if say.send(line).is_err() {
                    break;
                }
            }
        });
        let mut errors = child.stderr.take().context("stderr is a pipe")?;
        let complaints = thread::spawn(move || {
            let mut all = String::new();
            let _ = errors.read_to_string(&mut all);
            all
        });
        Ok(Self {
            input: child.stdin.take(),
            child,
            lines,
            complaints: Some(complaints),
        })
    }

    /// The next line that it prints.
    pub(crate) fn line(&mut self) -> Result<String> {
        let line = self.lines.recv_timeout(PATIENCE);
        line.map_err(|_| self.failure("it prints nothing"))
    }

    /// Waits for a line that it must print, over all others.
    pub(crate) fn says(&mut self, awaited: &str) -> Result<()> {
        while self.line()? != awaited {}
        Ok(())
    }

    /// Writes a line to its input.
    pub(crate) fn tell(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("its input is open until it ends")?;
        writeln!(input, "{line}").map_err(|_| self.failure("it reads nothing"))
    }

    /// Closes its input, and waits for its end: what it still printed.
    pub(crate) fn finish(mut self) -> Result<Vec<String>> {
        self.input = None;
        let mut rest = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => rest.push(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => return Err(self.failure("it does not end")),
            }
        }
        let status = self.child.wait()?;
        if status.success() {
            Ok(rest)
        } else {
            Err(self.failure(&format!("it ends with {status}")))
        }
    }

    fn failure(&mut self, what: &str) -> anyhow::Error {
        let _ = self.child.kill();
        let complaints = self.complaints.take().map(JoinHandle::join);
        let complaints = complaints.and_then(Result::ok).unwrap_or_default();
        anyhow!("{what}; it complains:\n{complaints}")
    }
}

impl Drop for Programme {
    fn drop(&mut self) {
        // Fails where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
