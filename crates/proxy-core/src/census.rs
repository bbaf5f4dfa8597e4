//! Who is subscribed, and who is about to be, over all workers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sentinel_watcher::{Epoch, Signal};
use tokio::time::Instant;

use crate::limits;

/// The subscribers of one master, over all workers.
#[derive(Debug, Default)]
pub(crate) struct Census {
    /// Which terms they are subscribed at. After a switch held commands wait a moment for subscribers to arrive, so that
    /// a held PUBLISH reaches them.
    terms: Mutex<BTreeMap<Epoch, usize>>,
    /// Whose first SUBSCRIBE the node has not confirmed yet, in the order in which it came, and since when: a connection
    /// of one's own is a longer way than a PUBLISH has.
    coming: Mutex<Coming>,
    /// How many these are: to be read without the lock.
    many: AtomicUsize,
    arrived: Signal,
}

#[derive(Debug, Default)]
struct Coming {
    last: u64,
    since: BTreeMap<u64, Instant>,
}

/// One subscriber in the [`Census`].
pub(crate) struct Counted {
    census: Arc<Census>,
    term: Epoch,
}

/// One who is about to subscribe.
pub(crate) struct Expected {
    census: Arc<Census>,
    number: u64,
}

// === impl Census ===

impl Census {
    /// Counts a subscriber at `term` for as long as the answer lives.
    pub(crate) fn count(self: &Arc<Self>, term: Epoch) -> Counted {
        *self.terms().entry(term).or_default() += 1;
        Counted {
            census: Arc::clone(self),
            term,
        }
    }

    /// Whether some subscriber is still at an earlier term.
    pub(crate) fn lags(&self, term: Epoch) -> bool {
        self.terms()
            .first_key_value()
            .is_some_and(|(first, _)| *first < term)
    }

    /// Counts one who is about to subscribe, for as long as the answer lives.
    pub(crate) fn expect(self: &Arc<Self>) -> Expected {
        let mut coming = self.coming();
        coming.last += 1;
        let number = coming.last;
        coming.since.insert(number, Instant::now());
        drop(coming);
        self.many.fetch_add(1, Ordering::Release);
        Expected {
            census: Arc::clone(self),
            number,
        }
    }

    /// Whether somebody is about to subscribe.
    pub(crate) fn expects(&self) -> bool {
        self.many.load(Ordering::Acquire) > 0
    }

    /// Waits for those who are about to subscribe now, and not for who is late already.
    pub(crate) async fn arrival(&self) {
        let last = self.coming().last;
        let mut arrived = self.arrived.listen();
        let awaits = |coming: &Coming| {
            let mut ours = coming.since.range(..=last);
            ours.any(|(_, since)| since.elapsed() < Duration::from_millis(limits::SUBSCRIBERS_FIRST_MS))
        };
        while awaits(&self.coming()) {
            arrived.changed().await;
        }
    }

    fn terms(&self) -> MutexGuard<'_, BTreeMap<Epoch, usize>> {
        self.terms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn coming(&self) -> MutexGuard<'_, Coming> {
        self.coming.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut terms = self.census.terms();
        if let Some(count) = terms.get_mut(&self.term) {
            *count -= 1;
            if *count == 0 {
                terms.remove(&self.term);
            }
        }
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.census.coming().since.remove(&self.number);
        self.census.many.fetch_sub(1, Ordering::Release);
        self.census.arrived.raise();
    }
}
