//! The real watcher and core in a simulated world that goes wrong: nothing that a client may dread happens, and a
//! seed tells all of it.
//!
//! A seed that fails is named; `cargo xtask sim --seed 7` shows what happened in it.

use testkit::sim::run::run;

/// Six tests of fifty seeds, so that they run side by side.
macro_rules! nothing_dreadful_happens {
    ($($name:ident: $seeds:expr,)+) => {$(
        #[test]
        fn $name() {
            let told = $seeds.filter_map(|seed| {
                let findings = run(seed, false).findings;
                findings.first().map(|worst| format!("seed {seed}: {worst}"))
            });
            let told: Vec<_> = told.collect();
            assert!(told.is_empty(), "{}", told.join("\n"));
        }
    )+};
}

nothing_dreadful_happens! {
    nothing_dreadful_happens_in_50_seeds: 0..50_u64,
    nothing_dreadful_happens_in_100_seeds: 50..100_u64,
    nothing_dreadful_happens_in_150_seeds: 100..150_u64,
    nothing_dreadful_happens_in_200_seeds: 150..200_u64,
    nothing_dreadful_happens_in_250_seeds: 200..250_u64,
    nothing_dreadful_happens_in_300_seeds: 250..300_u64,
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
