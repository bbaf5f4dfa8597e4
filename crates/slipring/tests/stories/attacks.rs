//! Attacks and faults, all at once: each attacker gets what docs/SECURITY.md says, and somebody who works beside them
//! notices nothing. The log goes where nothing can be written.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use testkit::netns::{Divided, are_possible};
use testkit::{Client, Cluster, Flavor, Proxy};

use super::support::{PATIENCE, ask, counts, says};

/// Somebody who counts, one request after the other.
struct Bystander {
    done: Arc<AtomicBool>,
    thread: JoinHandle<Result<i64>>,
}

const LIMIT: &str = "96mb";

/// Clients whose wire has been cut: nothing comes from them any more, not even an acknowledgement.
struct Vanished {
    wire: Divided,
    clients: Vec<Child>,
}

/// Kept without an error, so that it stays where memory is short, too.
const PIECE_BYTES: usize = 200 << 10;

#[test]
fn attackers_harm_themselves_alone() -> Result<()> {
    if !Flavor::Redis.runs_here() {
        return Ok(());
    }
    let cluster = Cluster::builder(Flavor::Redis).nodes(1).sentinels(1).start()?;
    let folder = tempfile::tempdir()?;
    let proxy = logging_to("/dev/full", &folder, &cluster)?;
    let bystander = Bystander::start(&proxy)?;
    vanished_clients_are_asked_for(&proxy)?;
    let vanished = Vanished::new(&proxy)?;
    resets(&proxy)?;
    memory_is_bounded(&proxy)?;
    if let Some(vanished) = vanished {
        vanished.are_gone(&proxy)?;
    }
    ensure!(
        metric(&proxy, "slipring_session_panics_total", &[])? == 0.0,
        "a session panicked"
    );
    let served = bystander.finish()?;
    // What the last attackers have sent may be read yet, and newcomers be refused for a moment.
    proxy.process().wait_until("somebody new", || {
        counts(&mut proxy.client()?, "INCR bystander", served + 1)
    })?;
    ensure!(proxy.terminate(PATIENCE)?.success(), "an end in good order");

    // The same where somebody holds the log's pipe and reads nothing.
    let pipe = folder.path().join("pipe");
    ensure!(Command::new("mkfifo").arg(&pipe).status()?.success(), "mkfifo");
    let _unread = fs::File::options().read(true).write(true).open(&pipe)?;
    let proxy = logging_to(pipe.to_str().context("plain")?, &folder, &cluster)?;
    let bystander = Bystander::start(&proxy)?;
    resets(&proxy)?;
    ensure!(bystander.finish()? > 0, "nothing was served");
    ensure!(proxy.terminate(PATIENCE)?.success(), "an end in good order");
    Ok(())
}

/// slipring that tells of every client, there.
fn logging_to(file: &str, folder: &TempDir, cluster: &Cluster) -> Result<Proxy> {
    let script = folder.path().join("logging");
    let program = env!("CARGO_BIN_EXE_slipring");
    fs::write(&script, format!("#!/bin/sh\nexec {program} \"$@\" 2>{file}\n"))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    Proxy::builder(&script)
        .sentinels(cluster)
        .flag("--log-level", "trace")
        .flag("--tcp-keepalive", "3s")
        .flag("--protected-mode", "no")
        .everywhere()
        .flag("--max-memory", LIMIT)
        .start()
}

/// The kernel asks silent clients whether they live: those whose machine is gone are closed, 6 s later here.
fn vanished_clients_are_asked_for(proxy: &Proxy) -> Result<()> {
    let mut client = proxy.client()?;
    says(&mut client, "PING", "PONG")?;
    let ports = [proxy.address().port(), client.local_address()?.port()];
    proxy.process().wait_until("the timer of the connection", || {
        let timer = timer_of(ports)?;
        // Behind a reply other timers may run for a moment.
        ensure!(
            timer.starts_with("02:") && timer.as_str() <= "02:0000012C",
            "{timer}"
        );
        Ok(())
    })
}

