//! One client of the load.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::journal::{Journal, Kind, Operation, Outcome};
use super::{Shared, Step};
use crate::client::{Broken, Cause, Client, REPLY_TIMEOUT, encode};
use crate::reply::Reply;

const RECONNECT_PAUSE: Duration = Duration::from_millis(5);
/// How often those that wait for something look whether the load is over.
const LOOK_UP: Duration = Duration::from_secs(1);
const PIPELINED_PAIRS: usize = 4;

/// What a client is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Mixed,
    Producer,
    Consumer,
    Publisher,
    Subscriber,
}

pub(super) struct Worker {
    number: usize,
    role: Role,
    shared: Arc<Shared>,
    connection: Option<Client>,
    journal: Journal,
    last_id: u64,
    /// The last key whose SET was acknowledged.
    last_set: Option<u64>,
}

/// A command about to be sent, and what it is to be written down as.
struct Planned {
    kind: Kind,
    id: u64,
    bytes: Vec<u8>,
    /// How many replies it has; the last one tells.
    replies: usize,
}

// === impl Worker ===

impl Worker {
    pub(super) fn new(number: usize, role: Role, shared: Arc<Shared>) -> Self {
        Self {
            number,
            role,
            shared,
            connection: None,
            journal: Journal::default(),
            last_id: 0,
            last_set: None,
        }
    }

    /// Works until the load is over.
    pub(super) fn run(mut self) -> Journal {
        let steps = self.shared.options.steps.clone();
        let mut turns = steps.iter().cycle().skip(self.number % steps.len().max(1));
        while !self.shared.is_stopping() {
            match self.role {
                Role::Mixed => {
                    if let Some(&step) = turns.next() {
                        self.mixed(step);
                    }
                }
                Role::Producer => self.write_id(Kind::Enqueue, "RPUSH"),
                Role::Publisher => self.write_id(Kind::Publish, "PUBLISH"),
                Role::Consumer => self.consume(),
                Role::Subscriber => self.subscribe(),
            }
            thread::sleep(self.shared.options.pace);
        }
        self.journal
    }

    fn mixed(&mut self, step: Step) {
        match step {
            Step::Set => {
                let planned = self.set();
                self.exchange(vec![planned]);
            }
            Step::Get => {
                let planned = self.get();
                self.exchange(planned.into_iter().collect());
            }
            Step::Push => self.write_id(Kind::Push, "RPUSH"),
            Step::Count => {
                let (id, key) = (self.fresh_id(), self.key(Kind::Count));
                self.exchange(vec![Planned {
                    kind: Kind::Count,
                    id,
                    bytes: encode(&["INCR", &key]),
                    replies: 1,
                }]);
            }
            Step::Pipeline => {
                let batch =
                    (0..PIPELINED_PAIRS).flat_map(|_| [Some(self.push(Kind::Push, "RPUSH")), self.get()]);
                let batch = batch.flatten().collect();
                self.exchange(batch);
            }
            Step::Transaction => {
                let (id, key) = (self.fresh_id(), self.key(Kind::Transaction));
                let bytes = [
                    encode(&["MULTI"]),
                    encode(&["RPUSH", &key, &id.to_string()]),
                    encode(&["INCR", &format!("{key}:count")]),
                    encode(&["EXEC"]),
                ];
                self.exchange(vec![Planned {
                    kind: Kind::Transaction,
                    id,
                    bytes: bytes.concat(),
                    replies: 4,
                }]);
            }
        }
    }

    fn write_id(&mut self, kind: Kind, command: &str) {
        let planned = self.push(kind, command);
        self.exchange(vec![planned]);
    }

    fn set(&mut self) -> Planned {
        let id = self.fresh_id();
        let bytes = encode(&["SET", &format!("{}:{id}", self.key(Kind::Set)), &id.to_string()]);
        Planned {
            kind: Kind::Set,
            id,
            bytes,
            replies: 1,
        }
    }

    fn get(&self) -> Option<Planned> {
        let id = self.last_set?;
        let bytes = encode(&["GET", &format!("{}:{id}", self.key(Kind::Set))]);
        Some(Planned {
            kind: Kind::Get,
            id,
            bytes,
            replies: 1,
        })
    }

    fn push(&mut self, kind: Kind, command: &str) -> Planned {
        let id = self.fresh_id();
        let bytes = encode(&[command, &self.key(kind), &id.to_string()]);
        Planned {
            kind,
            id,
            bytes,
            replies: 1,
        }
    }

    /// Sends the batch in one write and writes down what comes of each command.
    fn exchange(&mut self, batch: Vec<Planned>) {
        let Some(mut client) = self.connected() else {
            return;
        };
        let bytes: Vec<u8> = batch
            .iter()
            .flat_map(|planned| planned.bytes.iter().copied())
            .collect();
        let sent = Instant::now();
        let mut broken = client.send_raw(&bytes).err();
        for planned in batch {
            let reply = match broken.take() {
                Some(broken) => Err(broken),
                None => (1..planned.replies)
                    .try_for_each(|_| client.read().map(drop))
                    .and_then(|()| client.read()),
            };
            let (id, outcome) = match reply {
                Ok(reply) => judge(&planned, &reply),
                Err(error) => {
                    let outcome = Outcome::Dropped(error.to_string());
                    broken = Some(error);
                    (planned.id, outcome)
                }
            };
            if planned.kind == Kind::Set && outcome == Outcome::Acknowledged {
                self.last_set = Some(id);
            }
            self.note(planned.kind, id, sent, outcome);
        }
        match broken {
            Some(_) => self.drop_connection(),
            None => self.connection = Some(client),
        }
    }

