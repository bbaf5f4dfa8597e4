//! One Redis or Valkey node.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{Login, Server};
use crate::client::Client;
use crate::netns::Place;
use crate::port::Port;
use crate::process::{Process, scratch};
use crate::reply::Reply;
use crate::wait::PROBE_TIMEOUT;

/// A running node on a free loopback port, with nothing written to disk but its configuration and log.
#[derive(Debug)]
pub struct Node {
    process: Process,
    port: Port,
    login: Option<Login>,
    host: Ipv4Addr,
    _folder: TempDir,
}

/// What a node is to be.
#[derive(Clone, Debug)]
pub struct NodeBuilder {
    server: Server,
    login: Option<Login>,
    replica_of: Option<(String, u16)>,
    place: Option<Place>,
    config: String,
}

// === impl NodeBuilder ===

impl NodeBuilder {
    /// Asks clients for this login, and uses it towards its own primary.
    #[must_use]
    pub fn login(mut self, login: Option<Login>) -> Self {
        self.login = login;
        self
    }

    /// Starts as the replica of that node.
    #[must_use]
    pub fn replica_of(mut self, host: &str, port: u16) -> Self {
        self.replica_of = Some((host.to_owned(), port));
        self
    }

    /// Runs in that namespace.
    #[must_use]
    pub fn within(mut self, place: &Place) -> Self {
        self.place = Some(place.clone());
        self
    }

    /// Adds a line to the configuration.
    #[must_use]
    pub fn config(mut self, line: &str) -> Self {
        self.config.push_str(line);
        self.config.push('\n');
        self
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// When it does not come up, with the tail of its log.
    pub fn start(self) -> Result<Node> {
        let node = self.spawn()?;
        node.wait_up()?;
        Ok(node)
    }

    /// Starts it without waiting.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(self) -> Result<Node> {
        let port = Port::free()?;
        let name = format!("{}-{}", self.server.flavor.program(), port.number());
        let folder = scratch(&name)?;
        let file = folder.path().join("node.conf");
        // A file and not arguments: Sentinel has a node rewrite it, so that a restart remembers its role.
        fs::write(&file, self.text(&port, &folder))
            .with_context(|| format!("cannot write {}", file.display()))?;
        let log = folder.path().join("log");
        let args = vec![file.display().to_string()];
        let (program, args) = match &self.place {
            Some(place) => place.command(&self.server.path, args),
            None => (self.server.path, args),
        };
        let process = Process::start(&name, &program, args, log)?;
        Ok(Node {
            process,
            port,
            host: self.place.map_or(Ipv4Addr::LOCALHOST, |place| place.host),
            login: self.login,
            _folder: folder,
        })
    }

    fn text(&self, port: &Port, folder: &TempDir) -> String {
        let mut text = format!(
            "port {}\nbind 127.0.0.1 -::1\nprotected-mode no\ndaemonize no\ndir {}\nlogfile \"\"\nsave \"\"\n\
             appendonly no\nrepl-diskless-sync yes\nrepl-diskless-sync-delay 0\nenable-debug-command yes\n",
            port.number(),
            folder.path().display(),
        );
        if let Some(login) = &self.login {
            text.push_str(&login.config());
            let _ = writeln!(text, "masterauth {}", login.password);
            if let Some(user) = &login.user {
                let _ = writeln!(text, "masteruser {user}");
            }
        }
        if let Some((host, port)) = &self.replica_of {
            let _ = writeln!(text, "replicaof {host} {port}");
        }
        text + &self.config
    }
}

// === impl Node ===

impl Node {
    /// Describes a node run by that program: a primary without a password.
    #[must_use]
    pub fn builder(server: Server) -> NodeBuilder {
        NodeBuilder {
            server,
            login: None,
            replica_of: None,
            place: None,
            config: String::new(),
        }
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Where we reach it: 127.0.0.1, unless it is in a namespace of its own, and its port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (self.host, self.port()).into()
    }

    /// The process, for its pid and its log.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// A new connection, logged in.
    ///
    /// # Errors
    /// When the node is down or refuses the login.
    pub fn client(&self) -> Result<Client> {
        Client::connect_as(self.address(), self.login.as_ref(), PROBE_TIMEOUT)
            .with_context(|| self.process.name().to_owned())
    }

    /// One command on a connection of its own.
    ///
    /// # Errors
    /// When there is no reply within a second, or it is an error.
    pub fn command<A: AsRef<[u8]>>(&self, args: &[A]) -> Result<Reply> {
        let mut client = self.client()?;
        client.set_timeout(PROBE_TIMEOUT)?;
        let reply = client.command(args)?;
        match reply.error() {
            Some(error) => bail!("{}: {error}", self.process.name()),
            None => Ok(reply),
        }
    }

    /// The first word of ROLE: `master` or `slave`.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn role(&self) -> Result<String> {
        let role = self.command(&["ROLE"])?;
        role.texts()
            .into_iter()
            .next()
            .ok_or_else(|| anyhow!("{} answers ROLE with {role:?}", self.process.name()))
    }

    /// One field of INFO.
    ///
    /// # Errors
    /// When it does not answer, or has no such field.
    pub fn info(&self, field: &str) -> Result<String> {
        let info = self.command(&["INFO", "everything"])?;
        info.text()
            .unwrap_or_default()
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
            .map(str::to_owned)
            .ok_or_else(|| anyhow!("{} has no {field} in INFO", self.process.name()))
    }

    /// `kill -9`.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Freezes it (SIGSTOP): its sockets stay open and its kernel goes on acknowledging bytes.
    ///
    /// # Errors
    /// When it has ended.
    pub fn stop(&self) -> Result<()> {
        self.process.signal(Signal::SIGSTOP)
    }

    /// Thaws it (SIGCONT).
    ///
    /// # Errors
    /// When it has ended.
    pub fn cont(&self) -> Result<()> {
        self.process.signal(Signal::SIGCONT)
    }

    /// Starts it again on its port after a kill, with the configuration as it last rewrote it, and without its data.
    ///
    /// # Errors
    /// When it still runs, or does not come up.
    pub fn restart(&self) -> Result<()> {
        self.process.restart()?;
        self.wait_up()
    }

    /// Waits until it answers PING.
    ///
    /// # Errors
    /// When it does not, with the tail of its log.
    pub fn wait_up(&self) -> Result<()> {
        self.process
            .wait_until("an answer to PING", || self.command(&["PING"]).map(drop))
    }

    /// Waits until its replication link to its primary is up and it has all that the primary had.
    ///
    /// # Errors
    /// When it does not come to that, with the tail of its log.
    pub fn wait_in_sync(&self) -> Result<()> {
        self.process.wait_until("replication", || {
            let (link, syncing) = (
                self.info("master_link_status")?,
                self.info("master_sync_in_progress")?,
            );
            if link != "up" || syncing != "0" {
                bail!("{}'s link is {link}", self.process.name())
            } else {
                Ok(())
            }
        })
    }
}
