//! Ten thousand clients that say nothing: what they cost, and whether they are still served.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use testkit::memory::resident_bytes;
use testkit::{Cluster, Flavor, on_each_server};

use super::support::{PATIENCE, slipring};

const WANTED: u64 = 10_000;
/// Descriptors of this process and of slipring that are no such clients.
const RESERVED: u64 = 500;
/// Bytes of resident memory for each; no more than that in a build without optimisation, either.
const BYTES_EACH: u64 = 2048;

on_each_server! {
    fn they_cost_little_and_are_served(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor).nodes(2).start()?;
        let proxy = slipring().sentinels(&cluster).flag("--max-clients", "10100").start()?;
        let pid = proxy.process().pid().context("it has ended")?;
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let many = WANTED.min(hard.saturating_sub(RESERVED));
        setrlimit(Resource::RLIMIT_NOFILE, many + RESERVED, hard)?;
        let mut first = proxy.client()?;
        ensure!(first.command(&["SET", "key", "value"])?.text() == Some("OK"), "SET");
        let before = resident_bytes(pid)?;

        let mut clients = Vec::new();
        for number in 0..many {
            let mut client = Socket::connect(proxy.address()).with_context(|| format!("client {number}"))?;
            client.ask()?;
            clients.push(client);
        }
        sleep(Duration::from_millis(500));
        let each = resident_bytes(pid)?.saturating_sub(before) / many;
        eprintln!("{flavor}: {many} clients, {each} bytes of resident memory each");
        ensure!(each <= BYTES_EACH, "{each} bytes each");
        let served = proxy.metric("slipring_clients", &[])?;
        ensure!(served == many as f64 + 1.0, "{served} clients");

        let old = cluster.primary()?.port();
        cluster.failover_planned()?;
        cluster.wait_switched(cluster.shard(), old, PATIENCE)?;
        // All at once, as after a pause.
        for client in &mut clients {
            client.send()?;
        }
        for client in &mut clients {
            client.hear()?;
        }
        sleep(Duration::from_millis(500));
        let each = resident_bytes(pid)?.saturating_sub(before) / many;
        eprintln!("{flavor}: {each} bytes each after a failover and {many} requests at once");
        ensure!(each <= 2 * BYTES_EACH, "{each} bytes each after a failover");
        Ok(())
    }
}

/// A connection without the 64 KiB of buffer that the blunt client has.
struct Socket(std::net::TcpStream);

impl Socket {
    fn connect(address: std::net::SocketAddr) -> Result<Self> {
        let stream = std::net::TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    fn ask(&mut self) -> Result<()> {
        self.send()?;
        self.hear()
    }

    fn send(&mut self) -> Result<()> {
        use std::io::Write as _;
        Ok(self.0.write_all(b"GET key\r\n")?)
    }

    fn hear(&mut self) -> Result<()> {
        use std::io::Read as _;
        let mut reply = [0; 11];
        self.0.read_exact(&mut reply)?;
        ensure!(
            reply == *b"$5\r\nvalue\r\n",
            "{:?}",
            String::from_utf8_lossy(&reply)
        );
        Ok(())
    }
}