/// The timer that runs for the connection between these ports: `02` is keepalive, then hundredths of a second.
fn timer_of([own, other]: [u16; 2]) -> Result<String> {
    let table = fs::read_to_string("/proc/self/net/tcp")?;
    let rows = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let ends = [format!(":{own:04X}"), format!(":{other:04X}")];
    let row = rows.into_iter().find(|row| {
        let ends_in = |at: usize, end: &str| row.get(at).is_some_and(|field| field.ends_with(end));
        ends_in(1, &ends[0]) && ends_in(2, &ends[1])
    });
    let row = row.context("no such connection")?;
    row.get(5).map(|timer| (*timer).to_owned()).context("no timer")
}

// === impl Vanished ===

impl Vanished {
    /// One that says nothing, one that is blocked, and one that is subscribed; `None` where there are no namespaces.
    fn new(proxy: &Proxy) -> Result<Option<Self>> {
        if !are_possible()? {
            return Ok(None);
        }
        let mut vanished = Self {
            wire: Divided::make()?,
            clients: Vec::new(),
        };
        let (there, port) = (vanished.wire.here, proxy.address().port());
        for said in ["PING", "BLPOP nothing 0", "SUBSCRIBE cut"] {
            let script = format!(
                "exec 3<>/dev/tcp/{there}/{port}; echo -e '{said}\\r' >&3; read -t 600 -N 99999 -u 3"
            );
            let mut client = Command::new("ip");
            client.args([
                "netns",
                "exec",
                &vanished.wire.primary.name,
                "bash",
                "-c",
                &script,
            ]);
            vanished
                .clients
                .push(client.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?);
        }
        proxy.process().wait_until("clients to be cut off", || {
            let there = vanished.seen(proxy)?;
            ensure!(there.len() == 3, "{there:?}");
            let all = there.join("\n");
            ensure!(all.contains("cmd=blpop") && all.contains("sub=1"), "{all}");
            Ok(())
        })?;
        vanished.wire.silence()?;
        Ok(Some(vanished))
    }

    /// Three probes without an answer, and nothing of theirs remains.
    fn are_gone(self, proxy: &Proxy) -> Result<()> {
        proxy.process().wait_until("the kernel to give them up", || {
            let there = self.seen(proxy)?;
            ensure!(there.is_empty(), "{there:?}");
            let info = ask(&mut proxy.client()?, "INFO clients")?;
            let blocked = info.text().unwrap_or_default().contains("blocked_clients:0\r");
            ensure!(blocked, "at the node: {info:?}");
            let subscribed = ask(&mut proxy.client()?, "PUBSUB NUMSUB cut")?;
            ensure!(subscribed.items()[1].integer() == Some(0), "{subscribed:?}");
            Ok(())
        })
    }

    /// As slipring lists them.
    fn seen(&self, proxy: &Proxy) -> Result<Vec<String>> {
        let list = ask(&mut proxy.client()?, "CLIENT LIST")?;
        let from = format!(" addr={}:", self.wire.primary.host);
        let lines = list.text().unwrap_or_default().lines();
        Ok(lines
            .filter(|line| line.contains(&from))
            .map(str::to_owned)
            .collect())
    }
}

impl Drop for Vanished {
    fn drop(&mut self) {
        for client in &mut self.clients {
            let _ = client.kill();
            let _ = client.wait();
        }
    }
}

