//! What the primary holds in the end, against what was acknowledged.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow, bail};

use super::history::History;
use super::journal::{Kind, Outcome};
use super::verdict::Verdict;
use crate::client::Client;

pub(super) fn key(name: &str, kind: Kind, client: usize) -> String {
    format!("{name}:{}:{client}", kind.word())
}

pub(super) fn queue_key(name: &str) -> String {
    format!("{name}:queue")
}

// === impl History ===

impl History {
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
                    self.compare_list(indices, &held, &mut verdict);
                }
                Kind::Transaction => {
                    let held = list(primary, &key)?;
                    self.compare_list(indices, &held, &mut verdict);
                    if held.len() as u64 != counter(primary, &format!("{key}:count"))? {
                        verdict.torn.insert(*client);
                    }
                }
                Kind::Count => self.compare_counts(indices, counter(primary, &key)?, &mut verdict),
                Kind::Enqueue => {
                    let held = list(primary, &queue_key(&self.name))?;
                    self.compare_queue(indices, times_held(&held), &mut verdict)
                }
                Kind::Get | Kind::Dequeue | Kind::Publish | Kind::Receive => {}
            }
        }
        Ok(verdict)
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

    /// What one client has put into a list of its own stands there in the order in which it asked.
    fn compare_list(&self, indices: &[usize], held: &[u64], verdict: &mut Verdict) {
        self.compare(indices, &times_held(held), verdict);
        let acknowledged = indices
            .iter()
            .filter(|&&index| self.operations[index].outcome == Outcome::Acknowledged);
        let acknowledged: BTreeMap<u64, usize> = acknowledged
            .map(|&index| (self.operations[index].id, index))
            .collect();
        let mut latest = 0;
        for (id, index) in held.iter().filter_map(|id| Some((*id, *acknowledged.get(id)?))) {
            if id < latest {
                verdict.disordered.insert(index);
            }
            latest = latest.max(id);
        }
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

/// The ids of a list, in their order.
fn list(primary: &mut Client, key: &str) -> Result<Vec<u64>> {
    let reply = primary.command(&["LRANGE", key, "0", "-1"])?;
    if let Some(error) = reply.error() {
        bail!("{key}: {error}");
    }
    let ids = reply.items().iter().map(|item| {
        let id = item.text().and_then(|id| id.parse().ok());
        id.ok_or_else(|| anyhow!("{key} holds {item:?}"))
    });
    ids.collect()
}

/// How often each id is there.
fn times_held(ids: &[u64]) -> BTreeMap<u64, usize> {
    let mut held = BTreeMap::new();
    for id in ids {
        *held.entry(*id).or_default() += 1;
    }
    held
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
    use crate::load::history::tests::history;
    use crate::load::journal::Operation;

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
    fn lists_tell_what_overtook() {
        let acknowledged = |id| (id, Outcome::Acknowledged);
        let asked = [acknowledged(1), (2, unknown()), acknowledged(3), acknowledged(4)];
        let history = history(Kind::Push, &asked);
        // Of 2 nobody knows when it was executed.
        for (held, disordered) in [
            (&[1, 3, 4, 2], &[][..]),
            (&[1, 2, 4, 3], &[2]),
            (&[3, 4, 1, 2], &[0]),
        ] {
            let mut verdict = Verdict::default();
            history.compare_list(&[0, 1, 2, 3], held, &mut verdict);
            assert_eq!(
                verdict.disordered,
                disordered.iter().copied().collect(),
                "{held:?}"
            );
            assert_eq!(verdict.is_right(), disordered.is_empty());
        }
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
}
