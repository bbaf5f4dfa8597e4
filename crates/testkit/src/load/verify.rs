//! What the primary holds in the end, against what was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use super::journal::{Journal, Kind, Operation, Outcome};
use crate::client::Client;

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
    name: String,
}

/// How what was acknowledged and what there is differ. Numbers are indices into [`History::operations`].
#[derive(Default)]
pub struct Verdict {
    /// Acknowledged writes that the primary does not hold.
    pub lost: BTreeSet<usize>,
    /// Writes that the primary holds more than once.
    pub doubled: BTreeSet<usize>,
    /// Writes that were refused by an error, and that the primary holds all the same.
    pub contradicted: BTreeSet<usize>,
    /// Clients whose transactions were executed in part.
    pub torn: BTreeSet<usize>,
    /// Ids of the queue that BLPOP gave twice: a pop that a failover undid.
    pub redelivered: BTreeSet<u64>,
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

pub(super) fn key(name: &str, kind: Kind, client: usize) -> String {
    format!("{name}:{}:{client}", kind.word())
}

pub(super) fn queue_key(name: &str) -> String {
    format!("{name}:queue")
}

// === impl Hold ===

impl Hold {
    /// What was sent before the second moment, and answered behind the first, was under way when commands began to wait.
    #[must_use]
    pub fn under_way(&self) -> [Instant; 2] {
        [self.began, self.began + UNDER_WAY]
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

    /// Compares all writes with what `primary` holds.
    ///
    /// # Errors
    /// When the primary does not answer.
    pub fn verify(&self, primary: &mut Client) -> Result<Verdict> {
        let mut verdict = Verdict::default();
        let mut by_place: BTreeMap<(Kind, usize), Vec<usize>> = BTreeMap::new();
        for (index, operation) in self.operations.iter().enumerate() {
            by_place
                .entry((operation.kind, operation.client))
                .or_default()
                .push(index);
        }
        for ((kind, client), indices) in &by_place {
            let key = key(&self.name, *kind, *client);
            match kind {
                Kind::Set => {
                    let held = self.held_keys(primary, &key, indices)?;
                    self.compare(indices, &held, &mut verdict);
                }
                Kind::Push => {
                    let held = list(primary, &key)?;
                    self.compare(indices, &held, &mut verdict);
                }
                Kind::Transaction => {
                    let held = list(primary, &key)?;
                    self.compare(indices, &held, &mut verdict);
                    if held.values().sum::<usize>() as u64 != counter(primary, &format!("{key}:count"))? {
                        verdict.torn.insert(*client);
                    }
                }
                Kind::Count => self.compare_counts(indices, counter(primary, &key)?, &mut verdict),
                Kind::Enqueue => {
                    self.compare_queue(indices, list(primary, &queue_key(&self.name))?, &mut verdict)
                }
                Kind::Get | Kind::Dequeue | Kind::Publish | Kind::Receive => {}
            }
        }
        Ok(verdict)
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

    /// Which of the unique keys exist.
    fn held_keys(&self, primary: &mut Client, key: &str, indices: &[usize]) -> Result<BTreeMap<u64, usize>> {
        const PER_QUERY: usize = 1000;
        let ids: Vec<u64> = indices.iter().map(|&index| self.operations[index].id).collect();
        let mut held = BTreeMap::new();
        for ids in ids.chunks(PER_QUERY) {
            let names = ids.iter().map(|id| format!("{key}:{id}"));
            let query: Vec<String> = ["MGET".to_owned()].into_iter().chain(names).collect();
            let values = primary.command(&query)?;
            if values.items().len() != ids.len() {
                bail!("MGET answers {values:?}");
            }
            held.extend(
                ids.iter()
                    .zip(values.items())
                    .filter(|(_, value)| value.text().is_some())
                    .map(|(id, _)| (*id, 1)),
            );
        }
        Ok(held)
    }

    /// `held`: ids and how often each is there.
    fn compare(&self, indices: &[usize], held: &BTreeMap<u64, usize>, verdict: &mut Verdict) {
        for &index in indices {
            let operation = &self.operations[index];
            let times = held.get(&operation.id).copied().unwrap_or(0);
            match &operation.outcome {
                Outcome::Acknowledged if times == 0 => {
                    verdict.lost.insert(index);
                }
                Outcome::Refused(_) if times > 0 => {
                    verdict.contradicted.insert(index);
                }
                _ => {}
            }
            if times > 1 {
                verdict.doubled.insert(index);
            }
        }
    }

    /// One client's INCRs in their order. A value that is reached again later was lost in between; one that leaps further
    /// than the open outcomes before it allow had something executed twice.
    fn compare_counts(&self, indices: &[usize], held: u64, verdict: &mut Verdict) {
        let mut lowest_later = held + 1;
        for &index in indices.iter().rev() {
            let operation = &self.operations[index];
            if operation.outcome == Outcome::Acknowledged {
                if operation.id >= lowest_later {
                    verdict.lost.insert(index);
                }
                lowest_later = lowest_later.min(operation.id);
            }
        }
        let (mut value, mut open) = (0, 0);
        for &index in indices {
            let operation = &self.operations[index];
            if operation.outcome.is_open() {
                open += 1;
            } else if operation.outcome == Outcome::Acknowledged {
                if operation.id > value + open + 1 {
                    verdict.doubled.insert(index);
                }
                (value, open) = (operation.id, 0);
            }
        }
        if let Some(&last) = indices.last()
            && held > value + open
        {
            verdict.doubled.insert(last);
        }
    }

    /// What was enqueued must have been given out or be there still, but for one id for each BLPOP of open outcome.
    fn compare_queue(&self, indices: &[usize], remaining: BTreeMap<u64, usize>, verdict: &mut Verdict) {
        let mut seen = remaining;
        let mut maybe_taken = 0;
        for operation in self
            .operations
            .iter()
            .filter(|operation| operation.kind == Kind::Dequeue)
        {
            if operation.outcome == Outcome::Acknowledged {
                let times = seen.entry(operation.id).or_default();
                *times += 1;
                if *times > 1 {
                    verdict.redelivered.insert(operation.id);
                }
            } else if operation.outcome.is_open() {
                maybe_taken += 1;
            }
        }
        let mut found = Verdict::default();
        self.compare(indices, &seen, &mut found);
        verdict.lost.extend(found.lost.into_iter().skip(maybe_taken));
        verdict.contradicted.extend(found.contradicted);
    }
}

// === impl Verdict ===

impl Verdict {
    /// Whether everything acknowledged is there, once, and nothing that was refused.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let Self {
            lost,
            doubled,
            contradicted,
            torn,
            redelivered,
        } = self;
        lost.is_empty()
            && doubled.is_empty()
            && contradicted.is_empty()
            && torn.is_empty()
            && redelivered.is_empty()
    }
}

/// Counts, and the first few of each: there may be thousands.
impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 5;
        fn few<T: fmt::Debug>(set: &BTreeSet<T>) -> String {
            let first: Vec<_> = set.iter().take(SHOWN).collect();
            let more = if set.len() > SHOWN { ", ..." } else { "" };
            format!("{} {first:?}{more}", set.len())
        }
        write!(
            f,
            "lost {}; doubled {}; contradicted {}; torn {}; redelivered {}",
            few(&self.lost),
            few(&self.doubled),
            few(&self.contradicted),
            few(&self.torn),
            few(&self.redelivered)
        )
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

/// The ids of a list, and how often each is there.
fn list(primary: &mut Client, key: &str) -> Result<BTreeMap<u64, usize>> {
    let reply = primary.command(&["LRANGE", key, "0", "-1"])?;
    let mut held = BTreeMap::new();
    for item in reply.items() {
        let id = item
            .text()
            .and_then(|id| id.parse().ok())
            .ok_or_else(|| anyhow!("{key} holds {item:?}"))?;
        *held.entry(id).or_default() += 1;
    }
    match reply.error() {
        Some(error) => bail!("{key}: {error}"),
        None => Ok(held),
    }
}

fn counter(primary: &mut Client, key: &str) -> Result<u64> {
    let reply = primary.command(&["GET", key])?;
    match reply.text() {
        Some(text) => Ok(text.parse()?),
        None if reply == crate::Reply::Null => Ok(0),
        None => bail!("{key} holds {reply:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A history of one client's operations of one kind, a millisecond apart.
    fn history(kind: Kind, outcomes: &[(u64, Outcome)]) -> History {
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

    fn refused() -> Outcome {
        Outcome::Refused("ERR".into())
    }

    fn unknown() -> Outcome {
        Outcome::Unknown("UNKNOWN outcome".into())
    }

    #[test]
    fn lists_tell_lost_doubled_and_contradicted() {
        let acknowledged = |id| (id, Outcome::Acknowledged);
        let history = history(
            Kind::Push,
            &[
                acknowledged(1),
                acknowledged(2),
                (3, refused()),
                (4, unknown()),
                (5, unknown()),
                acknowledged(6),
            ],
        );
        let mut verdict = Verdict::default();
        let held = BTreeMap::from([(1, 1), (3, 1), (4, 1), (6, 2)]);
        history.compare(&[0, 1, 2, 3, 4, 5], &held, &mut verdict);
        assert_eq!(
            (verdict.lost, verdict.contradicted, verdict.doubled),
            ([1].into(), [2].into(), [5].into())
        );
    }

    #[test]
    fn counters_tell_lost_and_doubled() {
        let check = |outcomes: &[(u64, Outcome)], held, lost: &[usize], doubled: &[usize]| {
            let history = history(Kind::Count, outcomes);
            let indices: Vec<usize> = (0..outcomes.len()).collect();
            let mut verdict = Verdict::default();
            history.compare_counts(&indices, held, &mut verdict);
            assert_eq!(
                (verdict.lost, verdict.doubled),
                (lost.iter().copied().collect(), doubled.iter().copied().collect())
            );
        };
        let acknowledged = |id| (id, Outcome::Acknowledged);
        check(&[acknowledged(1), acknowledged(2)], 2, &[], &[]);
        check(&[acknowledged(1), acknowledged(2)], 1, &[1], &[]);
        // 2 and 3 went down with the old primary; its successor counted on from 1.
        check(
            &[acknowledged(1), acknowledged(2), acknowledged(3), acknowledged(2)],
            2,
            &[1, 2],
            &[],
        );
        check(&[acknowledged(1), (9, unknown()), acknowledged(3)], 3, &[], &[]);
        check(&[acknowledged(1), (9, unknown()), acknowledged(2)], 2, &[], &[]);
        check(&[acknowledged(1), acknowledged(3)], 3, &[], &[1]);
        check(&[acknowledged(1), (9, refused())], 2, &[], &[1]);
    }

    #[test]
    fn queues_tell_lost_and_redelivered() {
        let mut history = history(
            Kind::Enqueue,
            &(1..=4).map(|id| (id, Outcome::Acknowledged)).collect::<Vec<_>>(),
        );
        let pop = |id, outcome| Operation {
            kind: Kind::Dequeue,
            id,
            outcome,
            ..history.operations[3].clone()
        };
        let pops = [
            pop(1, Outcome::Acknowledged),
            pop(1, Outcome::Acknowledged),
            pop(0, unknown()),
        ];
        history.operations.extend(pops);
        let mut verdict = Verdict::default();
        history.compare_queue(&[0, 1, 2, 3], BTreeMap::from([(2, 1)]), &mut verdict);
        // 3 and 4 are nowhere; one of them may be what the open BLPOP took.
        assert_eq!((verdict.lost.len(), verdict.redelivered), (1, [1].into()));
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
