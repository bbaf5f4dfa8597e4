//! One Sentinel.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{Login, Server};
use crate::client::Client;
use crate::port::Port;
use crate::process::{Process, scratch};
use crate::reply::Reply;
use crate::wait::PROBE_TIMEOUT;

/// A running sentinel on a free loopback port.
#[derive(Debug)]
pub struct Sentinel {
    process: Process,
    port: Port,
    login: Option<Login>,
    _folder: TempDir,
}

/// A master that a sentinel is told to watch.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Its name.
    pub name: String,
    /// Where it is when the sentinel starts.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What its nodes ask for.
    pub login: Option<Login>,
}

/// What a sentinel is to be.
#[derive(Clone, Debug)]
pub struct SentinelBuilder {
    server: Server,
    watched: Vec<Watched>,
    quorum: usize,
    down_after: Duration,
    failover_timeout: Duration,
    login: Option<Login>,
    hostnames: bool,
    config: String,
}

// === impl SentinelBuilder ===

impl SentinelBuilder {
    /// Watches this master too.
    #[must_use]
    pub fn watch(mut self, watched: Watched) -> Self {
        self.watched.push(watched);
        self
    }

    /// How many sentinels must agree that a primary is down. Without the call, 2.
    #[must_use]
    pub fn quorum(mut self, quorum: usize) -> Self {
        self.quorum = quorum;
        self
    }

    /// The silence after which it calls a node down. Without the call, a second.
    #[must_use]
    pub fn down_after(mut self, down_after: Duration) -> Self {
        self.down_after = down_after;
        self
    }

    /// How long an attempt may take; twice that is between two attempts. Without the call, 10 seconds.
    #[must_use]
    pub fn failover_timeout(mut self, failover_timeout: Duration) -> Self {
        self.failover_timeout = failover_timeout;
        self
    }

    /// Asks clients and other sentinels for this login, and uses it towards them.
    #[must_use]
    pub fn login(mut self, login: Option<Login>) -> Self {
        self.login = login;
        self
    }

    /// Resolves and announces names instead of addresses.
    #[must_use]
    pub fn hostnames(mut self, hostnames: bool) -> Self {
        self.hostnames = hostnames;
        self
    }

    /// Adds a line of its configuration.
    #[must_use]
    pub fn config(mut self, line: &str) -> Self {
        self.config.push_str(line);
        self.config.push('\n');
        self
    }

    /// Starts it without waiting.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(self) -> Result<Sentinel> {
        let port = Port::free()?;
        let name = format!("sentinel-{}", port.number());
        let folder = scratch(&name)?;
        let file = folder.path().join("sentinel.conf");
        fs::write(&file, self.text(&port, &folder))
            .with_context(|| format!("cannot write {}", file.display()))?;
        let args = vec![file.display().to_string(), "--sentinel".to_owned()];
        let process = Process::start(&name, &self.server.path, args, folder.path().join("log"))?;
        Ok(Sentinel {
            process,
            port,
            login: self.login,
            _folder: folder,
        })
    }

    fn text(&self, port: &Port, folder: &TempDir) -> String {
        let mut text = format!(
            "port {}\nbind 127.0.0.1 -::1\nprotected-mode no\ndaemonize no\ndir {}\nlogfile \"\"\n",
            port.number(),
            folder.path().display(),
        );
        let mut line = |line: String| text.push_str(&(line + "\n"));
        if self.hostnames {
            line("sentinel resolve-hostnames yes\nsentinel announce-hostnames yes".to_owned());
        }
        if let Some(login) = &self.login {
            line(login.config());
            line(format!("sentinel sentinel-pass {}", login.password));
            if let Some(user) = &login.user {
                line(format!("sentinel sentinel-user {user}"));
            }
        }
        for Watched {
            name,
            host,
            port,
            login,
        } in &self.watched
        {
            line(format!("sentinel monitor {name} {host} {port} {}", self.quorum));
            line(format!(
                "sentinel down-after-milliseconds {name} {}",
                self.down_after.as_millis()
            ));
            line(format!(
                "sentinel failover-timeout {name} {}",
                self.failover_timeout.as_millis()
            ));
            if let Some(login) = login {
                line(format!("sentinel auth-pass {name} {}", login.password));
                if let Some(user) = &login.user {
                    line(format!("sentinel auth-user {name} {user}"));
                }
            }
        }
        text + &self.config
    }
}

