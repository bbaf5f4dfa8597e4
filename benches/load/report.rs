//! The tables on standard output and the JSON file.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use serde::Serialize;

use super::afresh::Measured;
use super::fairness::FairnessResult;
use super::idle::IdleResult;
use super::options::Options;
use super::peer::Peer;
use super::rounds::{FrontResult, WorkloadResult};
use super::sample::{Sample, median};
use super::syscalls;
use super::through::ThroughResult;
use super::unread::UnreadResult;

/// Everything measured, as it goes into the JSON file.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Seconds since 1970 at the beginning.
    begun: u64,
    /// The checkout's commit, with `-dirty` where files differ from it.
    commit: String,
    machine: Machine,
    /// Interleaved rounds, and seconds aimed at for each measurement.
    rounds: u32,
    seconds: f64,
    pub(super) workloads: Vec<WorkloadResult>,
    pub(super) idle: Vec<Measured<IdleResult>>,
    pub(super) through: Vec<Measured<ThroughResult>>,
    pub(super) fairness: Vec<FairnessResult>,
    pub(super) unread: Vec<Measured<UnreadResult>>,
}

#[derive(Debug, Serialize)]
struct Machine {
    processor: String,
    processors: usize,
    kernel: String,
    /// Runnable processes over the last minute before the run: how much the machine had to do besides.
    load_average: f64,
}

/// Seconds since 1970.
fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

// === impl Report ===

impl Report {
    pub(super) fn begin(options: &Options) -> Self {
        Self {
            begun: unix_seconds(),
            commit: commit(),
            machine: Machine::this(),
            rounds: options.rounds,
            seconds: options.seconds,
            workloads: Vec::new(),
            idle: Vec::new(),
            through: Vec::new(),
            fairness: Vec::new(),
            unread: Vec::new(),
        }
    }

    /// Where it goes unless the user says so.
    pub(super) fn default_path(&self) -> PathBuf {
        testkit::servers::target_folder().join(format!("load/{}.json", self.begun))
    }

    /// One line on what is measured where.
    pub(super) fn heading(&self) -> String {
        let Machine {
            processor,
            processors,
            kernel,
            load_average,
        } = &self.machine;
        format!(
            "{} interleaved rounds of about {} s each at commit {}; {processors} processors, {processor}, \
             Linux {kernel}, load average before {load_average}\n",
            self.rounds, self.seconds, self.commit
        )
    }

    /// A quantity of one front over that of another: the median of the ratios within a round.
    pub(super) fn ratio(&self, workload: &str, of: fn(&Sample) -> f64, front: Peer, to: Peer) -> Option<f64> {
        let workload = self.workloads.iter().find(|result| result.name == workload)?;
        let rounds = |peer: Peer| {
            let result = workload.fronts.iter().find(|result| result.peer == peer)?;
            // What failed half-way has not shown anything.
            (result.failure.is_none() && !result.rounds.is_empty()).then_some(&result.rounds)
        };
        let (ours, theirs) = (rounds(front)?, rounds(to)?);
        Some(median(
            ours.iter()
                .zip(theirs)
                .map(|(ours, theirs)| of(ours) / of(theirs)),
        ))
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        Ok(fs::write(path, serde_json::to_vec_pretty(self)?)?)
    }
}

/// The table of one workload of requests.
pub(super) fn requests_table(result: &WorkloadResult) -> String {
    let mut out = format!("{} ({})\n", result.title, result.name);
    let _ = writeln!(
        out,
        "  {:<11} {:>9} {:>8} {:>8} {:>8}  {:>9} {:>8} {:>8} {:>9}  {:>8} {:>8}  {:>8} {:>9}",
        "front",
        "req/s",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "front us",
        "user",
        "system",
        "redis us",
        "MiB",
        "backends",
        "x floor",
        "slipring"
    );
    for front in &result.fronts {
        let _ = writeln!(out, "{}", row(front, &result.fronts));
    }
    for front in result.fronts.iter().filter(|front| !front.syscalls.is_empty()) {
        let calls = syscalls::line(&front.syscalls);
        let _ = writeln!(out, "  {:<11} system calls per request: {calls}", front.peer);
    }
    out
}

