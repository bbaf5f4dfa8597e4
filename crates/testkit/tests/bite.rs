//! The simulator finds what it is there to find: each deliberate defect is caught within a few seeds, the very seeds
//! in which nothing is found without it.
//!
//! `cargo test -p testkit --features sabotage --test bite -- --nocapture` tells after how many.

use sentinel_watcher::{Sabotage, sabotage};
use testkit::sim::blame::Dread;
use testkit::sim::run::run;

/// At most so many seeds of those that `tests/sim.rs` runs.
const SEEDS: u64 = 100;

fn is_caught(what: Sabotage, as_any_of: &[Dread]) {
    is_caught_from(0, what, as_any_of);
}

fn is_caught_from(first: u64, what: Sabotage, as_any_of: &[Dread]) {
    sabotage(Some(what));
    for seed in first..first + SEEDS {
        let findings = run(seed, false).findings;
        if let Some(found) = findings.iter().find(|finding| as_any_of.contains(&finding.dread)) {
            println!("{what:?} is caught by seed {seed}: {found}");
            return;
        }
    }
    panic!("{what:?} was not caught within {SEEDS} seeds");
}

#[test]
fn a_sent_write_that_is_sent_again() {
    is_caught(Sabotage::ResendSent, &[Dread::Repeated]);
}

#[test]
fn a_script_that_is_run_again() {
    is_caught(Sabotage::RetryScripts, &[Dread::Repeated]);
}

#[test]
fn a_former_primary_that_is_not_fenced() {
    is_caught(Sabotage::NoFence, &[Dread::Lost]);
}

#[test]
fn one_sentinel_alone() {
    is_caught(Sabotage::FirstSentinelOnly, &[Dread::Lost]);
}

#[test]
fn a_provisional_release_that_is_final() {
    // A candidate is seldom turned back.
    is_caught_from(240, Sabotage::ProvisionalIsFinal, &[Dread::Lost, Dread::Stall]);
}

#[test]
fn a_failover_whose_end_is_not_told() {
    is_caught(Sabotage::UntoldEnds, &[Dread::Untold]);
}

#[test]
fn a_lease_that_is_given_back_dirty() {
    is_caught(Sabotage::DirtyLeases, &[Dread::Misdelivered, Dread::DirtyLease]);
}
