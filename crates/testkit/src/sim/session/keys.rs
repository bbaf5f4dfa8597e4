//! What a session knows of its own keys: what they may hold, given all that it has been told.

use std::collections::BTreeSet;

use super::Session;
use super::asked::Asked;
use crate::sim::blame::{Dread, blame};
use crate::sim::ledger::Fate;

/// What is known of a key.
#[derive(Default)]
pub(super) struct Known {
    /// What it may hold.
    values: BTreeSet<String>,
    /// What it may come to hold still: nobody knows what became of these.
    late: BTreeSet<String>,
    /// What it has ever been told to hold.
    ever: BTreeSet<String>,
    /// The world's when this was learnt.
    stamp: u64,
}

/// The least and the greatest value that a counter may have.
#[derive(Default)]
pub(super) struct Counter {
    least: u64,
    most: u64,
    ever: u64,
    stamp: u64,
}

// === impl Session ===

impl Session {
    /// It is about to be written: a replica may have it before the read that was asked before.
    pub(super) fn foresee(&mut self, asked: &Asked) {
        if let Asked::Set(key, value) | Asked::Large(key, value) | Asked::Block(key, value, _) = asked {
            self.known(*key).ever.insert(value.clone());
        }
    }

    pub(super) fn note_set(&mut self, key: u64, value: String, fate: Fate, stamp: u64) {
        let known = self.known(key);
        if fate != Fate::Refused {
            known.ever.insert(value.clone());
        }
        match fate {
            Fate::Done => {
                known.values = BTreeSet::from([value]);
                known.stamp = stamp;
            }
            Fate::Unknown => {
                known.late.insert(value);
            }
            Fate::Refused => {}
        }
    }

    fn known(&mut self, key: u64) -> &mut Known {
        self.keys.entry(key).or_insert_with(|| Known {
            values: BTreeSet::from(["nil".to_owned()]),
            ever: BTreeSet::from(["nil".to_owned()]),
            ..Known::default()
        })
    }

    pub(super) fn check_get(&mut self, key: u64, shown: String, stamp: u64) {
        if shown.starts_with('-') {
            self.fate(&shown, "a value");
            return;
        }
        let (name, elsewhere, now) = (self.name.clone(), self.elsewhere, self.world.stamp());
        self.keep(&format!("{name}:{key}"), &shown);
        let known = self.known(key);
        if !known.ever.contains(&shown) {
            return blame(
                Dread::Misdelivered,
                format!("{name}:{key}: {shown} was never set"),
            );
        }
        if elsewhere {
            return;
        }
        let possible = known.values.contains(&shown) || known.late.contains(&shown);
        if known.stamp == now && !possible {
            let values = known.values.clone();
            blame(Dread::Disorder, format!("{name}:{key}: {shown} of {values:?}"));
        }
        known.values = BTreeSet::from([shown]);
        known.stamp = stamp;
    }

    pub(super) fn check_counter(&mut self, shown: &str, stamp: u64) {
        let fate = self.fate(shown, ":");
        let (name, now) = (&self.name, self.world.stamp());
        let counter = &mut self.counter;
        match fate {
            Fate::Done => {
                let Ok(count) = shown[1..].parse::<u64>() else {
                    return;
                };
                counter.ever += 1;
                let strict = counter.stamp == now;
                let (least, most) = if strict {
                    (counter.least, counter.most)
                } else {
                    (0, counter.ever - 1)
                };
                if count > most + 1 || count < least + 1 {
                    blame(Dread::Repeated, format!("{name}:n: {count} of {least} to {most}"));
                }
                (counter.least, counter.most, counter.stamp) = (count, count, stamp);
            }
            Fate::Unknown => {
                counter.most += 1;
                counter.ever += 1;
            }
            Fate::Refused => {}
        }
    }

    pub(super) fn check_pop(&mut self, shown: &str, stamp: u64) {
        let prefix = format!("[{}:q ", self.name);
        let Some(id) = shown
            .strip_prefix(&prefix)
            .map(|rest| rest.trim_end_matches(']').to_owned())
        else {
            if shown != "nil" {
                self.fate(shown, &prefix);
            }
            return;
        };
        let now = self.world.stamp();
        match self.queued.get_mut(&id) {
            None => blame(
                Dread::Misdelivered,
                format!("{}: {id} was never queued", self.name),
            ),
            Some(Some(popped)) if *popped == now => {
                blame(Dread::Repeated, format!("{}: {id} was popped twice", self.name));
            }
            Some(popped) => *popped = Some(stamp),
        }
    }
}
