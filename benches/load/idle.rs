//! The workload `idle`: what a client costs that says nothing.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use testkit::Client;
use testkit::client::encode;
use testkit::memory::resident_bytes;

use super::front::Front;
use super::interrupt::Interrupt;
use super::lab::{self, Lab};
use super::options::Options;
use super::peer::Peer;
use super::progress::progress;
use super::workload::{Kind, Transport};

/// Resident memory of one front, in bytes.
#[derive(Debug, Serialize)]
pub(super) struct IdleResult {
    pub(super) peer: Peer,
    pub(super) clients: usize,
    /// Without clients.
    pub(super) rest_bytes: u64,
    /// More than at rest for each client that has connected and said nothing.
    pub(super) silent_bytes_per_client: f64,
    /// The same after each client has sent a pipeline of 16 SETs of 1 KiB and read the replies.
    pub(super) busy_bytes_per_client: f64,
    /// After all clients have left.
    pub(super) after_bytes: u64,
    pub(super) failure: Option<String>,
}

/// Time for a front to put away what it no longer needs.
const SETTLE: Duration = Duration::from_millis(1500);

/// Measures the fronts one after the other, each started afresh.
pub(super) fn run(lab: &Lab, options: &Options, interrupt: &Interrupt) -> Result<Vec<IdleResult>> {
    let clients = options.idle_clients.min(lab::clients_possible()?);
    lab.fill(16)?;
    let mut results = Vec::new();
    for peer in options.peers_facing(&Kind::Idle) {
        progress(&format!("idle: {peer}"));
        let front = Front::start(lab, peer, 16, Transport::Plain)?;
        let mut result = IdleResult {
            peer,
            clients,
            rest_bytes: resident_bytes(front.pid)?,
            silent_bytes_per_client: 0.0,
            busy_bytes_per_client: 0.0,
            after_bytes: 0,
            failure: None,
        };
        if let Err(e) = measure(&front, &mut result, interrupt) {
            interrupt.check()?;
            result.failure = Some(format!("{e:#}"));
        }
        results.push(result);
    }
    progress("");
    Ok(results)
}

fn measure(front: &Front, result: &mut IdleResult, interrupt: &Interrupt) -> Result<()> {
    let rest = result.rest_bytes as f64;
    let per_client = |resident: u64| (resident as f64 - rest) / result.clients as f64;
    let mut connected: Vec<Client> = Vec::new();
    for n in 0..result.clients {
        interrupt.check()?;
        connected.push(Client::connect(front.address).with_context(|| format!("client {n}"))?);
    }
    std::thread::sleep(SETTLE);
    result.silent_bytes_per_client = per_client(resident_bytes(front.pid)?);

    let request = encode(&[b"SET".as_slice(), b"idle", &[b'x'; 1024]]).repeat(16);
    for (n, client) in connected.iter_mut().enumerate() {
        interrupt.check()?;
        ask(client, &request).with_context(|| format!("client {n}"))?;
    }
    std::thread::sleep(SETTLE);
    result.busy_bytes_per_client = per_client(resident_bytes(front.pid)?);

    drop(connected);
    std::thread::sleep(SETTLE);
    result.after_bytes = resident_bytes(front.pid)?;
    Ok(())
}

fn ask(client: &mut Client, request: &[u8]) -> Result<()> {
    client.send_raw(request)?;
    for _ in 0..16 {
        let reply = client.read()?;
        if reply.text() != Some("OK") {
            bail!("a SET is answered with {reply:?}");
        }
    }
    Ok(())
}
