//! How much memory the process has, as the binary measures it, and what follows from that.
//!
//! ```text
//!   easy  --9/10 of the limit-->  tight  --31/32 of it-->  over
//!                                 nothing new              besides: who has the most unread output is closed
//! ```
//! The less is left, the less each client may leave unread: that comes first.
//!
//! Measured, not counted: what the kernel judges is resident memory, whoever holds it. The last thirty-second is for what comes
//! between two measures.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use crate::limits;
use crate::roster::Roster;

/// What the process has, and what it may have.
#[derive(Debug, Default)]
pub struct Memory {
    resident: AtomicUsize,
    /// Zero: whatever it takes.
    limit: AtomicUsize,
    limited: Notify,
}

/// Where the workers hear what was measured.
#[derive(Clone)]
pub struct Meter {
    memory: Arc<Memory>,
    roster: Arc<Roster>,
}

/// How scarce memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// All may enter, and ask for anything.
    Easy,
    /// Nobody new is let in, and nothing is begun that takes much.
    Tight,
    /// The same, and so many bytes must go.
    Over(usize),
}

// === impl Memory ===

impl Memory {
    pub(crate) fn limited_to(limit: Option<usize>) -> Self {
        let memory = Self::default();
        memory.limit_to(limit);
        memory
    }

    /// What was measured last.
    #[must_use]
    pub fn resident(&self) -> usize {
        self.resident.load(Ordering::Relaxed)
    }

    /// There is a limit.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.limit() != 0
    }

    /// Ends as soon as there is a limit, so that it is worth measuring. One task may wait for it.
    pub async fn limited(&self) {
        while !self.is_limited() {
            self.limited.notified().await;
        }
    }

    /// What the process may have; zero: whatever it takes.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// How scarce memory is, by the last measure.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        let (resident, limit) = (self.resident(), self.limit());
        if limit == 0 || resident < limit / 10 * 9 {
            return Pressure::Easy;
        }
        match resident.saturating_sub(self.aim()) {
            0 => Pressure::Tight,
            bytes => Pressure::Over(bytes),
        }
    }

    /// What one client may leave unread before it gets no more.
    pub(crate) fn share(&self) -> usize {
        let limit = self.limit();
        if limit == 0 {
            return limits::OUTPUT_STALL_BYTES;
        }
        let left = self.aim().saturating_sub(self.resident());
        (left / limits::OUTPUT_SHARES).clamp(limits::SHED_BYTES, limits::OUTPUT_STALL_BYTES)
    }

    /// How much is not gone past, where it can be helped.
    fn aim(&self) -> usize {
        let limit = self.limit();
        limit - limit / 32
    }

    /// Nothing new that takes much.
    pub(crate) fn is_scarce(&self) -> bool {
        self.pressure() != Pressure::Easy
    }

    pub(crate) fn limit_to(&self, limit: Option<usize>) {
        self.limit.store(limit.unwrap_or_default(), Ordering::Relaxed);
        self.limited.notify_one();
    }

    pub(crate) fn measured(&self, resident: usize) {
        self.resident.store(resident, Ordering::Relaxed);
    }
}

// === impl Meter ===

impl Meter {
    pub(crate) fn new(memory: Arc<Memory>, roster: Arc<Roster>) -> Self {
        Self { memory, roster }
    }

    /// What the process has, and what it may have.
    #[must_use]
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// So many bytes are resident now: the workers go by it until it is measured again.
    pub fn measured(&self, resident: usize) -> Pressure {
        self.memory.measured(resident);
        let pressure = self.memory.pressure();
        if let Pressure::Over(bytes) = pressure {
            self.roster.shed(bytes);
        }
        pressure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_begins_below_the_limit() {
        let memory = Memory::default();
        let check = |resident, pressure| {
            memory.measured(resident);
            assert_eq!(memory.pressure(), pressure, "{resident}");
        };
        check(usize::MAX, Pressure::Easy);
        memory.limit_to(Some(1000));
        check(899, Pressure::Easy);
        check(900, Pressure::Tight);
        check(969, Pressure::Tight);
        check(970, Pressure::Over(1));
        check(1001, Pressure::Over(32));
        memory.limit_to(None);
        check(1001, Pressure::Easy);
    }

    #[test]
    fn the_less_is_left_the_less_may_be_left_unread() {
        let memory = Memory::default();
        let check = |resident_mib: usize, share_kib: usize| {
            memory.measured(resident_mib << 20);
            assert_eq!(memory.share(), share_kib << 10, "{resident_mib}");
        };
        check(1 << 20, 1024);
        memory.limit_to(Some(512 << 20));
        for (resident, share) in [
            (10, 1024),
            (432, 1024),
            (464, 512),
            (492, 64),
            (500, 64),
            (600, 64),
        ] {
            check(resident, share);
        }
    }
}
