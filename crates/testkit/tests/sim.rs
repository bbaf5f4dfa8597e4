//! The real watcher and core in a simulated world that goes wrong: nothing that a client may dread happens, and a
//! seed tells all of it.
//!
//! A seed that fails is named; `cargo xtask sim --seed 7` shows what happened in it.

use testkit::sim::run::run;

fn nothing_dreadful_happens(seeds: std::ops::Range<u64>) {
    let mut told = Vec::new();
    for seed in seeds {
        let findings = run(seed, false).findings;
        told.extend(findings.first().map(|worst| format!("seed {seed}: {worst}")));
    }
    assert!(told.is_empty(), "{}", told.join("\n"));
}

#[test]
fn nothing_dreadful_happens_in_the_first_seeds() {
    nothing_dreadful_happens(0..100);
}

#[test]
fn nothing_dreadful_happens_in_more_seeds() {
    nothing_dreadful_happens(100..200);
}

#[test]
fn nothing_dreadful_happens_in_yet_more_seeds() {
    nothing_dreadful_happens(200..300);
}

#[test]
fn a_seed_repeats_a_run_exactly() {
    let tell = |seed| {
        let verdict = run(seed, false);
        (verdict.fingerprint, verdict.events, verdict.lasted)
    };
    let first: Vec<_> = (0..12).map(tell).collect();
    // In another order, on another thread: nothing but the seed may matter.
    let again = std::thread::spawn(move || (0..12).rev().map(tell).collect::<Vec<_>>());
    let mut again = again.join().expect("the same seeds passed");
    again.reverse();
    assert_eq!(first, again);
    assert!(
        first.windows(2).all(|pair| pair[0] != pair[1]),
        "seeds differ from each other"
    );
}
