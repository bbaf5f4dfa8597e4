//! The common way allocates nothing for a command: not in the session, not in the mux, not for its reply.

use anyhow::{Result, ensure};
use proxy_core::Watch;
use slipring_benches::in_memory::Bench;
use testkit::client::encode;

const KEY: &str = "key:000000000001";

/// A reply is kept until it is complete, up to here.
const REPLY_WHOLE_BYTES: u64 = 64 << 10;

/// What is read from a socket at once.
const READ_AT_ONCE_BYTES: u64 = 128 << 10;

/// Allocations of so many rounds, once everything is warm.
fn allocations(bench: &mut Bench, requests: &[u8], reply_bytes: usize, rounds: usize) -> Result<u64> {
    let mut done = Ok(());
    let counted = allocation_counter::measure(|| done = bench.exchange(requests, reply_bytes, rounds));
    done?;
    Ok(counted.count_total)
}

fn check(clients: usize, set: bool, pipeline: usize) -> Result<()> {
    const ROUNDS: usize = 100;
    let mut bench = Bench::start(clients, 16, Watch::default())?;
    let (requests, reply_bytes) = Bench::requests(set, pipeline);
    bench.exchange(&requests, reply_bytes, ROUNDS)?;
    let few = allocations(&mut bench, &requests, reply_bytes, ROUNDS)?;
    let many = allocations(&mut bench, &requests, reply_bytes, 3 * ROUNDS)?;
    let commands = 2 * ROUNDS * clients * pipeline;
    let more = many.saturating_sub(few);
    ensure!(
        more * 100 < commands as u64,
        "{more} allocations for {commands} commands of {clients} clients, {pipeline} at once, SET {set}"
    );
    Ok(())
}

#[test]
fn a_command_allocates_nothing() -> Result<()> {
    for set in [false, true] {
        check(1, set, 1)?;
        check(50, set, 1)?;
        check(1, set, 16)?;
        check(8, set, 100)?;
    }
    Ok(())
}

/// Bytes allocated for each command of a client that sends so many at once, each answered with `reply_bytes`. What is copied
/// has to be kept, and there is no room for it but what is allocated for it.
fn kept(request: &[u8], at_once: usize, value_bytes: usize, reply_bytes: usize) -> Result<u64> {
    const ROUNDS: usize = 20;
    // Who reads takes all that comes; who sends sends no faster than the node reads.
    let window_bytes = 2 * at_once * reply_bytes.max(128 << 10);
    let mut bench = Bench::with_window(1, value_bytes, Watch::default(), window_bytes)?;
    let (requests, reply_bytes) = (request.repeat(at_once), reply_bytes * at_once);
    bench.exchange(&requests, reply_bytes, 3)?;
    let mut done = Ok(());
    let counted = allocation_counter::measure(|| done = bench.exchange(&requests, reply_bytes, ROUNDS));
    done?;
    Ok(counted.bytes_total / (ROUNDS * at_once) as u64)
}

/// GET, or SET, of a value of so many KiB.
fn check_large(set: bool, kib: usize, at_once: usize, most: u64) -> Result<()> {
    let len = kib << 10;
    let bytes = if set {
        kept(
            &encode(&["SET", KEY, &"x".repeat(len)]),
            at_once,
            16,
            "+OK\r\n".len(),
        )?
    } else {
        let reply_bytes = format!("${len}\r\n\r\n").len() + len;
        kept(&encode(&["GET", KEY]), at_once, len, reply_bytes)?
    };
    ensure!(
        bytes <= most,
        "SET {set}, {kib} KiB, {at_once} at once: {bytes} bytes"
    );
    Ok(())
}

/// A reply is passed on from where it was read. Of one that comes behind others the beginning may be kept: it could still
/// be asked for again.
#[test]
fn a_large_reply_is_not_copied() -> Result<()> {
    for kib in [64, 256, 1024, 4096] {
        check_large(false, kib, 1, 64)?;
    }
    // Half of them are split by a read of 128 KiB, each somewhere.
    check_large(false, 64, 8, REPLY_WHOLE_BYTES * 6 / 10)?;
    for kib in [256, 1024, 4096] {
        check_large(false, kib, 8, REPLY_WHOLE_BYTES)?;
    }
    Ok(())
}

/// What is kept of a large request is what had been read before there was a connection for it, and the making of that.
#[test]
fn a_large_request_is_not_copied() -> Result<()> {
    check_large(true, 64, 1, 64)?;
    for kib in [256, 1024, 4096] {
        check_large(true, kib, 1, READ_AT_ONCE_BYTES + (12 << 10))?;
    }
    Ok(())
}

/// The counter counts: a reply written by the session itself is an allocation of its own.
#[test]
fn what_allocates_is_seen() -> Result<()> {
    let mut bench = Bench::start(1, 16, Watch::default())?;
    let asked = b"*2\r\n$6\r\nCLIENT\r\n$2\r\nID\r\n";
    bench.exchange(asked, b":1\r\n".len(), 10)?;
    let seen = allocations(&mut bench, asked, b":1\r\n".len(), 100)?;
    ensure!(seen >= 100, "only {seen}");
    Ok(())
}
