//! Measures what memory slipring has, and tells the workers and the log when it runs short (`--max-memory`).

use std::time::Duration;

use procfs::process::Process;
use proxy_core::{Memory, Meter, Pressure};

/// How often memory is measured: what all clients together can send meanwhile is what the last part of the limit is for.
const PACE: Duration = Duration::from_millis(10);

/// Measures for as long as slipring runs.
pub(crate) async fn watch(meter: Meter) {
    let memory = meter.memory();
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut before = Pressure::Easy;
    loop {
        memory.limited().await;
        pace.tick().await;
        let Some(resident) = resident_bytes() else {
            continue;
        };
        let now = meter.measured(resident);
        tell(before, now, memory);
        before = now;
    }
}

/// One line when it begins, when it becomes worse, and when it is over.
fn tell(before: Pressure, now: Pressure, memory: &Memory) {
    let resident = memory.resident();
    match (before, now) {
        (Pressure::Easy, Pressure::Tight) => {
            tracing::warn!(
                resident,
                "memory is short (--max-memory): new clients and large commands are refused"
            );
        }
        (Pressure::Easy | Pressure::Tight, Pressure::Over(_)) => tracing::warn!(
            resident,
            "memory is all but used up (--max-memory): who has the most unread output is closed, nobody and nothing large is let in"
        ),
        (Pressure::Tight | Pressure::Over(_), Pressure::Easy) => {
            tracing::info!(resident, "memory is no longer short");
        }
        _ => {}
    }
}

/// What the kernel says that this process has in memory.
fn resident_bytes() -> Option<usize> {
    let pages = Process::myself()
        .and_then(|process| process.statm())
        .ok()?
        .resident;
    usize::try_from(pages * procfs::page_size()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_some_memory() {
        let resident = resident_bytes().unwrap();
        assert!((100 << 10..8 << 30).contains(&resident), "{resident}");
    }
}