fn row(front: &FrontResult, all: &[FrontResult]) -> String {
    if let Some(failure) = &front.failure {
        return format!(
            "  {:<11} failed: {}",
            front.peer,
            failure.lines().next().unwrap_or_default()
        );
    }
    let m = &front.median;
    let slipring = all
        .iter()
        .find(|other| other.peer == Peer::Slipring && other.failure.is_none());
    let to_floor = front.ratio_to.get(&Peer::Floor);
    let of_slipring = slipring.and_then(|slipring| slipring.ratio_to.get(&front.peer));
    let has_redis = front.peer != Peer::Floor;
    format!(
        "  {:<11} {:>9.0} {:>8.3} {:>8.3} {:>8.3}  {:>9.2} {:>8.2} {:>8.2} {:>9}  {:>8.1} {:>8}  {:>8} {:>9}",
        front.peer,
        m.requests_per_second,
        m.p50_ms,
        m.p99_ms,
        m.p999_ms,
        m.front_us,
        m.front_user_us,
        m.front_system_us,
        if has_redis {
            format!("{:.2}", m.redis_us)
        } else {
            "-".to_owned()
        },
        mib(m.resident_bytes),
        if has_redis {
            m.backend_connections.to_string()
        } else {
            "-".to_owned()
        },
        or_dash(to_floor),
        or_dash(of_slipring),
    )
}

/// The table of the workload `idle`.
pub(super) fn idle_table(results: &[Measured<IdleResult>]) -> String {
    let clients = results.first().map_or(0, |result| result.figures.clients);
    let mut out = format!("{clients} idle clients: resident memory (idle)\n");
    let _ = writeln!(
        out,
        "  {:<11} {:>10} {:>16} {:>22} {:>16}",
        "front", "MiB before", "bytes per client", "bytes once it was busy", "MiB after"
    );
    for result in results {
        let _ = match &result.failure {
            Some(failure) => writeln!(out, "  {:<11} failed: {failure}", result.peer),
            None => writeln!(
                out,
                "  {:<11} {:>10.1} {:>16.0} {:>22.0} {:>16.1}",
                result.peer,
                mib(result.rest_bytes as f64),
                result.figures.silent_bytes_per_client,
                result.figures.busy_bytes_per_client,
                mib(result.figures.after_bytes as f64)
            ),
        };
    }
    out
}

/// The table of the workload `through`.
pub(super) fn through_table(results: &[Measured<ThroughResult>]) -> String {
    let mut out = "a value of 512 MiB: resident memory in MiB (through)\n".to_owned();
    let _ = writeln!(
        out,
        "  {:<11} {:>8} {:>14} {:>14}",
        "front", "before", "most, written", "most, read"
    );
    for result in results {
        let most = |bytes: u64| mib(bytes as f64);
        let _ = match &result.failure {
            Some(failure) => writeln!(out, "  {:<11} failed: {failure}", result.peer),
            None => writeln!(
                out,
                "  {:<11} {:>8.1} {:>14.1} {:>14.1}",
                result.peer,
                most(result.rest_bytes),
                most(result.figures.written_peak_bytes),
                most(result.figures.read_peak_bytes)
            ),
        };
    }
    out
}

/// The table of the workload `unread`.
pub(super) fn unread_table(results: &[Measured<UnreadResult>]) -> String {
    let clients = results.first().map_or(0, |result| result.figures.clients);
    let mut out =
        format!("{clients} clients that ask for much and read nothing, and a GET beside them (unread)\n");
    let _ = writeln!(
        out,
        "  {:<11} {:>10} {:>9} {:>15} {:>14} {:>17}",
        "front", "MiB before", "most MiB", "kernel's TCP MiB", "first GET ms", "median of 100, ms"
    );
    for result in results {
        let _ = writeln!(
            out,
            "  {:<11} {:>10.1} {:>9.1} {:>15.1} {:>14.1} {:>17.2} {}",
            result.peer,
            mib(result.rest_bytes as f64),
            mib(result.figures.peak_bytes as f64),
            mib(result.figures.kernel_bytes as f64),
            result.figures.first_ms,
            result.figures.median_ms,
            result.failure.as_deref().unwrap_or_default()
        );
    }
    out
}

/// The table of the workload `fairness`.
pub(super) fn fairness_table(results: &[FairnessResult]) -> String {
    let mut out = "GET 16 B of 4 clients, beside another (fairness)\n".to_owned();
    let _ = writeln!(
        out,
        "  {:<32} {:<11} {:>8} {:>8} {:>13}",
        "beside", "front", "p50 ms", "p99 ms", "p99 x direct"
    );
    for result in results {
        let _ = writeln!(
            out,
            "  {:<32} {:<11} {:>8.3} {:>8.3} {:>13}",
            result.neighbour,
            result.peer,
            result.p50_ms,
            result.p99_ms,
            or_dash(result.p99_to_direct.as_ref())
        );
    }
    out
}

fn or_dash(ratio: Option<&f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"))
}

fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

fn commit() -> String {
    let described = Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=12"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    match described {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

// === impl Machine ===

impl Machine {
    fn this() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let load = read("/proc/loadavg");
        Self {
            processor: model.map_or("unknown processor", |(_, model)| model).to_owned(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_average: load
                .split_ascii_whitespace()
                .next()
                .and_then(|first| first.parse().ok())
                .unwrap_or(0.0),
        }
    }
}
