//! What a load did and was told, and what of it was wrong between two moments.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::journal::{Journal, Kind, Operation, Outcome};
use super::verdict::Verdict;

/// All that a load did, in the order in which it ended.
#[derive(Debug)]
pub struct History {
    /// When the load began.
    pub started: Instant,
    /// When it was told to end; what was under way then ended later.
    pub ended: Instant,
    /// Every operation, ordered by `done`.
    pub operations: Vec<Operation>,
    /// When connections were lost or could not be made.
    pub drops: Vec<Instant>,
    pub(super) name: String,
}

/// One time that commands waited, as slipring tells of it.
#[derive(Clone, Copy, Debug)]
pub struct Hold {
    /// From here on.
    pub began: Instant,
    /// Until a primary served; `None`: none does yet.
    pub ended: Option<Instant>,
}

/// On a busy machine it takes a while until every worker makes commands wait, and what was sent by then was under way.
const UNDER_WAY: Duration = Duration::from_millis(100);

/// A load between two moments.
#[derive(Debug, Default)]
pub struct Phase {
    /// Operations that ended, in whatever way.
    pub operations: usize,
    /// Writes among them that were acknowledged.
    pub acknowledged_writes: usize,
    /// Error replies by their text, the unknown outcomes aside, each how often.
    pub errors: BTreeMap<String, usize>,
    /// Unknown outcomes by their text, each how often.
    pub unknown: BTreeMap<String, usize>,
    /// Connections that were lost or could not be made.
    pub dropped: usize,
    /// Reads that did not give what the same client had been told was written.
    pub stale: usize,
    /// Acknowledged writes that the primary does not hold in the end.
    pub lost: usize,
    /// Writes executed more than once.
    pub doubled: usize,
    /// Refused writes that were executed.
    pub contradicted: usize,
    /// BLPOPs of what had been given out before, or was again later.
    pub redelivered: usize,
    /// The longest time in which no client's write was acknowledged that was not lost later. The queue is left out: what
    /// was taken from it again tells nothing of where it had been.
    pub longest_pause: Duration,
    /// The longest that any single operation took; BLPOP and messages, which wait by nature, aside.
    pub longest_wait: Duration,
}

// === impl Hold ===

impl Hold {
    /// What was sent before the second moment, and answered behind the first, was under way when commands began to wait.
    #[must_use]
    pub fn under_way(&self) -> [Instant; 2] {
        [self.began, self.began + UNDER_WAY]
    }
}

// === impl Phase ===

impl Phase {
    /// Counts what another load did at the same time. The pauses are each load's own.
    pub fn add(&mut self, other: Self) {
        let Self {
            operations,
            acknowledged_writes,
            errors,
            unknown,
            dropped,
            stale,
            lost,
            doubled,
            contradicted,
            redelivered,
            longest_pause,
            longest_wait,
        } = other;
        for (all, more) in [(&mut self.errors, errors), (&mut self.unknown, unknown)] {
            for (text, times) in more {
                *all.entry(text).or_default() += times;
            }
        }
        self.operations += operations;
        self.acknowledged_writes += acknowledged_writes;
        self.dropped += dropped;
        self.stale += stale;
        self.lost += lost;
        self.doubled += doubled;
        self.contradicted += contradicted;
        self.redelivered += redelivered;
        self.longest_pause = self.longest_pause.max(longest_pause);
        self.longest_wait = self.longest_wait.max(longest_wait);
    }
}

// === impl History ===

impl History {
    pub(super) fn new(
        name: String,
        started: Instant,
        ended: Instant,
        journals: impl Iterator<Item = Journal>,
    ) -> Self {
        let mut history = Self {
            started,
            ended,
            operations: Vec::new(),
            drops: Vec::new(),
            name,
        };
        for journal in journals {
            history.operations.extend(journal.operations);
            history.drops.extend(journal.drops);
        }
        history.operations.sort_by_key(|operation| operation.done);
        history.drops.sort();
        history
    }

    /// What happened from one moment to another.
    #[must_use]
    pub fn phase(&self, verdict: &Verdict, from: Instant, to: Instant) -> Phase {
        let mut phase = Phase {
            dropped: self.drops.iter().filter(|&&at| from <= at && at < to).count(),
            ..Phase::default()
        };
        let mut last_write = from;
        for (index, operation) in self.window(from, to) {
            phase.operations += 1;
            phase.lost += usize::from(verdict.lost.contains(&index));
            phase.doubled += usize::from(verdict.doubled.contains(&index));
            phase.contradicted += usize::from(verdict.contradicted.contains(&index));
            let is_pop = operation.kind == Kind::Dequeue && operation.outcome == Outcome::Acknowledged;
            phase.redelivered += usize::from(is_pop && verdict.redelivered.contains(&operation.id));
            if !matches!(operation.kind, Kind::Dequeue | Kind::Receive) {
                phase.longest_wait = phase.longest_wait.max(operation.done - operation.sent);
            }
            match &operation.outcome {
                Outcome::Acknowledged if operation.kind.is_write() => {
                    phase.acknowledged_writes += 1;
                    if operation.kind.stays() && !verdict.lost.contains(&index) {
                        phase.longest_pause = phase.longest_pause.max(operation.done - last_write);
                        last_write = operation.done;
                    }
                }
                // A drop is counted once as a connection, not once for each operation under way on it.
                Outcome::Acknowledged | Outcome::Dropped(_) => {}
                Outcome::Stale => phase.stale += 1,
                Outcome::Unknown(text) => *phase.unknown.entry(text.clone()).or_default() += 1,
                Outcome::Refused(text) => *phase.errors.entry(text.clone()).or_default() += 1,
            }
        }
        phase.longest_pause = phase.longest_pause.max(to.saturating_duration_since(last_write));
        phase
    }

