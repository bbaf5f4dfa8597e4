//! Runs seeds of the simulator: one, telling what happens, or many, telling which fail.

use std::time::{Duration, Instant};

use clap::Args;
use testkit::sim::run::run as run_seed;

/// Run the real watcher and the real core in a simulated world that goes wrong
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// One seed, with everything that happens
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// So many seeds
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    from: u64,
}

/// Whether all seeds passed.
pub(crate) fn run(options: &Options) -> bool {
    if let Some(seed) = options.seed {
        let verdict = run_seed(seed, true);
        println!(
            "seed {seed}: {} events in {:?}, trace {:016x}",
            verdict.events, verdict.lasted, verdict.fingerprint
        );
        for finding in &verdict.findings {
            println!("  {finding}");
        }
        return verdict.findings.is_empty();
    }
    let (began, mut failed, mut lasted) = (Instant::now(), 0, Duration::ZERO);
    for seed in options.from..options.from + options.seeds {
        let verdict = run_seed(seed, false);
        lasted += verdict.lasted;
        if let Some(worst) = verdict.findings.first() {
            failed += 1;
            println!("seed {seed}: {worst} ({} findings)", verdict.findings.len());
        }
    }
    let took = began.elapsed().as_secs_f64();
    println!(
        "{} seeds, {failed} failed; {:.0} s, {:.1} seeds a second; {:.1} h in their worlds",
        options.seeds,
        took,
        options.seeds as f64 / took,
        lasted.as_secs_f64() / 3600.0
    );
    failed == 0
}