    fn consume(&mut self) {
        let Some(mut client) = self.connected() else {
            return;
        };
        let sent = Instant::now();
        // The producer's key: there is one queue.
        match client.command(&["BLPOP", &self.shared.queue_key(), "1"]) {
            Ok(Reply::Null) => self.connection = Some(client),
            Ok(reply) => {
                let popped = reply.texts().get(1).and_then(|id| id.parse().ok());
                let outcome = Outcome::expecting(&reply, |_| popped.is_some());
                self.note(Kind::Dequeue, popped.unwrap_or(0), sent, outcome);
                self.connection = Some(client);
            }
            Err(error) => {
                self.note(Kind::Dequeue, 0, sent, Outcome::Dropped(error.to_string()));
                self.drop_connection();
            }
        }
    }

    /// Subscribes and stays so until the connection ends or the load does.
    fn subscribe(&mut self) {
        let Some(mut client) = self.connected() else {
            return;
        };
        let mut sent = Instant::now();
        let channel = self.shared.channel();
        let subscribed = client
            .set_timeout(LOOK_UP)
            .and_then(|()| client.command(&["SUBSCRIBE", &channel]));
        let mut outcome = match subscribed {
            Ok(reply) => Outcome::expecting(&reply, |reply| reply.items().len() == 3),
            Err(error) => Outcome::Dropped(error.to_string()),
        };
        while outcome == Outcome::Acknowledged && !self.shared.is_stopping() {
            match client.read() {
                Ok(message) => {
                    let id = message.texts().get(2).and_then(|id| id.parse().ok());
                    outcome = Outcome::expecting(&message, |_| id.is_some());
                    if outcome == Outcome::Acknowledged {
                        self.note(Kind::Receive, id.unwrap_or(0), sent, Outcome::Acknowledged);
                    }
                    sent = Instant::now();
                }
                Err(Broken {
                    cause: Cause::Timeout,
                    partial,
                }) if partial.is_empty() => {}
                Err(error) => outcome = Outcome::Dropped(error.to_string()),
            }
        }
        match outcome {
            Outcome::Acknowledged => {}
            Outcome::Dropped(_) => {
                self.note(Kind::Receive, 0, sent, outcome);
                self.drop_connection();
            }
            refused => self.note(Kind::Receive, 0, sent, refused),
        }
    }

    /// The connection, made anew where the last one ended. A failure to connect is written down as a drop of its own.
    fn connected(&mut self) -> Option<Client> {
        if let Some(client) = self.connection.take() {
            return Some(client);
        }
        let options = &self.shared.options;
        match Client::connect_as(options.address, options.login.as_ref(), REPLY_TIMEOUT) {
            Ok(client) => Some(client),
            Err(_) => {
                self.drop_connection();
                thread::sleep(RECONNECT_PAUSE);
                None
            }
        }
    }

    fn drop_connection(&mut self) {
        self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        self.journal.drops.push(Instant::now());
    }

    fn note(&mut self, kind: Kind, id: u64, sent: Instant, outcome: Outcome) {
        let operation = Operation {
            client: self.number,
            kind,
            id,
            sent,
            done: Instant::now(),
            outcome,
        };
        self.shared.count(&operation);
        self.journal.operations.push(operation);
    }

    fn fresh_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn key(&self, kind: Kind) -> String {
        match kind {
            Kind::Enqueue => self.shared.queue_key(),
            Kind::Publish => self.shared.channel(),
            _ => super::verify::key(&self.shared.options.name, kind, self.number),
        }
    }
}

// === impl Shared ===

impl Shared {
    fn queue_key(&self) -> String {
        super::verify::queue_key(&self.options.name)
    }

    fn channel(&self) -> String {
        format!("{}:channel", self.options.name)
    }
}

/// The id to write down, and what came of it.
fn judge(planned: &Planned, reply: &Reply) -> (u64, Outcome) {
    let counted = reply.integer().and_then(|count| u64::try_from(count).ok());
    let outcome = Outcome::expecting(reply, |reply| match planned.kind {
        Kind::Set => reply.text() == Some("OK"),
        Kind::Transaction => {
            reply.items().len() == 2 && reply.items().iter().all(|item| item.integer().is_some())
        }
        Kind::Get => true,
        _ => counted.is_some(),
    });
    match (planned.kind, outcome) {
        (Kind::Count, Outcome::Acknowledged) => (counted.unwrap_or(planned.id), Outcome::Acknowledged),
        (Kind::Get, Outcome::Acknowledged) if reply.text() != Some(&planned.id.to_string()) => {
            (planned.id, Outcome::Stale)
        }
        (_, outcome) => (planned.id, outcome),
    }
}
