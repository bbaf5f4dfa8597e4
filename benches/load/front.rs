//! What clients talk to: slipring, its peers, the floor, or Redis itself.

use std::fmt::{self, Display};
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;

use super::client;
use super::lab::{self, Lab};
use super::process::{Interrupt, Process, free_port};

/// The kinds of front. All of them use one processor: one worker, one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Peer {
    /// Redis addressed directly.
    Direct,
    /// The server without a backend, in [`crate::floor`].
    Floor,
    /// slipring with one worker and its metrics on.
    Slipring,
    /// haproxy in TCP mode with one thread: one backend connection per client, bytes copied unseen.
    Haproxy,
    /// nutcracker (twemproxy): one backend connection, single-threaded.
    Nutcracker,
}

/// A front that serves.
pub(super) struct Front {
    pub(super) peer: Peer,
    pub(super) port: u16,
    /// The process whose cost is the front's.
    pub(super) pid: u32,
    _process: Option<Process>,
}

// === impl Peer ===

impl Peer {
    /// False when its program is not installed.
    pub(super) fn is_installed(self) -> bool {
        let program = match self {
            Self::Direct | Self::Floor | Self::Slipring => return true,
            Self::Haproxy => "haproxy",
            Self::Nutcracker => "nutcracker",
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
    }
}

impl Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::Floor => "floor",
            Self::Slipring => "slipring",
            Self::Haproxy => "haproxy",
            Self::Nutcracker => "nutcracker",
        })
    }
}

// === impl Front ===

impl Front {
    /// Starts the front and waits until a GET through it is answered with the value of the benchmark's key.
    pub(super) fn start(lab: &Lab, peer: Peer, value_bytes: usize, interrupt: &Interrupt) -> Result<Self> {
        let (port, process) = match peer {
            Peer::Direct => (lab.redis_port, None),
            _ => {
                let port = free_port()?;
                let mut command = command(lab, peer, port, value_bytes)?;
                (port, Some(Process::spawn(&mut command, &log(lab, peer))?))
            }
        };
        let pid = process.as_ref().unwrap_or(&lab.redis).id();
        let front = Self {
            peer,
            port,
            pid,
            _process: process,
        };
        client::await_reply(port, &[b"GET", client::KEY], b"$", interrupt)
            .with_context(|| front.complaint(lab))?;
        Ok(front)
    }

    /// The end of what it logged.
    fn complaint(&self, lab: &Lab) -> String {
        let text = fs::read_to_string(log(lab, self.peer)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!(
            "{}; it logged:\n{}",
            self.peer,
            lines[lines.len().saturating_sub(10)..].join("\n")
        )
    }
}

fn log(lab: &Lab, peer: Peer) -> std::path::PathBuf {
    lab.dir.path().join(format!("{peer}.log"))
}

fn command(lab: &Lab, peer: Peer, port: u16, value_bytes: usize) -> Result<Command> {
    let listen = format!("127.0.0.1:{port}");
    let redis = format!("127.0.0.1:{}", lab.redis_port);
    Ok(match peer {
        Peer::Direct => unreachable!("Redis runs already"),
        Peer::Floor => {
            let mut command = Command::new(&lab.floor);
            command.args(["--listen", &listen, "--value-bytes", &value_bytes.to_string()]);
            command
        }
        Peer::Slipring => {
            let mut command = Command::new(&lab.slipring);
            command
                .args([
                    "--listen",
                    &listen,
                    "--sentinels",
                    &format!("127.0.0.1:{}", lab.sentinel_port),
                ])
                .args([
                    "--metrics-listen",
                    "127.0.0.1:0",
                    "--workers",
                    "1",
                    "--log-level",
                    "warn",
                ])
                .args(&lab.slipring_args);
            command
        }
        Peer::Haproxy => {
            let file = lab.dir.path().join("haproxy.cfg");
            fs::write(&file, haproxy_config(&listen, &redis, lab::clients_possible()?))?;
            let mut command = Command::new("haproxy");
            command.arg("-db").arg("-f").arg(file);
            command
        }
        Peer::Nutcracker => {
            let file = lab.dir.path().join("nutcracker.yml");
            fs::write(&file, nutcracker_config(&listen, &redis))?;
            let mut command = Command::new("nutcracker");
            // Its own statistics listen on a port as well.
            command
                .arg("-c")
                .arg(file)
                .args(["-a", "127.0.0.1", "-s", &free_port()?.to_string()]);
            command
        }
    })
}

fn haproxy_config(listen: &str, redis: &str, clients: usize) -> String {
    format!(
        "global\n  nbthread 1\n  maxconn {clients}\n\
         defaults\n  mode tcp\n  maxconn {clients}\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\
         listen redis\n  bind {listen}\n  server redis {redis}\n"
    )
}

fn nutcracker_config(listen: &str, redis: &str) -> String {
    format!(
        "redis:\n  listen: {listen}\n  redis: true\n  hash: fnv1a_64\n  distribution: ketama\n  backlog: 4096\n\
         \x20 auto_eject_hosts: false\n  servers:\n   - {redis}:1\n"
    )
}
