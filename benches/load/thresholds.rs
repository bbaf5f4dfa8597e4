//! What the project has promised of its costs, and `--check`, which compares.

use std::fmt::Write as _;

use super::afresh::Measured;
use super::fairness::Neighbour;
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

/// What is bounded by itself: of slipring's memory, and of how long others wait beside one that asks for much.
struct Bound {
    workload: &'static str,
    what: &'static str,
    /// At most.
    bound: f64,
    measured: fn(&Report) -> Option<f64>,
}

const BOUNDS: &[Bound] = &[
    Bound {
        workload: "idle",
        what: "MiB at rest",
        bound: 8.0,
        measured: |report| Some(mib(of_slipring(&report.idle)?.rest_bytes)),
    },
    Bound {
        workload: "idle",
        what: "bytes of an idle client",
        bound: 1536.0,
        measured: |report| Some(of_slipring(&report.idle)?.figures.silent_bytes_per_client),
    },
    Bound {
        workload: "idle",
        what: "bytes of one that was busy",
        bound: 1536.0,
        measured: |report| Some(of_slipring(&report.idle)?.figures.busy_bytes_per_client),
    },
    Bound {
        workload: "through",
        what: "MiB more while 512 are written",
        bound: 32.0,
        measured: |report| {
            let result = of_slipring(&report.through)?;
            Some(mib(result.figures.written_peak_bytes) - mib(result.rest_bytes))
        },
    },
    Bound {
        workload: "through",
        what: "MiB more while 512 are read",
        bound: 32.0,
        measured: |report| {
            let result = of_slipring(&report.through)?;
            Some(mib(result.figures.read_peak_bytes) - mib(result.rest_bytes))
        },
    },
    Bound {
        workload: "fairness",
        what: "p99 beside 1 MiB values, x direct",
        bound: 1.5,
        measured: |report| p99_to_direct(report, Neighbour::LargeReader),
    },
    Bound {
        workload: "fairness",
        what: "p99 beside pipelines, x direct",
        bound: 1.5,
        measured: |report| p99_to_direct(report, Neighbour::DeepPipeline),
    },
    Bound {
        workload: "unread",
        what: "most MiB, x --max-memory",
        bound: 1.0,
        measured: |report| {
            let figures = &of_slipring(&report.unread)?.figures;
            Some(figures.peak_bytes as f64 / figures.max_bytes? as f64)
        },
    },
];

/// What was measured of slipring, if all of it was.
fn of_slipring<F>(results: &[Measured<F>]) -> Option<&Measured<F>> {
    let own = results.iter().find(|result| result.peer == Peer::Slipring)?;
    own.failure.is_none().then_some(own)
}

fn p99_to_direct(report: &Report, neighbour: Neighbour) -> Option<f64> {
    let mut results = report.fairness.iter();
    results
        .find(|result| result.peer == Peer::Slipring && result.neighbour == neighbour)?
        .p99_to_direct
}

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
        || BOUNDS.iter().any(|bound| bound.workload == workload)
}

/// Prints each threshold with what was measured.
pub(super) fn check(report: &Report) -> Verdict {
    let (told, verdict) = compare(report);
    print!("slipring compared with what is promised of it:\n{told}");
    verdict
}

/// A line for each threshold and each bound.
fn compare(report: &Report) -> (String, Verdict) {
    let mut told = String::new();
    let mut verdict = Verdict::Met;
    let mut line = |promise: String, measured: Option<f64>, met: bool| {
        let outcome = match measured {
            Some(measured) if met => format!("{measured:.3}  met"),
            Some(measured) => format!("{measured:.3}  MISSED"),
            None => "not measured".to_owned(),
        };
        if !met {
            verdict = Verdict::Missed;
        }
        let _ = writeln!(told, "  {promise} {outcome}");
    };
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
        let name = what.name();
        let promise = format!("{workload:<10} {name:<34} {front:<9} {ratio:.2} x {peer:<12}");
        line(promise, measured, met);
    }
    for Bound {
        workload,
        what,
        bound,
        measured,
    } in BOUNDS
    {
        let measured = measured(report);
        let met = measured.is_some_and(|measured| measured <= *bound);
        let (front, most) = (Peer::Slipring, format!("at most {bound}"));
        line(
            format!("{workload:<10} {what:<34} {front:<9} {most:<19}"),
            measured,
            met,
        );
    }
    (told, verdict)
}

