//! Pauses between attempts to reach a sentinel: doubling, capped, and spread so that many do not dial as one.

use std::time::Duration;

use crate::limits;
use crate::topology::HostPort;

/// The pauses of one task. Its jitter is seeded by what it dials, so that a run reproduces.
pub(crate) struct Backoff {
    next: Duration,
    state: u64,
}

// === impl Backoff ===

impl Backoff {
    /// Starts anew; `purpose` tells tasks that dial the same sentinel apart.
    pub(crate) fn new(to: &HostPort, purpose: &str) -> Self {
        // FNV-1a
        let bytes = to
            .host
            .bytes()
            .chain(to.port.to_be_bytes())
            .chain(purpose.bytes());
        let seed = bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self {
            next: limits::BACKOFF_FIRST,
            state: seed | 1,
        }
    }

    /// All is well again.
    pub(crate) const fn reset(&mut self) {
        self.next = limits::BACKOFF_FIRST;
    }

    /// The next pause: between half and all of 50 ms, 100 ms, … 2 s.
    pub(crate) fn pause(&mut self) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(limits::BACKOFF_LONGEST);
        // xorshift64
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let share = u32::try_from(self.state % 512).expect("below 512");
        full / 2 + full * share / 1024
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_cap_and_start_again() {
        let mut backoff = Backoff::new(&HostPort::new("h", 1), "poll");
        let mut full = limits::BACKOFF_FIRST;
        for _ in 0..20 {
            let pause = backoff.pause();
            assert!(pause >= full / 2 && pause <= full, "{pause:?} of {full:?}");
            full = (full * 2).min(limits::BACKOFF_LONGEST);
        }
        backoff.reset();
        assert!(backoff.pause() <= limits::BACKOFF_FIRST);
    }

    #[test]
    fn two_tasks_do_not_pause_alike() {
        let pauses = |purpose| {
            let mut backoff = Backoff::new(&HostPort::new("h", 1), purpose);
            (0..8).map(|_| backoff.pause()).collect::<Vec<_>>()
        };
        assert_ne!(pauses("poll"), pauses("subscribe"));
        assert_eq!(pauses("poll"), pauses("poll"));
    }
}
