//! One run of redis-benchmark, and what it printed.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use testkit::process::Process;

use super::interrupt::Interrupt;
use super::workload::{Requests, Transport};

/// What redis-benchmark measured; latencies in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Outcome {
    pub(super) requests_per_second: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) p999_ms: f64,
}

/// The only one that clients offer, so that every front spends the same on it.
const CIPHER_SUITE: &str = "TLS_AES_128_GCM_SHA256";

/// How often a running benchmark is looked at.
const GLANCE: Duration = Duration::from_millis(300);
/// A run that takes longer has stalled.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs it against `address` and calls `during` with its process id now and then while it works.
///
/// # Errors
/// When it cannot be started, fails, stalls, prints something unknown, or the driver is interrupted.
pub(super) fn run(
    requests: &Requests,
    count: u64,
    address: SocketAddr,
    folder: &Path,
    interrupt: &Interrupt,
    mut during: impl FnMut(u32),
) -> Result<Outcome> {
    let writes = requests.writes_among(count);
    let start = |name: &str, requests: &Requests, count: u64| {
        let log = folder.join(format!("redis-benchmark.{name}.log"));
        // Processes append to their logs, but this one's is its answer.
        fs::write(&log, "")?;
        let args = arguments(requests, count, address);
        Process::start("redis-benchmark", Path::new("redis-benchmark"), args, log)
    };
    let process = start("1", requests, count - writes)?;
    let beside = Requests {
        test: "set",
        clients: requests.writers,
        ..*requests
    };
    let beside = if writes > 0 {
        Some(start("2", &beside, writes)?)
    } else {
        None
    };
    let begin = Instant::now();
    let mut glanced = begin;
    while let Some(pid) = process.pid().or_else(|| beside.as_ref()?.pid()) {
        interrupt.check()?;
        if begin.elapsed() > PATIENCE {
            bail!("redis-benchmark stalled: not done after {} s", PATIENCE.as_secs());
        }
        if glanced.elapsed() > GLANCE {
            during(pid);
            glanced = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut outcome = outcome(&process)?;
    if let Some(beside) = beside {
        // Latencies are the readers'.
        outcome.requests_per_second += self::outcome(&beside)?.requests_per_second;
    }
    Ok(outcome)
}

fn outcome(process: &Process) -> Result<Outcome> {
    let status = process.wait(Duration::ZERO)?;
    if !status.success() {
        bail!("redis-benchmark: {status}: {}", process.log().trim());
    }
    parse(&process.log()).with_context(|| format!("something unknown in {}", process.log_tail()))
}

fn arguments(requests: &Requests, count: u64, address: SocketAddr) -> Vec<String> {
    let Requests {
        test,
        clients,
        pipeline,
        value_bytes,
        keep_alive,
        transport,
        writers: _,
    } = *requests;
    let (host, port, keep_alive) = (address.ip(), address.port(), u8::from(keep_alive));
    let tls = match transport {
        Transport::Plain => String::new(),
        Transport::Tls => format!(" --tls --insecure --tls-ciphersuites {CIPHER_SUITE}"),
    };
    format!(
        "-h {host} -p {port} -t {test} -n {count} -c {clients} -P {pipeline} -d {value_bytes} -k {keep_alive} \
         --precision 3{tls}"
    )
    .split(' ')
    .map(str::to_owned)
    .collect()
}

/// Reads the report that it prints without `--csv`, which has no p99.9.
fn parse(text: &str) -> Option<Outcome> {
    let lines = || text.split(['\n', '\r']).map(str::trim);
    let requests_per_second = lines()
        .find_map(|line| {
            line.strip_prefix("throughput summary: ")?
                .strip_suffix(" requests per second")
        })?
        .parse()
        .ok()?;
    let mut summary = lines()
        .skip_while(|line| !line.starts_with("latency summary"))
        .skip(2);
    let summary: Vec<f64> = summary
        .next()?
        .split_ascii_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    let [_avg, _min, p50_ms, _p95, p99_ms, _max] = summary[..] else {
        return None;
    };
    // "99.902% <= 1.007 milliseconds (cumulative count 99914)": the list's steps halve what is left of the hundred.
    let p999_ms = lines()
        .skip_while(|line| !line.starts_with("Latency by percentile"))
        .take_while(|line| !line.starts_with("Cumulative distribution"))
        .filter_map(|line| {
            let (percent, rest) = line.split_once("% <= ")?;
            let (value, _) = rest.split_once(" milliseconds")?;
            Some((percent.parse::<f64>().ok()?, value.parse().ok()?))
        })
        .find_map(|(percent, value)| (percent >= 99.9).then_some(value))?;
    Some(Outcome {
        requests_per_second,
        p50_ms,
        p99_ms,
        p999_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_read() {
        let text = "WARNING: Could not fetch server CONFIG\nGET: rps=0.0 (overall: nan)\r====== GET ======\n\
            100000 requests completed in 0.79 seconds\n\nLatency by percentile distribution:\n\
            0.000% <= 0.064 milliseconds (cumulative count 5)\n\
            99.805% <= 0.503 milliseconds (cumulative count 99810)\n\
            99.902% <= 0.919 milliseconds (cumulative count 99903)\n\
            100.000% <= 2.687 milliseconds (cumulative count 100000)\n\n\
            Cumulative distribution of latencies:\n99.999% <= 2.703 milliseconds (cumulative count 99999)\n\n\
            Summary:\n  throughput summary: 126262.62 requests per second\n  latency summary (msec):\n\
            \x20         avg       min       p50       p95       p99       max\n\
            \x20       0.214     0.064     0.207     0.271     0.351     2.687\n";
        let expected = Outcome {
            requests_per_second: 126_262.62,
            p50_ms: 0.207,
            p99_ms: 0.351,
            p999_ms: 0.919,
        };
        assert_eq!(parse(text), Some(expected));
    }

    #[test]
    fn an_error_is_no_report() {
        assert_eq!(parse("Error from server: ERR no primary\n"), None);
    }
}