/// Mebibytes.
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::load::Options;
    use crate::load::fairness::FairnessResult;
    use crate::load::idle::IdleResult;
    use crate::load::through::ThroughResult;
    use crate::load::unread::UnreadResult;

    fn measured<F>(rest_bytes: u64, figures: F) -> Measured<F> {
        Measured {
            peer: Peer::Slipring,
            rest_bytes,
            figures,
            failure: None,
        }
    }

    /// Everything that is bounded is just as much as it may be.
    fn at_the_bounds() -> Report {
        let beside = |neighbour| FairnessResult {
            neighbour,
            peer: Peer::Slipring,
            p50_ms: 0.1,
            p99_ms: 1.5,
            p99_to_direct: Some(1.5),
            requests: Vec::new(),
        };
        let idle = IdleResult {
            silent_bytes_per_client: 1536.0,
            busy_bytes_per_client: 1536.0,
            ..IdleResult::default()
        };
        let through = ThroughResult {
            written_peak_bytes: 38 << 20,
            read_peak_bytes: 38 << 20,
            ..ThroughResult::default()
        };
        let unread = UnreadResult {
            peak_bytes: 256 << 20,
            max_bytes: Some(256 << 20),
            ..UnreadResult::default()
        };
        let mut report = Report::begin(&Options::parse_from(["load"]));
        report.idle.push(measured(8 << 20, idle));
        report.through.push(measured(6 << 20, through));
        report
            .fairness
            .extend([Neighbour::LargeReader, Neighbour::DeepPipeline].map(beside));
        report.unread.push(measured(6 << 20, unread));
        report
    }

    /// What is told of the bounds.
    fn told(report: &Report) -> Vec<String> {
        let (told, verdict) = compare(report);
        // Nothing was measured of what has a threshold.
        assert_eq!(verdict, Verdict::Missed);
        told.lines().skip(THRESHOLDS.len()).map(str::to_owned).collect()
    }

    /// After `change` this is missed, and nothing else.
    fn check(what: &str, change: fn(&mut Report) -> Option<()>) {
        let mut report = at_the_bounds();
        change(&mut report).expect("there is such a figure");
        let missed: Vec<_> = told(&report)
            .into_iter()
            .filter(|line| !line.ends_with("  met"))
            .collect();
        assert!(
            missed.len() == 1
                && missed
                    .iter()
                    .all(|line| line.contains(what) && line.ends_with("MISSED")),
            "{what}: {missed:#?}"
        );
    }

    #[test]
    fn what_is_within_its_bound_is_met() {
        let told = told(&at_the_bounds());
        assert_eq!(told.len(), BOUNDS.len());
        assert!(told.iter().all(|line| line.ends_with("  met")), "{told:#?}");
    }

    #[test]
    fn a_miss_is_told_of_each_bound() {
        check("MiB at rest", |report| {
            report.idle.first_mut()?.rest_bytes += 1;
            Some(())
        });
        check("bytes of an idle client", |report| {
            report.idle.first_mut()?.figures.silent_bytes_per_client += 1.0;
            Some(())
        });
        check("bytes of one that was busy", |report| {
            report.idle.first_mut()?.figures.busy_bytes_per_client += 1.0;
            Some(())
        });
        check("while 512 are written", |report| {
            report.through.first_mut()?.figures.written_peak_bytes += 1;
            Some(())
        });
        check("while 512 are read", |report| {
            report.through.first_mut()?.figures.read_peak_bytes += 1;
            Some(())
        });
        check("p99 beside 1 MiB values", |report| {
            report.fairness.first_mut()?.p99_to_direct = Some(1.51);
            Some(())
        });
        check("p99 beside pipelines", |report| {
            report.fairness.last_mut()?.p99_to_direct = Some(1.51);
            Some(())
        });
        check("x --max-memory", |report| {
            report.unread.first_mut()?.figures.peak_bytes += 1;
            Some(())
        });
    }

    #[test]
    fn what_failed_or_was_not_run_is_not_measured() {
        let mut report = at_the_bounds();
        report.idle.clear();
        report.fairness.clear();
        for result in &mut report.through {
            result.failure = Some("it ended".to_owned());
        }
        for result in &mut report.unread {
            result.figures.max_bytes = None;
        }
        let told = told(&report);
        assert!(
            told.iter().all(|line| line.ends_with(" not measured")),
            "{told:#?}"
        );
        assert_eq!(compare(&report).1, Verdict::Missed);
    }

    #[test]
    fn check_runs_what_it_compares() {
        for workload in ["idle", "through", "fairness", "unread", "get"] {
            assert!(needs(workload), "{workload}");
        }
    }
}
