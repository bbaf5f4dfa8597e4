//! The workload `idle`: what a client costs that says nothing.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use testkit::Client;
use testkit::client::encode;
use testkit::memory::resident_bytes;

use super::afresh::{Afresh, Measured};
use super::front::{Front, Setup};
use super::interrupt::Interrupt;
use super::lab;

/// Resident memory of one front, in bytes.
#[derive(Debug, Default, Serialize)]
pub(super) struct IdleResult {
    pub(super) clients: usize,
    /// More than at rest for each client that has connected and said nothing.
    pub(super) silent_bytes_per_client: f64,
    /// The same after each client has sent a pipeline of 16 SETs of 1 KiB and read the replies.
    pub(super) busy_bytes_per_client: f64,
    /// After all clients have left.
    pub(super) after_bytes: u64,
}

/// Time for a front to put away what it no longer needs.
const SETTLE: Duration = Duration::from_millis(1500);

/// Measures the fronts one after the other, each started afresh.
pub(super) fn run(afresh: &Afresh<'_>) -> Result<Vec<Measured<IdleResult>>> {
    let clients = afresh.options.idle_clients.min(lab::clients_possible()?);
    afresh.each(Setup::plain(16), |front, measured: &mut Measured<IdleResult>| {
        let result = &mut measured.figures;
        result.clients = clients;
        measure(front, measured.rest_bytes, result, afresh.interrupt)
    })
}

fn measure(front: &Front, rest_bytes: u64, result: &mut IdleResult, interrupt: &Interrupt) -> Result<()> {
    let rest = rest_bytes as f64;
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
