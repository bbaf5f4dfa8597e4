//! One number.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that one thread writes and others may read. Negative amounts wrap, so sums of it are right.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

// === impl Count ===

impl Count {
    #[inline]
    pub(super) fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
