//! "Something is new", told to many tasks in the order in which they began to wait.
//!
//! tokio's `watch` does the same, but wakes its waiters in random order, so that no seed would repeat a run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// Whoever has news raises it. Carries nothing: what is new is kept elsewhere, and stored first.
#[derive(Debug, Default)]
pub struct Signal(Arc<Shared>);

/// Waits for news. Cheap to clone, one a task.
#[derive(Clone, Debug)]
pub struct SignalFeed {
    shared: Arc<Shared>,
    /// How often the signal had been raised when this listener last looked.
    seen: u64,
}

#[derive(Debug, Default)]
struct Shared {
    raised: AtomicU64,
    waiting: Notify,
}

// === impl Signal ===

impl Signal {
    /// Wakes all who wait, first come, first served; who does not wait now will not wait the next time.
    pub fn raise(&self) {
        self.0.raised.fetch_add(1, Ordering::Release);
        self.0.waiting.notify_waiters();
    }

    /// A listener to all that comes from now on.
    #[must_use]
    pub fn listen(&self) -> SignalFeed {
        SignalFeed {
            seen: self.0.raised.load(Ordering::Acquire),
            shared: Arc::clone(&self.0),
        }
    }
}

// === impl SignalFeed ===

impl SignalFeed {
    /// Whether the signal has been raised since this listener last waited or looked. Costs one load.
    #[must_use]
    pub fn look(&mut self) -> bool {
        let raised = self.shared.raised.load(Ordering::Acquire);
        std::mem::replace(&mut self.seen, raised) != raised
    }

    /// Waits until the signal is raised, or has been since this listener last waited. May be dropped and called
    /// again: nothing is missed.
    pub async fn changed(&mut self) {
        loop {
            // Made before the look, so that what is raised in between wakes it.
            let shared = Arc::clone(&self.shared);
            let woken = shared.waiting.notified();
            if self.look() {
                return;
            }
            woken.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use tokio::task::JoinSet;
    use tokio::time::{sleep, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waits_first_wakes_first() {
        let (signal, order) = (Signal::default(), Arc::new(Mutex::new(Vec::new())));
        let mut tasks = JoinSet::new();
        for number in 0..100 {
            let (mut listener, order) = (signal.listen(), Arc::clone(&order));
            tasks.spawn(async move {
                listener.changed().await;
                order.lock().unwrap().push(number);
            });
        }
        sleep(Duration::from_secs(1)).await;
        signal.raise();
        tasks.join_all().await;
        assert_eq!(*order.lock().unwrap(), (0..100).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_missed_and_nothing_told_twice() {
        let signal = Signal::default();
        let mut listener = signal.listen();
        signal.raise();
        signal.raise();
        listener.changed().await;
        let again = timeout(Duration::from_secs(1), listener.changed());
        assert!(again.await.is_err(), "both were one piece of news");
        signal.raise();
        listener.changed().await;
        assert_eq!(
            signal.listen().seen,
            3,
            "a new listener hears only what is to come"
        );
    }
}
