//! Interleaved rounds of one workload: whatever else the machine does, it does to all fronts alike.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use testkit::memory::resident_bytes;

use super::benchmark;
use super::front::{Front, Setup};
use super::interrupt::Interrupt;
use super::lab::Lab;
use super::options::Options;
use super::peer::Peer;
use super::progress::progress;
use super::sample::{Sample, median};
use super::syscalls::{self, Calls};
use super::usage::{self, Cpu};
use super::workload::{Requests, Workload};

/// All fronts under one workload.
#[derive(Debug, Serialize)]
pub(super) struct WorkloadResult {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) fronts: Vec<FrontResult>,
}

/// One front under one workload.
#[derive(Debug, Serialize)]
pub(super) struct FrontResult {
    pub(super) peer: Peer,
    /// Requests in each round.
    pub(super) requests: u64,
    pub(super) median: Sample,
    /// Its processor time per request over that of each front: the median of the ratios within a round.
    pub(super) ratio_to: BTreeMap<Peer, f64>,
    pub(super) rounds: Vec<Sample>,
    /// System calls per request, where they were asked for.
    pub(super) syscalls: Calls,
    /// Why it was left out after its last round here.
    pub(super) failure: Option<String>,
}

/// A front between its rounds.
struct Contender {
    front: Front,
    requests: u64,
    samples: Vec<Sample>,
    syscalls: Calls,
    failure: Option<String>,
}

/// Starts the fronts afresh, warms them up, and measures them in turn.
pub(super) fn run(
    lab: &Lab,
    options: &Options,
    workload: &'static Workload,
    requests: &Requests,
    interrupt: &Interrupt,
) -> Result<WorkloadResult> {
    lab.fill(requests.value_bytes).context("filling Redis")?;
    let spans_before = lab.collector.received_bytes();
    let mut contenders = Vec::new();
    let setup = Setup {
        transport: requests.transport,
        ..Setup::plain(requests.value_bytes)
    };
    for peer in options.peers_facing(&workload.kind) {
        let front = Front::start(lab, peer, setup)?;
        contenders.push(Contender {
            front,
            requests: 0,
            samples: Vec::new(),
            syscalls: Calls::new(),
            failure: None,
        });
    }
    for contender in &mut contenders {
        let sized = contender.warm_up(lab, options, requests, interrupt);
        contender.note(sized, workload, interrupt)?;
    }
    for round in 1..=options.rounds {
        for contender in contenders
            .iter_mut()
            .filter(|contender| contender.failure.is_none())
        {
            let peer = contender.front.peer;
            progress(&format!(
                "{}: round {round} of {}, {peer}",
                workload.name, options.rounds
            ));
            let measured = contender.measure(lab, requests, interrupt);
            contender.note(measured, workload, interrupt)?;
        }
    }
    for contender in &mut contenders {
        let observed = contender.front.peer != Peer::Traced || lab.collector.received_bytes() > spans_before;
        let sent = observed.then_some(()).context("no span was sent");
        contender.note(sent, workload, interrupt)?;
    }
    if options.syscalls {
        let living = contenders
            .iter_mut()
            .filter(|contender| contender.failure.is_none());
        for contender in living {
            progress(&format!(
                "{}: system calls of {}",
                workload.name, contender.front.peer
            ));
            let counted = syscalls::count(lab, &contender.front, requests, interrupt);
            let kept = counted.map(|calls| contender.syscalls = calls);
            contender.note(kept, workload, interrupt)?;
        }
    }
    progress("");
    Ok(WorkloadResult {
        name: workload.name,
        title: workload.title,
        fronts: results(contenders),
    })
}

fn results(contenders: Vec<Contender>) -> Vec<FrontResult> {
    let rounds: Vec<(Peer, Vec<Sample>)> = contenders
        .iter()
        .map(|contender| (contender.front.peer, contender.samples.clone()))
        .collect();
    contenders
        .into_iter()
        .map(|contender| FrontResult {
            peer: contender.front.peer,
            requests: contender.requests,
            median: Sample::median(&contender.samples),
            ratio_to: rounds
                .iter()
                .filter(|(_, theirs)| !theirs.is_empty() && !contender.samples.is_empty())
                .map(|(peer, theirs)| (*peer, ratio(&contender.samples, theirs)))
                .collect(),
            rounds: contender.samples,
            syscalls: contender.syscalls,
            failure: contender.failure,
        })
        .collect()
}

fn ratio(ours: &[Sample], theirs: &[Sample]) -> f64 {
    median(
        ours.iter()
            .zip(theirs)
            .map(|(ours, theirs)| ours.front_us / theirs.front_us),
    )
}

// === impl Contender ===

impl Contender {
    /// A first run that does not count but says how many requests fit into one that does.
    fn warm_up(
        &mut self,
        lab: &Lab,
        options: &Options,
        requests: &Requests,
        interrupt: &Interrupt,
    ) -> Result<()> {
        let first = benchmark::run(
            requests,
            requests.warm_up(),
            self.front.address,
            lab.folder.path(),
            interrupt,
            |_| (),
        )?;
        let fitting = (first.requests_per_second * options.seconds) as u64;
        self.requests = options.requests.unwrap_or(fitting.max(1));
        Ok(())
    }

    fn measure(&mut self, lab: &Lab, requests: &Requests, interrupt: &Interrupt) -> Result<()> {
        let (front, redis) = (self.front.pid, lab.redis_pid);
        let (front_before, redis_before) = (Cpu::of(front)?, Cpu::of(redis)?);
        let mut backend_connections = 0;
        let outcome = benchmark::run(
            requests,
            self.requests,
            self.front.address,
            lab.folder.path(),
            interrupt,
            |clients| {
                // The most: redis-benchmark opens its connections in portions, and churn has gaps.
                let owner = if front == redis { clients } else { front };
                let now = usage::connections(owner, lab.redis.port()).unwrap_or(0);
                backend_connections = backend_connections.max(now);
            },
        )?;
        // The closing of the clients' connections belongs to the run.
        std::thread::sleep(Duration::from_millis(50));
        let front_spent = Cpu::of(front)? - front_before;
        let redis_spent = Cpu::of(redis)? - redis_before;
        let count = self.requests as f64;
        self.samples.push(Sample {
            requests_per_second: outcome.requests_per_second,
            p50_ms: outcome.p50_ms,
            p99_ms: outcome.p99_ms,
            p999_ms: outcome.p999_ms,
            front_us: front_spent.total_us / count,
            front_user_us: front_spent.user_us() / count,
            front_system_us: (front_spent.total_us - front_spent.user_us()) / count,
            redis_us: redis_spent.total_us / count,
            resident_bytes: resident_bytes(front)? as f64,
            backend_connections: backend_connections as f64,
        });
        Ok(())
    }

    /// A front that fails takes no further part in the workload; an interruption ends all.
    fn note(&mut self, outcome: Result<()>, workload: &Workload, interrupt: &Interrupt) -> Result<()> {
        if let Err(e) = outcome {
            progress("");
            interrupt.check()?;
            eprintln!("{}: {} fails: {e:#}", workload.name, self.front.peer);
            self.failure = Some(format!("{e:#}"));
        }
        Ok(())
    }
}
