//! The common way allocates nothing for a command: not in the session, not in the mux, not for its reply.

use anyhow::{Result, ensure};
use proxy_core::Watch;
use slipring_benches::in_memory::Bench;

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
