//! The timeline: what each failover was, from the watcher's first sign to the first write that the new primary took.
//!
//! ```text
//!  watcher ──Health──> Timeline <──fenced, first write── workers (once each for a new primary)
//!                         │    <──what they count──────── Metrics: after a failover less before it
//!                         └──> one log line, and records for whoever asks
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use sentinel_watcher::{Epoch, Failover, HealthFeed, HostPort};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::limits;
use crate::metrics::{Metrics, Tally};

/// How often what the workers count is looked at.
const TICK: Duration = Duration::from_secs(1);

/// The failovers of one master since the start, as far as they are kept.
#[derive(Debug)]
pub struct Timeline {
    master: Arc<str>,
    upstream: usize,
    health: HealthFeed,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

/// One failover. Durations count from its first sign.
#[derive(Clone, Debug)]
pub struct FailoverRecord {
    /// What the watcher knows of it.
    pub failover: Failover,
    /// When the first sign came, by the clock on the wall.
    pub began: SystemTime,
    /// When the last worker had shut the old primary out.
    pub fenced: Option<Duration>,
    /// When a client's write was first answered by the new primary.
    pub first_write: Option<Duration>,
    /// What it cost.
    pub cost: Tally,
}

#[derive(Debug, Default)]
struct State {
    /// The newest last.
    records: VecDeque<Kept>,
    /// What the workers did for the latest primaries.
    terms: BTreeMap<Epoch, Term>,
    /// What was counted at the last tick in calm, and at the one before: what a crash breaks is counted before the
    /// first sign of it.
    calm: [Tally; 2],
}

#[derive(Debug)]
struct Kept {
    failover: Failover,
    began: SystemTime,
    before: Tally,
    /// What it cost, once that is settled.
    cost: Option<Tally>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Term {
    fenced: Option<Instant>,
    first_write: Option<Instant>,
}

// === impl Timeline ===

impl Timeline {
    pub(crate) fn new(master: Arc<str>, upstream: usize, health: HealthFeed, metrics: Arc<Metrics>) -> Self {
        Self {
            master,
            upstream,
            health,
            metrics,
            state: Mutex::default(),
        }
    }

    /// Which master.
    #[must_use]
    pub fn master(&self) -> &Arc<str> {
        &self.master
    }

    /// Everything that is kept, the newest first.
    #[must_use]
    pub fn records(&self) -> Vec<FailoverRecord> {
        let now = self.metrics.tally(self.upstream);
        let state = self.state();
        let record = |kept: &Kept| record(kept, &state.terms, now);
        state.records.iter().rev().map(record).collect()
    }

    /// Writes down what the watcher sees, for as long as slipring runs.
    pub async fn follow(&self) {
        let mut health = self.health.clone();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let ticked = tokio::select! {
                biased;
                () = health.changed() => false,
                _ = tick.tick() => true,
            };
            let seen = health.load();
            for failover in seen.past_failovers.iter().chain(&seen.failover) {
                self.note(failover);
            }
            if ticked {
                self.settle(Instant::now());
            }
        }
    }

    /// A worker acts on the primary of `term`, and has shut the former one out.
    pub(crate) fn fenced(&self, term: Epoch, at: Instant) {
        self.of_term(term, |term| term.fenced = term.fenced.max(Some(at)));
    }

    /// The primary of `term` has answered a write.
    pub(crate) fn wrote(&self, term: Epoch, at: Instant) {
        self.of_term(term, |term| {
            term.first_write = Some(term.first_write.map_or(at, |first| first.min(at)));
        });
    }

    fn of_term(&self, term: Epoch, change: impl FnOnce(&mut Term)) {
        let terms = &mut self.state().terms;
        change(terms.entry(term).or_default());
        while terms.len() > limits::FAILOVERS_KEPT {
            terms.pop_first();
        }
    }

