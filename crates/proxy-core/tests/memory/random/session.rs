//! A client that remembers what it asked for, and what each answer allows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proxy_core::ReadPolicy;
use tokio::time::sleep;

use crate::common::client::Client;
use crate::common::rng::Rng;
use crate::common::world::UNKNOWN;

/// What is known of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Done,
    Unknown,
    Refused,
}

pub(super) struct Session {
    name: String,
    client: Client,
    /// Reads may be answered by a replica, without regard to the order of writes.
    elsewhere: bool,
    rng: Rng,
    numbers: u64,
    /// Values that a key of this session may have.
    keys: BTreeMap<u64, BTreeSet<String>>,
    /// The counter's least and greatest value.
    counter: (u64, u64),
    pushed: Vec<(String, Fate)>,
    /// What it has put into its own queue and not got out again.
    queued: BTreeSet<String>,
}

/// What was asked.
enum Asked {
    Set(u64, String),
    Get(u64),
    Push(String),
    Incr,
    Echo(String),
    Publish,
    /// MULTI, SET, RPUSH log, EXEC in one go.
    Block(u64, String, String),
    Queue(String),
    Pop,
}

impl Session {
    pub(super) fn new(name: String, client: Client, reads: ReadPolicy, rng: Rng) -> Self {
        Self {
            name,
            client,
            elsewhere: reads != ReadPolicy::Primary,
            rng,
            numbers: 0,
            keys: BTreeMap::new(),
            counter: (0, 0),
            pushed: Vec::new(),
            queued: BTreeSet::new(),
        }
    }

    pub(super) fn pushed(&mut self) -> Vec<(String, Fate)> {
        std::mem::take(&mut self.pushed)
    }

    /// Asks and checks until `calm`. False: it hung up half way.
    pub(super) async fn live(&mut self, calm: impl Fn() -> bool) -> bool {
        while !calm() {
            if self.rng.once_in(4) {
                self.transact().await;
                continue;
            }
            let asked: Vec<_> = (0..1 + self.rng.below(6)).map(|_| self.choose()).collect();
            let lines: Vec<_> = asked.iter().map(|asked| self.line(asked)).collect();
            self.client.send(&lines.join("; ")).await;
            let stays = if self.rng.once_in(40) {
                self.rng.below(asked.len() as u64) as usize
            } else {
                asked.len()
            };
            let mut asked = asked.into_iter();
            for one in asked.by_ref().take(stays) {
                self.hear(one).await;
            }
            if asked.len() > 0 {
                asked.for_each(|one| self.give_up(one));
                return false;
            }
            let pause = Duration::from_millis(self.rng.below(60));
            sleep(pause).await;
        }
        self.settle_up().await;
        true
    }

    /// Once nothing goes wrong any more, everything is answered, and is what it may be.
    async fn settle_up(&mut self) {
        for key in self.keys.keys().copied().collect::<Vec<_>>() {
            self.client.send(&format!("GET {}:{key}", self.name)).await;
            let shown = self.client.reply().await;
            assert!(
                self.keys[&key].contains(&shown),
                "{shown} of {:?}",
                self.keys[&key]
            );
        }
        self.client.send(&format!("INCR {}:n", self.name)).await;
        let shown = self.client.reply().await;
        let count: u64 = shown
            .strip_prefix(':')
            .and_then(|digits| digits.parse().ok())
            .expect(&shown);
        assert!(
            (self.counter.0 + 1..=self.counter.1 + 1).contains(&count),
            "{count} of {:?}",
            self.counter
        );
    }

    fn id(&mut self) -> String {
        self.numbers += 1;
        format!("{}-{}", self.name, self.numbers)
    }

    fn choose(&mut self) -> Asked {
        let key = self.rng.below(2);
        match self.rng.below(10) {
            0 | 1 => Asked::Set(key, self.id()),
            2 | 3 => Asked::Get(key),
            4 => Asked::Push(self.id()),
            5 => Asked::Incr,
            6 => Asked::Echo(self.id()),
            7 => Asked::Publish,
            8 => Asked::Block(key, self.id(), self.id()),
            _ if self.rng.once_in(2) => Asked::Queue(self.id()),
            _ => Asked::Pop,
        }
    }

    fn line(&mut self, asked: &Asked) -> String {
        let name = &self.name;
        match asked {
            Asked::Set(key, value) => format!("SET {name}:{key} {value}"),
            Asked::Get(key) => format!("GET {name}:{key}"),
            Asked::Push(id) => format!("RPUSH log {id}"),
            Asked::Incr => format!("INCR {name}:n"),
            Asked::Echo(id) => format!("ECHO {id}"),
            Asked::Publish => format!("PUBLISH news {}", self.id()),
            Asked::Block(key, value, id) => {
                format!("MULTI; SET {name}:{key} {value}; RPUSH log {id}; EXEC")
            }
            Asked::Queue(id) => format!("RPUSH {name}:q {id}"),
            Asked::Pop => format!("BLPOP {name}:q 0.1"),
        }
    }

