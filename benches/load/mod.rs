//! The whole-proxy load driver.
//!
//! Every workload runs in interleaved rounds (A B C, A B C, …) over the same Redis: addressed directly, through slipring,
//! through its peers, and over the floor. What counts is processor time per request, read from the kernel's accounting
//! of each process; requests a second and latencies are shown, but on a busy machine they say more about the machine.
//!
//! ```text
//!  options -> lab (redis + sentinel) -> for each workload: fronts started fresh -> rounds -> report -> thresholds
//! ```

mod afresh;
mod benchmark;
mod fairness;
mod front;
mod idle;
mod interrupt;
mod lab;
mod options;
mod peer;
mod progress;
mod report;
mod rounds;
mod sample;
mod syscalls;
mod thresholds;
mod through;
mod unread;
mod usage;
mod workload;

use anyhow::{Context, Result};

use afresh::Afresh;
use interrupt::Interrupt;
use lab::Lab;
use report::Report;
use workload::Kind;

pub use options::Options;
pub use peer::Peer;
pub use thresholds::Verdict;

/// Runs what the options ask for, prints a table for each workload and writes the JSON file.
///
/// # Errors
/// When a server cannot be started, a report cannot be written, or the run is interrupted. A peer that fails in one
/// workload is reported and left out of that workload.
pub fn run(options: &Options) -> Result<Verdict> {
    let interrupt = Interrupt::on_signals()?;
    let workloads = options.workloads(thresholds::needs)?;
    let lab = Lab::start(options)?;
    let mut report = Report::begin(options);
    println!("{}", report.heading());
    for workload in workloads {
        let afresh = Afresh {
            lab: &lab,
            options,
            workload,
            interrupt: &interrupt,
        };
        match workload.kind {
            Kind::Requests(requests) => {
                let result = rounds::run(&lab, options, workload, &requests, &interrupt)?;
                println!("{}", report::requests_table(&result));
                report.workloads.push(result);
            }
            Kind::Idle => {
                let result = idle::run(&afresh)?;
                println!("{}", report::idle_table(&result));
                report.idle = result;
            }
            Kind::Through => {
                let result = through::run(&afresh)?;
                println!("{}", report::through_table(&result));
                report.through = result;
            }
            Kind::Unread => {
                let result = unread::run(&afresh)?;
                println!("{}", report::unread_table(&result));
                report.unread = result;
            }
            Kind::Fairness => {
                let result = fairness::run(&lab, options, &interrupt)?;
                println!("{}", report::fairness_table(&result));
                report.fairness = result;
            }
        }
    }
    let verdict = if options.check {
        thresholds::check(&report)
    } else {
        Verdict::Met
    };
    let path = options.json.clone().unwrap_or_else(|| report.default_path());
    report
        .write(&path)
        .with_context(|| format!("writing {}", path.display()))?;
    println!("written to {}", path.canonicalize()?.display());
    Ok(verdict)
}