    #[expect(clippy::disallowed_methods, reason = "for the eyes of an operator")]
    fn note(&self, failover: &Failover) {
        let state = &mut *self.state();
        match state.records.back_mut() {
            Some(last) if last.failover.number == failover.number => {
                last.failover = failover.clone();
                return;
            }
            Some(last) if last.failover.number > failover.number => return,
            Some(last) if last.cost.is_none() => {
                // Right behind one another: what is counted from here on is the second one's.
                let now = self.metrics.tally(self.upstream);
                last.cost = Some(now.since(last.before));
                state.calm = [now; 2];
                log(&self.master, &record(last, &state.terms, now));
            }
            _ => {}
        }
        state.records.push_back(Kept {
            failover: failover.clone(),
            began: SystemTime::now() - failover.began.elapsed(),
            before: state.calm[0],
            cost: None,
        });
        while state.records.len() > limits::FAILOVERS_KEPT {
            state.records.pop_front();
        }
    }

    /// A failover that ended a tick ago costs nothing any more.
    fn settle(&self, at: Instant) {
        let now = self.metrics.tally(self.upstream);
        let state = &mut *self.state();
        if let Some(last) = state.records.back_mut().filter(|last| last.cost.is_none()) {
            let Some((_, after)) = last.failover.end else {
                return;
            };
            if at < last.failover.began + after + TICK {
                return;
            }
            last.cost = Some(now.since(last.before));
            log(&self.master, &record(last, &state.terms, now));
            state.calm = [now; 2];
        }
        state.calm = [state.calm[1], now];
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn record(kept: &Kept, terms: &BTreeMap<Epoch, Term>, now: Tally) -> FailoverRecord {
    let promotion = kept.failover.promotion.as_ref();
    let term = promotion
        .and_then(|to| terms.get(&to.term))
        .copied()
        .unwrap_or_default();
    let since = |at: Instant| at.saturating_duration_since(kept.failover.began);
    FailoverRecord {
        failover: kept.failover.clone(),
        began: kept.began,
        fenced: term.fenced.map(since),
        first_write: term.first_write.map(since),
        cost: kept.cost.unwrap_or_else(|| now.since(kept.before)),
    }
}

fn log(master: &str, record: &FailoverRecord) {
    let FailoverRecord { failover, cost, .. } = record;
    let named = failover.candidate.as_ref();
    let serves = failover.promotion.as_ref();
    tracing::info!(
        master,
        number = failover.number,
        kind = failover.kind.label(),
        end = failover.end.map(|(end, _)| end.label()),
        from = %failover.from,
        to = failover.to().map(tracing::field::display),
        first_sign = failover.sign,
        held_ms = failover.held().map(millis),
        candidate_ms = named.map(|(_, after)| millis(*after)),
        promoted_ms = serves.map(|to| millis(to.after)),
        fenced_ms = record.fenced.map(millis),
        first_write_ms = record.first_write.map(millis),
        ended_ms = failover.end.map(|(_, after)| millis(after)),
        held = cost.held,
        resent = cost.resent,
        unknown = cost.unknown,
        cut = cost.fenced,
        "{}",
        if serves.is_some() { "primary switched" } else { "failover called off" }
    );
}

// === impl FailoverRecord ===

impl FailoverRecord {
    /// Its fields by name, in the order in which they came about; what did not happen is left out.
    #[must_use]
    pub fn fields(&self) -> Vec<(&'static str, Field)> {
        let Self { failover, cost, .. } = self;
        let began = self
            .began
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let after = |after: Duration| Field::Number(millis(after));
        let address = |address: &HostPort| Field::Text(address.to_string());
        let end = failover.end.map_or("ongoing", |(end, _)| end.label());
        let candidate = failover.candidate.as_ref();
        let fields = [
            ("number", Some(Field::Number(failover.number))),
            ("kind", Some(Field::Text(failover.kind.label().to_owned()))),
            ("end", Some(Field::Text(end.to_owned()))),
            ("from", Some(address(&failover.from))),
            ("to", failover.to().map(address)),
            ("began_unix_ms", Some(after(began))),
            ("first_sign", Some(Field::Text(failover.sign.to_owned()))),
            ("candidate", candidate.map(|(named, _)| address(named))),
            ("candidate_ms", candidate.map(|(_, named)| after(*named))),
            (
                "promoted_ms",
                failover.promotion.as_ref().map(|to| after(to.after)),
            ),
            ("held_ms", failover.held().map(after)),
            ("fenced_ms", self.fenced.map(after)),
            ("first_write_ms", self.first_write.map(after)),
            ("ended_ms", failover.end.map(|(_, ended)| after(ended))),
            ("commands_held", Some(Field::Number(cost.held))),
            ("commands_resent", Some(Field::Number(cost.resent))),
            ("outcomes_unknown", Some(Field::Number(cost.unknown))),
            ("connections_cut", Some(Field::Number(cost.fenced))),
        ];
        fields
            .into_iter()
            .filter_map(|(name, field)| Some((name, field?)))
            .collect()
    }
}

/// One field of a [`FailoverRecord`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// A count, or milliseconds.
    Number(u64),
    /// Words, or an address.
    Text(String),
}

impl std::fmt::Display for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) if text.contains(' ') => write!(f, "\"{text}\""),
            Self::Text(text) => f.write_str(text),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use sentinel_watcher::{FailoverEnd, FailoverKind, Health, Promotion};

