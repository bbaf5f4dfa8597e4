//! How long to wait before something is tried again.

use std::time::Duration;

use crate::limits;

/// Pauses between attempts: each twice the one before, up to a bound.
pub(crate) struct Backoff(Duration);

// === impl Backoff ===

impl Backoff {
    /// The next pause.
    pub(crate) fn next(&mut self) -> Duration {
        let longest = Duration::from_millis(limits::RETRY_PAUSE_MS.1);
        let pause = self.0;
        self.0 = (pause * 2).min(longest);
        pause
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self(Duration::from_millis(limits::RETRY_PAUSE_MS.0))
    }
}
