//! The workload `unread`: what a thousand clients that ask for much and read nothing cost a front, the kernel, and one that
//! works beside them.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use testkit::Client;
use testkit::client::encode;
use testkit::memory::peak_bytes;

use super::afresh::{Afresh, Measured};
use super::front::{Front, Setup};
use super::lab::KEY;
use super::peer::Peer;
use super::sample::median;

/// One front beside which nobody reads.
#[derive(Debug, Default, Serialize)]
pub(super) struct UnreadResult {
    pub(super) clients: usize,
    /// The most that resident memory was.
    pub(super) peak_bytes: u64,
    /// The `--max-memory` that slipring had of this workload. None: of whoever asked for it, or it is not slipring.
    pub(super) max_bytes: Option<u64>,
    /// What the kernel had for TCP in the end, beyond what it had before.
    pub(super) kernel_bytes: u64,
    /// How long the first GET beside them took, and the median of the others.
    pub(super) first_ms: f64,
    pub(super) median_ms: f64,
}

const CLIENTS: usize = 1000;

/// What each of them asks for: values of 64 KiB, 3.8 MiB in all.
const VALUE_BYTES: usize = 64 << 10;
const VALUES: usize = 60;

/// GETs beside them, one after the other.
const PROBES: usize = 100;

/// What slipring may have meanwhile.
const MAX_MEMORY: (&str, u64) = ("--max-memory=256mb", 256 << 20);

/// How long the first may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures the fronts one after the other, each started afresh.
pub(super) fn run(afresh: &Afresh<'_>) -> Result<Vec<Measured<UnreadResult>>> {
    let asked_for = &afresh.options.slipring_args;
    let bounded = !asked_for.iter().any(|arg| arg.starts_with("--max-memory"));
    let setup = Setup {
        slipring_arg: bounded.then_some(MAX_MEMORY.0),
        ..Setup::plain(VALUE_BYTES)
    };
    afresh.each(setup, |front, measured: &mut Measured<UnreadResult>| {
        let result = &mut measured.figures;
        result.clients = CLIENTS;
        result.max_bytes = (bounded && front.peer == Peer::Slipring).then_some(MAX_MEMORY.1);
        let outcome = measure(front, result);
        result.peak_bytes = peak_bytes(front.pid)?;
        outcome
    })
}

fn measure(front: &Front, result: &mut UnreadResult) -> Result<()> {
    let mut beside = Client::connect(front.address)?;
    beside.set_timeout(PATIENCE)?;
    let mut hoards = (0..CLIENTS)
        .map(|_| TcpStream::connect(front.address))
        .collect::<Result<Vec<_>, _>>()?;
    let before = kernel_bytes()?;
    let requests = encode(&["GET", KEY]).repeat(VALUES);
    for hoard in &mut hoards {
        hoard.write_all(&requests)?;
    }
    let mut ask = || -> Result<f64> {
        let sent = Instant::now();
        let reply = beside.command(&["GET", "unread:nothing"])?;
        ensure!(reply.error().is_none(), "{reply:?}");
        Ok(sent.elapsed().as_secs_f64() * 1000.0)
    };
    result.first_ms = ask().context("the first GET beside them")?;
    let mut later = Vec::new();
    for _ in 0..PROBES {
        later.push(ask()?);
        thread::sleep(Duration::from_millis(50));
    }
    result.median_ms = median(later);
    result.kernel_bytes = kernel_bytes()?.saturating_sub(before);
    Ok(())
}

/// What the kernel has for TCP, of the whole machine.
fn kernel_bytes() -> Result<u64> {
    const PAGE_BYTES: u64 = 4096;
    let sockets = fs::read_to_string("/proc/net/sockstat")?;
    let row = sockets.lines().find_map(|line| line.strip_prefix("TCP: "));
    let pages = row.and_then(|row| row.rsplit(' ').next());
    let pages: u64 = pages.context("no TCP in /proc/net/sockstat")?.trim().parse()?;
    Ok(pages * PAGE_BYTES)
}
