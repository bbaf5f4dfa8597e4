//! Where the order between two clients counts: has every worker read what had come by now?
//!
//! A worker may be slow to wake. Asking it wakes it, so it is asked only while somebody new is about: who has been here
//! for a while and begins something is a matter of luck, as between any two clients.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sentinel_watcher::Signal;

use super::Roster;
use crate::limits;

/// One worker's way to ask all of them.
pub(crate) struct Muster {
    roster: Arc<Roster>,
    /// The CLIENT ID given last, over all workers.
    newest: Arc<AtomicU64>,
    /// The same at the last pulse, and for how many pulses it has been that.
    known: Cell<(u64, u32)>,
    /// How often all were asked: whoever wants to know waits for a round that begins after that.
    rounds: Rc<Rounds>,
}

#[derive(Default)]
struct Rounds {
    begun: Cell<u64>,
    over: Cell<u64>,
    end: Signal,
}

// === impl Muster ===

impl Muster {
    pub(crate) fn new(roster: Arc<Roster>, newest: Arc<AtomicU64>) -> Self {
        Self {
            roster,
            newest,
            known: Cell::default(),
            rounds: Rc::default(),
        }
    }

    /// Some time has passed.
    pub(crate) fn pulse(&self) {
        let newest = self.newest.load(Ordering::Relaxed);
        let (known, pulses) = self.known.get();
        self.known.set((
            newest,
            if known == newest {
                pulses.saturating_add(1)
            } else {
                0
            },
        ));
    }

    /// Whether there is another worker to ask, and somebody new to ask for.
    pub(crate) fn is_called_for(&self) -> bool {
        let (known, pulses) = self.known.get();
        let stirs = pulses < limits::NEWCOMER_PULSES || self.newest.load(Ordering::Relaxed) != known;
        stirs && self.roster.0.len() > 1
    }

    /// Waits until every worker has read what had come to it when this began.
    pub(crate) async fn read_all(&self) {
        let rounds = &self.rounds;
        let wanted = rounds.begun.get() + 1;
        let mut end = rounds.end.listen();
        while rounds.over.get() < wanted {
            if rounds.begun.get() == rounds.over.get() {
                rounds.begun.set(rounds.begun.get() + 1);
                let (roster, rounds) = (Arc::clone(&self.roster), Rc::clone(rounds));
                crate::task::spawn(async move {
                    roster.read_all().await;
                    rounds.over.set(rounds.begun.get());
                    rounds.end.raise();
                });
            }
            end.changed().await;
        }
    }
}