    /// When the first write after `moment` was acknowledged that was not lost later.
    #[must_use]
    pub fn first_write_after(&self, verdict: &Verdict, moment: Instant) -> Option<Instant> {
        let later = self
            .operations
            .partition_point(|operation| operation.done < moment);
        let mut later = self.operations.iter().enumerate().skip(later);
        later
            .find(|(index, operation)| {
                operation.kind.stays()
                    && operation.outcome == Outcome::Acknowledged
                    && !verdict.lost.contains(index)
            })
            .map(|(_, operation)| operation.done)
    }

    /// What is lost and must not be: a primary acknowledged it that was to be asked for nothing any more. It was sent when
    /// commands waited already, and answered before the next primary served; or sent after the last hold of all.
    #[must_use]
    pub fn lost_behind(&self, verdict: &Verdict, holds: &[Hold]) -> Vec<&Operation> {
        let last = holds.iter().map(|hold| hold.began).max();
        let behind = |lost: &&Operation| {
            let ended = |hold: &Hold| hold.ended.filter(|_| Some(hold.began) != last);
            holds.is_empty()
                || holds.iter().any(|hold| {
                    lost.sent > hold.under_way()[1] && ended(hold).is_none_or(|ended| lost.done < ended)
                })
        };
        let lost = verdict.lost.iter().map(|&index| &self.operations[index]);
        lost.filter(behind).collect()
    }

    /// How many GETs gave something else than their client's own last SET, which is not lost.
    #[must_use]
    pub fn stale_reads(&self, verdict: &Verdict) -> usize {
        let of_kind = |kind| move |one: &&Operation| one.kind == kind;
        let lost = verdict.lost.iter().map(|&index| &self.operations[index]);
        let lost: BTreeSet<_> = lost
            .filter(of_kind(Kind::Set))
            .map(|set| (set.client, set.id))
            .collect();
        let stale = self.operations.iter().filter(of_kind(Kind::Get));
        stale
            .filter(|get| get.outcome == Outcome::Stale && !lost.contains(&(get.client, get.id)))
            .count()
    }

    /// The operations that ended from one moment to another, with their indices.
    pub fn window(&self, from: Instant, to: Instant) -> impl Iterator<Item = (usize, &Operation)> {
        let start = self.operations.partition_point(|operation| operation.done < from);
        let end = self.operations.partition_point(|operation| operation.done < to);
        self.operations.iter().enumerate().take(end).skip(start)
    }
}

// === impl Phase ===

impl Phase {
    /// How many error replies, the unknown outcomes aside.
    #[must_use]
    pub fn error_count(&self) -> usize {
        self.errors.values().sum()
    }

    /// How many unknown outcomes.
    #[must_use]
    pub fn unknown_count(&self) -> usize {
        self.unknown.values().sum()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A history of one client's operations of one kind, a millisecond apart.
    pub(in crate::load) fn history(kind: Kind, outcomes: &[(u64, Outcome)]) -> History {
        let start = Instant::now();
        let at = |step: usize| start + Duration::from_millis(step as u64);
        let operations = outcomes
            .iter()
            .enumerate()
            .map(|(step, (id, outcome))| Operation {
                client: 0,
                kind,
                id: *id,
                sent: at(step),
                done: at(step + 1),
                outcome: outcome.clone(),
            })
            .collect();
        History {
            started: start,
            ended: at(outcomes.len() + 1),
            operations,
            drops: vec![],
            name: "t".into(),
        }
    }

    #[test]
    fn what_was_lost_behind_a_hold_is_told_apart() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let operation = |sent, done| Operation {
            sent: at(sent),
            done: at(done),
            ..history(Kind::Set, &[(1, Outcome::Acknowledged)]).operations[0].clone()
        };
        let first = Hold {
            began: at(1000),
            ended: Some(at(2000)),
        };
        let second = Hold {
            began: at(5000),
            ended: Some(at(6000)),
        };
        for (sent, done, found) in [
            (900, 950, 0),
            // On its way when commands began to wait.
            (1010, 1020, 0),
            (1200, 1300, 1),
            // It waited, and the next primary took it with itself.
            (1200, 2100, 0),
            (4000, 4100, 0),
            (5200, 6100, 1),
            (7000, 7001, 1),
        ] {
            let mut history = history(Kind::Set, &[]);
            history.operations = vec![operation(sent, done)];
            let verdict = Verdict {
                lost: [0].into(),
                ..Verdict::default()
            };
            let lost = history.lost_behind(&verdict, &[first, second]).len();
            assert_eq!(lost, found, "{sent} {done}");
            assert_eq!(history.lost_behind(&verdict, &[]).len(), 1);
        }
    }

    #[test]
    fn a_pause_is_measured_over_writes_that_survived() {
        let acknowledged = |id| (id, Outcome::Acknowledged);
        let history = history(
            Kind::Push,
            &[acknowledged(1), acknowledged(2), acknowledged(3), acknowledged(4)],
        );
        let phase = |verdict: &Verdict| history.phase(verdict, history.started, history.ended);
        assert_eq!(phase(&Verdict::default()).longest_pause, Duration::from_millis(1));
        let lossy = Verdict {
            lost: [1, 2].into(),
            ..Verdict::default()
        };
        assert_eq!(
            (phase(&lossy).longest_pause, phase(&lossy).lost),
            (Duration::from_millis(3), 2)
        );
        let second = history.operations[1].done;
        assert_eq!(
            history.first_write_after(&lossy, second),
            Some(history.operations[3].done)
        );
    }
}