    /// The answer, and what it means.
    async fn hear(&mut self, asked: Asked) {
        if let Asked::Block(key, value, id) = asked {
            let replies = [
                self.client.reply().await,
                self.client.reply().await,
                self.client.reply().await,
                self.client.reply().await,
            ];
            let fate = self.fate(&replies[3], "[+OK :");
            self.note_set(key, value, fate);
            self.pushed.push((id, fate));
            return;
        }
        let shown = self.client.reply().await;
        match asked {
            Asked::Set(key, value) => {
                let fate = self.fate(&shown, "+OK");
                self.note_set(key, value, fate);
            }
            Asked::Get(key) => self.check_get(key, shown),
            Asked::Push(id) => {
                let fate = self.fate(&shown, ":");
                self.pushed.push((id, fate));
            }
            Asked::Incr => self.check_counter(&shown),
            Asked::Echo(id) => assert!(
                shown == id || self.fate(&shown, "-") != Fate::Done,
                "{shown} for {id}"
            ),
            Asked::Publish => drop(self.fate(&shown, ":")),
            Asked::Queue(id) => {
                if self.fate(&shown, ":") != Fate::Refused {
                    self.queued.insert(id);
                }
            }
            Asked::Pop => {
                let prefix = format!("[{}:q ", self.name);
                if let Some(id) = shown.strip_prefix(&prefix) {
                    let id = id.trim_end_matches(']');
                    assert!(
                        self.queued.remove(id),
                        "{id} was popped, and is not, or no longer, in the queue"
                    );
                } else if shown != "nil" {
                    assert_ne!(self.fate(&shown, "["), Fate::Done, "{shown}");
                }
            }
            Asked::Block(..) => unreachable!("answered above"),
        }
    }

    /// A transaction command by command, with time between them.
    async fn transact(&mut self) {
        let watches = self.rng.once_in(2);
        if watches {
            let shown = self.client.ask(&format!("WATCH {}:w", self.name)).await;
            if self.fate(&shown, "+OK") != Fate::Done {
                return;
            }
        }
        let shown = self.client.ask("MULTI").await;
        if self.fate(&shown, "+OK") != Fate::Done {
            return;
        }
        let (key, value, id) = (self.rng.below(2), self.id(), self.id());
        for line in [
            format!("SET {}:{key} {value}", self.name),
            format!("RPUSH log {id}"),
        ] {
            let pause = Duration::from_millis(self.rng.below(100));
            sleep(pause).await;
            let shown = self.client.ask(&line).await;
            if self.fate(&shown, "+QUEUED") != Fate::Done {
                // Whatever was queued is over with; the fake knows no other way.
                self.client.ask("DISCARD").await;
                self.pushed.push((id, Fate::Refused));
                return;
            }
        }
        let shown = self.client.ask("EXEC").await;
        let fate = if shown == "nil" && watches {
            Fate::Refused
        } else {
            self.fate(&shown, "[+OK :")
        };
        self.note_set(key, value, fate);
        self.pushed.push((id, fate));
    }

    /// Nobody will hear the answer.
    fn give_up(&mut self, asked: Asked) {
        match asked {
            Asked::Push(id) | Asked::Block(_, _, id) => self.pushed.push((id, Fate::Unknown)),
            _ => {}
        }
    }

    /// What a reply says of a write whose good reply starts with `good`.
    #[track_caller]
    fn fate(&self, shown: &str, good: &str) -> Fate {
        let refusals = [
            "-MASTERDOWN",
            "-READONLY",
            "-LOADING",
            "-NOREPLICAS",
            "-EXECABORT",
        ];
        if shown.starts_with(UNKNOWN) {
            Fate::Unknown
        } else if refusals.iter().any(|refusal| shown.starts_with(refusal)) {
            Fate::Refused
        } else {
            assert!(
                shown.starts_with(good),
                "{}: {shown} is no answer like {good}",
                self.name
            );
            Fate::Done
        }
    }

    fn note_set(&mut self, key: u64, value: String, fate: Fate) {
        let values = self.values(key);
        match fate {
            Fate::Done => *values = BTreeSet::from([value]),
            Fate::Unknown => drop(values.insert(value)),
            Fate::Refused => {}
        }
    }

    fn check_get(&mut self, key: u64, shown: String) {
        if shown.starts_with('-') {
            assert_ne!(self.fate(&shown, "-"), Fate::Done, "{shown}");
        } else if self.elsewhere {
            let own = shown == "nil" || shown.starts_with(&format!("{}-", self.name));
            assert!(own, "{}: {shown} is another session's", self.name);
        } else {
            let name = self.name.clone();
            let values = self.values(key);
            assert!(values.contains(&shown), "{name}:{key}: {shown} of {values:?}");
            *values = BTreeSet::from([shown]);
        }
    }

    fn values(&mut self, key: u64) -> &mut BTreeSet<String> {
        self.keys
            .entry(key)
            .or_insert_with(|| BTreeSet::from(["nil".to_owned()]))
    }

    fn check_counter(&mut self, shown: &str) {
        match self.fate(shown, ":") {
            Fate::Done => {
                let count: u64 = shown[1..].parse().unwrap();
                let (least, most) = self.counter;
                assert!(
                    (least + 1..=most + 1).contains(&count),
                    "{count} of {least} to {most}"
                );
                self.counter = (count, count);
            }
            Fate::Unknown => self.counter.1 += 1,
            Fate::Refused => {}
        }
    }
}
