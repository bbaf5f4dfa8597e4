//! What the project has promised of its processor time, and `--check`, which compares.

use super::front::Peer;
use super::report::Report;

/// Whether the promises hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All of them, or none were asked.
    Met,
    /// At least one was missed or not measured.
    Missed,
}

/// slipring's processor time per request under `workload` is at most `ratio` times that of `peer`.
struct Threshold {
    workload: &'static str,
    peer: Peer,
    ratio: f64,
}

const THRESHOLDS: &[Threshold] = &[
    at_most("get", 0.8, Peer::Haproxy),
    at_most("set", 0.8, Peer::Haproxy),
    at_most("get-p16", 0.8, Peer::Haproxy),
    at_most("set-p16", 0.8, Peer::Haproxy),
];

const fn at_most(workload: &'static str, ratio: f64, peer: Peer) -> Threshold {
    Threshold {
        workload,
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
    println!("slipring's processor time per request, at most:");
    for Threshold {
        workload,
        peer,
        ratio,
    } in THRESHOLDS
    {
        let measured = report.ratio(workload, Peer::Slipring, *peer);
        let outcome = match measured {
            Some(measured) if measured <= *ratio => format!("{measured:.2}  met"),
            Some(measured) => format!("{measured:.2}  MISSED"),
            None => "not measured".to_owned(),
        };
        if measured.is_none_or(|measured| measured > *ratio) {
            verdict = Verdict::Missed;
        }
        println!("  {workload:<10} {ratio:.2} x {peer:<12} {outcome}");
    }
    verdict
}
