//! A session's own stream and the replicas that it waits for.

use std::collections::{BTreeMap, BTreeSet};

use super::Session;
use crate::sim::blame::{Dread, blame};
use crate::sim::ledger::Fate;

/// What a session has put into its own stream, and how far it has read that.
#[derive(Default)]
pub(super) struct Events {
    /// Numbers of what was acknowledged, and the world's stamp when it was asked for.
    added: BTreeMap<String, (u64, u64)>,
    ever: BTreeSet<String>,
    read: u64,
    stamp: u64,
    /// Its last acknowledged write to the list that it has replicas vouch for, and the stamp.
    kept: Option<(String, u64)>,
}

impl Session {
    /// The number from which it is to read on.
    pub(super) fn read_from(&mut self) -> u64 {
        let now = self.world.stamp();
        if self.events.stamp != now {
            // Another node may count otherwise.
            (self.events.read, self.events.stamp) = (0, now);
        }
        self.events.read
    }

    /// XADD is answered.
    pub(super) fn note_added(&mut self, id: String, shown: &str, stamp: u64) {
        let number = shown.strip_suffix("-0").and_then(|number| number.parse().ok());
        if let Some(number) = number {
            self.events.added.insert(id.clone(), (number, stamp));
        } else if self.fate(shown, "a number") == Fate::Refused {
            return;
        }
        self.events.ever.insert(id);
    }

    /// XREAD BLOCK from `from` on is answered.
    pub(super) fn check_read(&mut self, from: u64, shown: &str) {
        let (name, now) = (self.name.clone(), self.world.stamp());
        let events = &mut self.events;
        if shown == "nil" {
            let missed = events
                .added
                .iter()
                .find(|(_, (number, stamp))| *stamp == now && *number > from);
            if let Some((id, _)) = missed {
                blame(
                    Dread::Disorder,
                    format!("{name}: {id} was added, and not read behind {from}"),
                );
            }
            return;
        }
        let prefix = format!("[[{name}:x ");
        let Some(entries) = shown.strip_prefix(&prefix) else {
            self.fate(shown, &prefix);
            return;
        };
        let words: Vec<_> = entries
            .split([' ', '[', ']'])
            .filter(|word| !word.is_empty())
            .collect();
        let mut last = 0;
        for entry in words.chunks_exact(3) {
            let number: u64 = entry[0].trim_end_matches("-0").parse().unwrap_or_default();
            let id = entry[2];
            let place = id.split(['-', '@']).nth(1).and_then(|place| place.parse().ok());
            let place: u64 = place.unwrap_or_default();
            if !events.ever.contains(id) {
                blame(Dread::Misdelivered, format!("{name}: {id} was never added"));
            } else if place <= last {
                blame(Dread::Disorder, format!("{name}: {id} is not in its place"));
            } else if events
                .added
                .get(id)
                .is_some_and(|(told, stamp)| *stamp == now && *told != number)
            {
                blame(Dread::Repeated, format!("{name}: {id} is {number}, too"));
            }
            last = place;
            if events.stamp == now {
                events.read = events.read.max(number);
            }
        }
    }

    /// A write that replicas may be asked to vouch for.
    pub(super) fn note_kept(&mut self, id: String, fate: Fate, stamp: u64) {
        self.events.kept = (fate == Fate::Done).then_some((id, stamp));
    }

    /// WAIT is answered: so many replicas have what the session has written.
    pub(super) fn check_vouched(&self, shown: &str) {
        // A node that is demoted lets go of who waits, in these words.
        if shown.starts_with("-UNBLOCKED") || self.fate(shown, ":") != Fate::Done {
            return;
        }
        let vouching: usize = shown[1..].parse().unwrap_or_default();
        let Some((id, stamp)) = &self.events.kept else {
            return;
        };
        let list = format!("{}:w", self.name);
        let having = self
            .world
            .nodes
            .iter()
            .filter(|node| node.list(&list).contains(id))
            .count();
        if *stamp == self.world.stamp() && having < vouching + 1 {
            blame(
                Dread::Lost,
                format!("{vouching} replicas vouch for {id}, and {having} nodes have it"),
            );
        }
    }
}