// === impl Sentinel ===

impl Sentinel {
    /// Describes a sentinel run by that program, watching nothing yet.
    #[must_use]
    pub fn builder(server: Server) -> SentinelBuilder {
        SentinelBuilder {
            server,
            watched: Vec::new(),
            quorum: 2,
            down_after: Duration::from_secs(1),
            failover_timeout: Duration::from_secs(10),
            login: None,
            hostnames: false,
            config: String::new(),
        }
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// 127.0.0.1 and its port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The process, for its pid and its log.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// A new connection, logged in.
    ///
    /// # Errors
    /// When it is down or refuses the login.
    pub fn client(&self) -> Result<Client> {
        Client::connect_as(self.address(), self.login.as_ref(), PROBE_TIMEOUT)
            .with_context(|| self.process.name().to_owned())
    }

    /// One command on a connection of its own.
    ///
    /// # Errors
    /// When there is no reply within a second, or it is an error.
    pub fn command(&self, args: &[&str]) -> Result<Reply> {
        let mut client = self.client()?;
        client.set_timeout(PROBE_TIMEOUT)?;
        let reply = client.command(args)?;
        match reply.error() {
            Some(error) => bail!("{}: {error}", self.process.name()),
            None => Ok(reply),
        }
    }

    /// What it says of a master (SENTINEL MASTER): field by field.
    ///
    /// # Errors
    /// When it does not answer or knows no such master.
    pub fn master(&self, name: &str) -> Result<BTreeMap<String, String>> {
        Ok(self.command(&["SENTINEL", "MASTER", name])?.fields())
    }

    /// The port that it gives for a master (SENTINEL GET-MASTER-ADDR-BY-NAME).
    ///
    /// # Errors
    /// When it does not answer or knows no such master.
    pub fn primary_port(&self, name: &str) -> Result<u16> {
        let address = self.command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", name])?;
        let port = address.texts().get(1).and_then(|port| port.parse().ok());
        port.ok_or_else(|| anyhow!("{} gives {address:?} for {name}", self.process.name()))
    }

    /// Waits until it sees the primary well, all replicas, and all other sentinels.
    ///
    /// # Errors
    /// When it does not, with the tail of its log.
    pub fn wait_ready(&self, name: &str, replicas: usize, other_sentinels: usize) -> Result<()> {
        self.process
            .wait_until(&format!("its view of all of {name}"), || {
                let master = self.master(name)?;
                let seen = |field: &str| master.get(field).cloned().unwrap_or_default();
                let state = (seen("flags"), seen("num-slaves"), seen("num-other-sentinels"));
                if state
                    != (
                        "master".to_owned(),
                        replicas.to_string(),
                        other_sentinels.to_string(),
                    )
                {
                    bail!("its view of flags, replicas and other sentinels is {state:?}");
                }
                for replica in self.command(&["SENTINEL", "REPLICAS", name])?.items() {
                    let replica = replica.fields();
                    if replica.get("flags").is_none_or(|flags| flags != "slave")
                        || replica.get("master-link-status").is_none_or(|link| link != "ok")
                    {
                        bail!("its view of a replica is {replica:?}");
                    }
                }
                self.command(&["SENTINEL", "CKQUORUM", name]).map(drop)
            })
    }

    /// Makes it look at nodes, and tell others, several times a second until it is restarted.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn hurry(&self) -> Result<()> {
        self.process.wait_until("it to hurry", || {
            self.command(&["SENTINEL", "DEBUG", "INFO-PERIOD", "300", "PUBLISH-PERIOD", "300"])
                .map(drop)
        })
    }

    /// A sentinel that finds that it was starved or frozen takes no failover further for a while (TILT): from now on for
    /// a second, instead of the thirty that are as long as anybody waits for a failover.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn recover_soon(&self) -> Result<()> {
        self.process.wait_until("a short TILT", || {
            self.command(&["SENTINEL", "DEBUG", "TILT-PERIOD", "1000"])
                .map(drop)
        })
    }

    /// `kill -9`.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Freezes it (SIGSTOP).
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

    /// Starts it again on its port after a kill, with all that it knew.
    ///
    /// # Errors
    /// When it still runs, or does not answer.
    pub fn restart(&self) -> Result<()> {
        self.process.restart()?;
        self.recover_soon()
    }
}