/// Clients that go without a word in the middle of anything: with something unread, the kernel sends a reset.
fn resets(proxy: &Proxy) -> Result<()> {
    let mut setter = proxy.client()?;
    says(&mut setter, &format!("SET big {}", "v".repeat(100_000)), "OK")?;
    let begun: [&[u8]; 6] = [
        b"GET big\r\nGET big\r\nGET b",
        b"PING\r\nBLPOP nothing 0\r\n",
        b"MULTI\r\nSET reset value\r\n",
        b"WATCH reset\r\nMULTI\r\n",
        b"SUBSCRIBE resets\r\n",
        b"PING\r\n*3\r\n$3\r\nSET\r\n$5\r\nreset\r\n$1000000\r\nxxxx",
    ];
    for round in 0..240 {
        let mut stream = TcpStream::connect(proxy.address())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(begun[round % begun.len()])?;
        if round % 2 == 0 {
            // Something has come and stays unread.
            ensure!(stream.peek(&mut [0])? == 1, "an answer");
        }
    }
    proxy.process().wait_until("all of them to be gone", || {
        let clients = proxy.metric("slipring_clients", &[])?;
        ensure!(clients <= 3.0, "{clients} clients");
        Ok(())
    })
}

/// Requests that do not end, from many: at the limit nobody new and nothing large is let in, and those who are in go on.
fn memory_is_bounded(proxy: &Proxy) -> Result<()> {
    let mut client = proxy.client()?;
    says(&mut client, "PING", "PONG")?;
    let mut hoards = Vec::new();
    let begin = format!("*3\r\n$4\r\nEVAL\r\n${}\r\n", PIECE_BYTES * 2);
    let begin = [begin.as_bytes(), &vec![b' '; PIECE_BYTES]].concat();
    let refused = || metric(proxy, "slipring_clients_refused_total", &["reason=\"memory\""]);
    while refused()? == 0.0 {
        ensure!(hoards.len() < 2000, "the limit is never reached");
        let mut hoard = TcpStream::connect(proxy.address())?;
        // Who is refused may be reset while it still speaks.
        let _ = hoard.write_all(&begin);
        hoards.push(hoard);
    }
    proxy.process().wait_until("a newcomer to be told", || {
        let told = last_words(proxy.address())?;
        ensure!(
            told == "-ERR slipring is short of memory (--max-memory) and lets nobody in\r\n",
            "{told}"
        );
        Ok(())
    })?;
    let large = "v".repeat(300_000);
    let reply = client.command(&["SET", "large", &large])?;
    ensure!(
        reply
            .error()
            .is_some_and(|error| error.starts_with("OOM slipring")),
        "{reply:?}"
    );
    says(&mut client, "SET small value", "OK")?;
    let resident = metric(proxy, "process_resident_memory_bytes", &[])?;
    ensure!(resident < 128e6, "{resident} bytes");
    // Who goes on all the same is closed.
    for hoard in &mut hoards {
        let _ = hoard.write_all(&vec![b' '; PIECE_BYTES - 1000]);
    }
    proxy.process().wait_until("somebody to be closed", || {
        let closed = proxy.metric("slipring_clients_closed_total", &["reason=\"memory\""])?;
        ensure!(closed > 0.0, "none was closed");
        Ok(())
    })?;
    drop(hoards);
    proxy.process().wait_until("room for others", || {
        says(&mut proxy.client()?, "GET small", "value")
    })?;
    says(&mut client, "PING", "PONG")
}

/// Also where the machine has no time for it at first.
fn metric(proxy: &Proxy, name: &str, labels: &[&str]) -> Result<f64> {
    proxy.process().wait_until(name, || proxy.metric(name, labels))
}

fn last_words(to: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut words = String::new();
    stream.read_to_string(&mut words)?;
    Ok(words)
}

// === impl Bystander ===

impl Bystander {
    fn start(proxy: &Proxy) -> Result<Self> {
        let done = Arc::new(AtomicBool::new(false));
        let mut client: Client = proxy.client()?;
        client.command(&["DEL", "bystander"])?;
        let over = Arc::clone(&done);
        let thread = thread::spawn(move || {
            let mut number = 0;
            while !over.load(Ordering::Relaxed) {
                number += 1;
                counts(&mut client, "INCR bystander", number)?;
            }
            Ok(number)
        });
        Ok(Self { done, thread })
    }

    /// How many requests it had answered, each rightly.
    fn finish(self) -> Result<i64> {
        self.done.store(true, Ordering::Relaxed);
        self.thread.join().expect("it returns what goes wrong")
    }
}
