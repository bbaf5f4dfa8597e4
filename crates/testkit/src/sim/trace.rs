//! What happened in a run, in order: shown where a person asks for it, and told from every other run by its hash.

use std::cell::RefCell;

use tokio::time::Instant;

/// What has happened so far.
#[derive(Default)]
struct Trace {
    start: Option<Instant>,
    hash: u64,
    lines: u64,
    shown: bool,
}

thread_local! {
    static TRACE: RefCell<Trace> = RefCell::default();
}

/// Forgets the last run of this thread; `shown`: prints the next one as it goes.
pub fn begin(shown: bool) {
    TRACE.set(Trace {
        start: Some(Instant::now()),
        hash: 0xcbf2_9ce4_8422_2325,
        lines: 0,
        shown,
    });
}

/// Something happened.
pub fn note(line: impl FnOnce() -> String) {
    TRACE.with_borrow_mut(|trace| {
        let Some(start) = trace.start else { return };
        let line = format!("{:>9.3} {}", start.elapsed().as_secs_f64(), line());
        trace.lines += 1;
        // FNV-1a
        for byte in line.bytes() {
            trace.hash = (trace.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if trace.shown {
            println!("{line}");
        }
    });
}

/// Tells this run from all that went otherwise; and how many things happened.
#[must_use]
pub fn fingerprint() -> (u64, u64) {
    TRACE.with_borrow(|trace| (trace.hash, trace.lines))
}