    use super::*;

    fn failover(number: u64, end: Option<FailoverEnd>) -> Failover {
        let node = |number| HostPort::new("n", number as u16);
        let promotion = end
            .filter(|end| *end != FailoverEnd::CalledOff)
            .map(|_| Promotion {
                address: node(number),
                term: Epoch(number),
                after: Duration::from_millis(3),
            });
        Failover {
            number,
            began: Instant::now(),
            sign: "a sentinel leads a failover",
            kind: FailoverKind::Planned,
            from: node(number - 1),
            candidate: None,
            promotion,
            end: end.map(|end| (end, Duration::from_millis(5))),
        }
    }

    /// What is kept after a look at each of these.
    async fn check(looks: &[&[(u64, Option<FailoverEnd>)]], kept: &[(u64, Option<FailoverEnd>)]) {
        let master: Arc<str> = Arc::from("x");
        let metrics = Metrics::new(1, vec![Arc::clone(&master)], Vec::new());
        let nothing = HealthFeed::fixed(Health::default());
        let mut timeline = Timeline::new(master, 0, nothing, metrics);
        for look in looks {
            let all = look.iter().map(|(number, end)| failover(*number, *end));
            let (past, present) = all.partition::<Vec<_>, _>(|failover| failover.end.is_some());
            timeline.health = HealthFeed::fixed(Health {
                past_failovers: past.into(),
                failover: present.into_iter().next(),
                ..Health::default()
            });
            let looked = tokio::time::timeout(TICK / 2, timeline.follow()).await;
            assert!(looked.is_err(), "it follows for ever");
        }
        let records = timeline.records();
        let found = records.iter().rev().map(|record| {
            let failover = &record.failover;
            let end = failover.end.map(|(end, _)| end);
            let promoted = matches!(end, Some(FailoverEnd::Confirmed | FailoverEnd::Unconfirmed));
            assert_eq!(failover.promotion.is_some(), promoted);
            (failover.number, end)
        });
        assert_eq!(found.collect::<Vec<_>>(), kept);
    }

    #[tokio::test(start_paused = true)]
    async fn each_failover_is_kept_whole_however_many_end_between_two_looks() {
        use FailoverEnd::{CalledOff, Confirmed, Unconfirmed};
        let first = (1, Some(Unconfirmed));
        check(&[&[(1, None)], &[first]], &[first]).await;
        let (second, third) = ((2, Some(CalledOff)), (3, Some(Confirmed)));
        check(&[&[(1, None)], &[first, second]], &[first, second]).await;
        check(
            &[&[(1, None)], &[first, second, (3, None)]],
            &[first, second, (3, None)],
        )
        .await;
        let all = [first, second, third];
        check(&[&[], &all, &all], &all).await;
    }
}
