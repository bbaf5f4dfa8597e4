//! What a front asks of the kernel, counted in a run apart: strace slows everything, so events gather more than they
//! otherwise would.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use testkit::process::Process;

use super::benchmark;
use super::front::Front;
use super::interrupt::Interrupt;
use super::lab::Lab;
use super::workload::Requests;

/// Calls rarer than this a request are left out.
const RARE: f64 = 0.005;

/// System calls per request, by name.
pub(super) type Calls = BTreeMap<String, f64>;

/// Runs the workload once more with strace on the front.
///
/// # Errors
/// When strace or the benchmark fails.
pub(super) fn count(lab: &Lab, front: &Front, requests: &Requests, interrupt: &Interrupt) -> Result<Calls> {
    let folder = lab.folder.path();
    let (log, table) = (folder.join("strace.log"), folder.join("strace.table"));
    fs::write(&log, "")?;
    let args = ["-c", "-f", "-o"].map(str::to_owned).into_iter();
    let args = args.chain([
        table.display().to_string(),
        "-p".to_owned(),
        front.pid.to_string(),
    ]);
    let strace = Process::start("strace", Path::new("strace"), args.collect::<Vec<_>>(), log)?;
    strace.wait_until("strace to look on", || {
        anyhow::ensure!(strace.log().contains("attached"), "it does not yet");
        Ok(())
    })?;
    let count = requests.warm_up();
    benchmark::run(requests, count, front.address, folder, interrupt, |_| ())?;
    strace.signal(Signal::SIGINT)?;
    strace.wait(testkit::wait::STEP_TIMEOUT)?;
    let table = fs::read_to_string(table)?;
    let calls = parse(&table).with_context(|| format!("something unknown in {table}"))?;
    let per_request = calls
        .into_iter()
        .map(|(name, calls)| (name, calls / count as f64));
    Ok(per_request.filter(|(_, calls)| *calls >= RARE).collect())
}

/// One line for people, the most frequent first.
pub(super) fn line(calls: &Calls) -> String {
    let mut calls: Vec<_> = calls.iter().collect();
    calls.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let told: Vec<_> = calls
        .iter()
        .map(|(name, calls)| format!("{name} {calls:.2}"))
        .collect();
    told.join(", ")
}

/// Reads the table of `strace -c`: time, seconds, microseconds a call, calls, errors where there are some, name.
fn parse(table: &str) -> Option<Calls> {
    let rows = table
        .lines()
        .skip_while(|line| !line.starts_with("------"))
        .skip(1);
    let rows = rows.take_while(|line| !line.starts_with("------"));
    rows.map(|row| {
        let fields: Vec<_> = row.split_ascii_whitespace().collect();
        Some(((*fields.last()?).to_owned(), fields.get(3)?.parse().ok()?))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read() {
        let table = "% time     seconds  usecs/call     calls    errors syscall\n\
            ------ ----------- ----------- --------- --------- ----------------\n\
            \x2061.34    0.060341           3     20012           sendto\n\
            \x2038.66    0.038029           1     20110        12 recvfrom\n\
            ------ ----------- ----------- --------- --------- ----------------\n\
            100.00    0.098370           2     40122        12 total\n";
        let calls = parse(table).expect("a table");
        assert_eq!(line(&calls), "recvfrom 20110.00, sendto 20012.00");
    }
}
