//! What the project has promised of its costs, and `--check`, which compares.

use super::peer::Peer;
use super::report::Report;
use super::sample::Sample;

/// Whether the promises hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All of them, or none were asked.
    Met,
    /// At least one was missed or not measured.
    Missed,
}

/// What of slipring, under a workload, is bounded by how many times the same of a peer.
struct Threshold {
    workload: &'static str,
    what: What,
    /// slipring as it is by default, or with something on.
    front: Peer,
    peer: Peer,
    ratio: f64,
}

#[derive(Clone, Copy)]
enum What {
    /// Processor time per request of the front: at most.
    Front,
    /// Processor time per request of the Redis behind: at most.
    Behind,
    /// Requests a second: at least.
    Speed,
    /// The 99.9th percentile of the latency: at most.
    Tail,
}

const THRESHOLDS: &[Threshold] = &[
    front("get", 1.10, Peer::Floor),
    front("get", 0.95, Peer::Nutcracker),
    front("get", 0.55, Peer::Haproxy),
    front("set", 1.12, Peer::Floor),
    front("set", 0.95, Peer::Nutcracker),
    front("set", 0.65, Peer::Haproxy),
    front("get-c500", 1.15, Peer::Floor),
    front("set-c500", 1.15, Peer::Floor),
    front("get-c1", 2.1, Peer::Floor),
    front("get-c8", 1.45, Peer::Floor),
    front("get-p16", 1.3, Peer::Floor),
    front("get-p16", 0.55, Peer::Nutcracker),
    front("get-p16", 0.65, Peer::Haproxy),
    front("set-p16", 1.3, Peer::Floor),
    front("set-p16", 0.55, Peer::Nutcracker),
    front("set-p16", 0.65, Peer::Haproxy),
    front("get-1k", 1.15, Peer::Floor),
    front("get-64k", 0.42, Peer::Haproxy),
    front("get-64k", 0.85, Peer::Nutcracker),
    front("get-1m", 0.62, Peer::Haproxy),
    front("get-1m", 1.0, Peer::Nutcracker),
    front("mset", 1.15, Peer::Floor),
    front("mset", 0.75, Peer::Nutcracker),
    front("churn", 1.1, Peer::Floor),
    front("get-tls", 0.80, Peer::Haproxy),
    front("set-tls", 0.80, Peer::Haproxy),
    traced("get"),
    traced("set"),
    traced("get-p16"),
    traced("set-p16"),
    threshold(What::Behind, "get", 0.38, Peer::Direct),
    threshold(What::Speed, "get", 1.05, Peer::Direct),
    threshold(What::Speed, "get-c500", 1.0, Peer::Direct),
    threshold(What::Speed, "get-p16", 0.7, Peer::Direct),
    threshold(What::Tail, "get", 1.0, Peer::Direct),
];

const fn front(workload: &'static str, ratio: f64, peer: Peer) -> Threshold {
    threshold(What::Front, workload, ratio, peer)
}

/// To be observed costs so much.
const fn traced(workload: &'static str) -> Threshold {
    Threshold {
        front: Peer::Traced,
        ..front(workload, 1.03, Peer::Slipring)
    }
}

const fn threshold(what: What, workload: &'static str, ratio: f64, peer: Peer) -> Threshold {
    Threshold {
        workload,
        what,
        front: Peer::Slipring,
        peer,
        ratio,
    }
}

/// Whether a threshold speaks of this workload.
pub(super) fn needs(workload: &str) -> bool {
    THRESHOLDS.iter().any(|threshold| threshold.workload == workload)
}

/// Prints each threshold with what was measured.
pub(super) fn check(report: &Report) -> Verdict {
    let mut verdict = Verdict::Met;
    println!("slipring compared with what is promised of it:");
    for Threshold {
        workload,
        what,
        front,
        peer,
        ratio,
    } in THRESHOLDS
    {
        let measured = report.ratio(workload, what.field(), *front, *peer);
        let met = measured.is_some_and(|measured| what.holds(measured, *ratio));
        let outcome = match measured {
            Some(measured) if met => format!("{measured:.3}  met"),
            Some(measured) => format!("{measured:.3}  MISSED"),
            None => "not measured".to_owned(),
        };
        if !met {
            verdict = Verdict::Missed;
        }
        println!(
            "  {workload:<10} {:<34} {front:<9} {ratio:.2} x {peer:<12} {outcome}",
            what.name()
        );
    }
    verdict
}

// === impl What ===

impl What {
    fn name(self) -> &'static str {
        match self {
            Self::Front => "processor time, at most",
            Self::Behind => "processor time of Redis, at most",
            Self::Speed => "requests a second, at least",
            Self::Tail => "p99.9, at most",
        }
    }

    fn field(self) -> fn(&Sample) -> f64 {
        match self {
            Self::Front => |sample| sample.front_us,
            Self::Behind => |sample| sample.redis_us,
            Self::Speed => |sample| sample.requests_per_second,
            Self::Tail => |sample| sample.p999_ms,
        }
    }

    fn holds(self, measured: f64, bound: f64) -> bool {
        match self {
            Self::Speed => measured >= bound,
            Self::Front | Self::Behind | Self::Tail => measured <= bound,
        }
    }
}
