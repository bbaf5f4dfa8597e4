//! The workload `through`: what a front's memory grows by while values of 512 MiB pass through it, both ways.

use std::io::{Read, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use testkit::memory::peak_bytes;

use super::afresh::{Afresh, Measured};
use super::front::{Front, Setup};
use super::lab::KEY;

/// Resident memory of one front, in bytes.
#[derive(Debug, Default, Serialize)]
pub(super) struct ThroughResult {
    pub(super) value_bytes: usize,
    /// The most that it was while a value was written, and then read.
    pub(super) written_peak_bytes: u64,
    pub(super) read_peak_bytes: u64,
}

/// As much as Redis takes.
const VALUE_BYTES: usize = 512 << 20;

/// Measures the fronts one after the other, each started afresh.
pub(super) fn run(afresh: &Afresh<'_>) -> Result<Vec<Measured<ThroughResult>>> {
    afresh.each(
        Setup::plain(16),
        |front, measured: &mut Measured<ThroughResult>| {
            let result = &mut measured.figures;
            result.value_bytes = VALUE_BYTES;
            measure(front, result)
        },
    )
}

fn measure(front: &Front, result: &mut ThroughResult) -> Result<()> {
    let mut socket = TcpStream::connect(front.address)?;
    socket.set_read_timeout(Some(Duration::from_secs(60)))?;
    let piece = vec![b'v'; 1 << 20];
    socket
        .write_all(format!("*3\r\n$3\r\nSET\r\n${}\r\n{KEY}\r\n${VALUE_BYTES}\r\n", KEY.len()).as_bytes())?;
    for _ in 0..VALUE_BYTES / piece.len() {
        socket.write_all(&piece)?;
    }
    socket.write_all(b"\r\n")?;
    expect(&mut socket, b"+OK\r\n").context("SET")?;
    result.written_peak_bytes = peak_bytes(front.pid)?;

    socket.write_all(format!("GET {KEY}\r\n").as_bytes())?;
    expect(&mut socket, format!("${VALUE_BYTES}\r\n").as_bytes()).context("GET")?;
    let mut came = piece.clone();
    for _ in 0..VALUE_BYTES / piece.len() {
        socket.read_exact(&mut came)?;
        ensure!(came == piece, "another value came back");
    }
    expect(&mut socket, b"\r\n").context("its end")?;
    result.read_peak_bytes = peak_bytes(front.pid)?;
    Ok(())
}

fn expect(socket: &mut impl Read, wanted: &[u8]) -> Result<()> {
    let mut came = vec![0; wanted.len()];
    socket.read_exact(&mut came)?;
    ensure!(came == wanted, "{:?} came", String::from_utf8_lossy(&came));
    Ok(())
}
