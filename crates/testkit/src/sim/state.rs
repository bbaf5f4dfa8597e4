//! What a fake node knows: its keys, its connections, whom it refuses, and what the test has in store for it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use resp_codec::{Command, CommandFlags, RequestLimits, RequestScan, write};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::commands::Wish;
use super::data::{Data, Key};
use super::node::{Fault, Temper};
use super::replication::Replication;

/// What it knows.
pub(super) struct State {
    pub(super) data: Rc<RefCell<Data>>,
    pub(super) temper: Temper,
    /// Passwords by user; "default" has none where it is not listed.
    pub(super) users: BTreeMap<String, String>,
    pub(super) connections: BTreeMap<u64, Connection>,
    pub(super) waiters: Vec<Waiter>,
    pub(super) executed: Vec<Line>,
    pub(super) received: Vec<Line>,
    pub(super) frames: Vec<Bytes>,
    pub(super) rules: Vec<Rule>,
    pub(super) opened: u64,
    pub(super) replication: Replication,
    pub(super) complaints: Vec<String>,
}

/// What a script names, and how often still.
pub(super) struct Rule {
    pub(super) prefix: String,
    pub(super) fault: Fault,
    pub(super) times: usize,
}

/// A command as it came, or as it was executed.
#[derive(Clone, Debug)]
pub struct Line {
    /// When.
    pub at: Instant,
    /// Which connection it came over.
    pub connection: u64,
    /// As whom.
    pub user: String,
    /// In which database.
    pub db: u32,
    /// Its words, the first 200 bytes of them.
    pub text: String,
}

/// One client's connection.
pub(super) struct Connection {
    pub(super) user: Option<String>,
    pub(super) db: u32,
    pub(super) resp3: bool,
    /// What is queued since MULTI.
    pub(super) queue: Option<Vec<Vec<Bytes>>>,
    /// An error while queueing: EXEC will refuse.
    pub(super) spoiled: bool,
    pub(super) watched: Vec<(Key, u64)>,
    /// The session whose transaction or watched keys these are.
    pub(super) owner: Option<String>,
    pub(super) channels: BTreeSet<Bytes>,
    pub(super) patterns: BTreeSet<Bytes>,
    /// What it has read since CLIENT TRACKING ON, and when that was touched last.
    pub(super) tracked: Option<BTreeMap<Key, u64>>,
    /// Bytes of the stream behind its last write.
    pub(super) written: u64,
    /// Bytes of the stream that it has: it is a replica's.
    pub(super) acknowledged: u64,
    pub(super) out: mpsc::UnboundedSender<Out>,
    pub(super) cut: CancellationToken,
}

/// What a connection's writer is to do next.
pub(super) enum Out {
    Bytes(Bytes, Instant),
    Close,
}

/// A blocked client.
pub(super) struct Waiter {
    pub(super) connection: u64,
    pub(super) text: String,
    pub(super) wish: Wish,
    /// Its answer if the wish is never granted.
    pub(super) none: Bytes,
    pub(super) reply: oneshot::Sender<Bytes>,
}

/// How a connection goes on after a command.
pub(super) enum Step {
    Next,
    Blocked(oneshot::Receiver<Bytes>, Option<Instant>, Bytes),
    Later(Duration, Vec<Bytes>),
    Never,
}

// === impl State ===

impl State {
    pub(super) fn connection(&mut self, id: u64) -> &mut Connection {
        self.connections
            .get_mut(&id)
            .expect("a connection is dismissed last")
    }

    /// Why a command is refused at the entry.
    pub(super) fn refusal(&self, args: &[Bytes]) -> Option<&'static str> {
        let command = parse(args);
        let flags = command.spec().flags;
        let writes = flags.contains(CommandFlags::WRITE);
        let (refuses, text) = match self.temper {
            Temper::Primary => (false, ""),
            // A script's first write fails.
            Temper::Replica => (
                writes || command.spec().name == "eval",
                "READONLY You can't write against a read only replica.",
            ),
            Temper::NoReplicas => (writes, "NOREPLICAS Not enough good replicas to write."),
            Temper::Loading => (
                !flags.contains(CommandFlags::LOADING),
                "LOADING Redis is loading the dataset in memory",
            ),
            Temper::MasterDown => (
                !flags.contains(CommandFlags::STALE),
                "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            ),
        };
        refuses.then_some(text)
    }

    pub(super) fn note_executed(&mut self, id: u64, args: &[Bytes]) {
        let line = self.line(id, args);
        self.check_compare_and_set(&line);
        self.check_owner(&line);
        self.check_user(&line);
        self.executed.push(line);
    }

    /// `SET cas:<key> <new>|<old>`: whoever sends that has watched the key and seen `<old>`.
    fn check_compare_and_set(&mut self, line: &Line) {
        let words: Vec<_> = line.text.split(' ').collect();
        let ["SET", key, value] = words[..] else { return };
        let Some(seen) = key.strip_prefix("cas:").and(value.split('|').nth(1)) else {
            return;
        };
        let now = self.data.borrow().text(line.db, key);
        let now = now.map_or("nil".to_owned(), |text| {
            String::from_utf8_lossy(&text)
                .split('|')
                .next()
                .unwrap()
                .to_owned()
        });
        if now != seen {
            self.complaints.push(format!(
                "{} was executed upon {now}, in spite of WATCH",
                line.text
            ));
        }
    }

    /// What a session makes up tells as whom it speaks: `s7-12@app`, or `s7-12` of whom nobody knows.
    fn check_user(&mut self, line: &Line) {
        for word in line.text.split(' ') {
            let made_up = word.split('|').next().unwrap_or_default().trim_end_matches('.');
            if made_up.split_once('-').is_none() || session_of(made_up).is_none() {
                continue;
            }
            let user = made_up.split_once('@').map_or("default", |(_, user)| user);
            if user != line.user {
                self.complaints
                    .push(format!("{} was executed as {}", line.text, line.user));
            }
        }
    }

    /// A connection with a transaction or a watched key is one session's.
    pub(super) fn check_owner(&mut self, line: &Line) {
        let connection = self.connection(line.connection);
        if connection.queue.is_none() && connection.watched.is_empty() {
            connection.owner = None;
            return;
        }
        let Some(session) = session_of(&line.text) else {
            return;
        };
        match &connection.owner {
            Some(owner) if *owner != session => {
                let complaint = format!("{} came over a connection with the state of {owner}", line.text);
                self.complaints.push(complaint);
            }
            _ => connection.owner = Some(session),
        }
    }

    /// Gives blocked clients what has come for them, first come, first served.
    pub(super) fn serve_waiters(&mut self) {
        let mut at = 0;
        while at < self.waiters.len() {
            let granted = match self.waiters[at].wish {
                Wish::Replicas { count, offset } => {
                    self.vouched(count, offset).map(|reply| (reply, Vec::new()))
                }
                ref wish => wish.grant(&mut self.data.borrow_mut()),
            };
            match granted {
                Some((reply, effects)) => {
                    let waiter = self.waiters.remove(at);
                    for (db, args) in effects {
                        self.propagate(db, &args);
                    }
                    let line = Line {
                        at: Instant::now(),
                        connection: waiter.connection,
                        user: String::new(),
                        db: 0,
                        text: waiter.text,
                    };
                    self.executed.push(line);
                    let _ = waiter.reply.send(reply);
                }
                None => at += 1,
            }
        }
    }

    pub(super) fn line(&mut self, id: u64, args: &[Bytes]) -> Line {
        let words: Vec<_> = args
            .iter()
            .map(|arg| String::from_utf8_lossy(&arg[..arg.len().min(200)]))
            .collect();
        let connection = self.connection(id);
        Line {
            at: Instant::now(),
            connection: id,
            user: connection.user.clone().unwrap_or_default(),
            db: connection.db,
            text: words.join(" ").chars().take(200).collect(),
        }
    }

    /// What is in store for a command of these words.
    pub(super) fn fault(&mut self, text: &str) -> Option<Fault> {
        let rule = self
            .rules
            .iter_mut()
            .find(|rule| rule.times > 0 && text.starts_with(&rule.prefix))?;
        rule.times -= 1;
        Some(rule.fault.clone())
    }
}

// === impl Connection ===

impl Connection {
    pub(super) fn is_subscribed(&self) -> bool {
        !self.channels.is_empty() || !self.patterns.is_empty()
    }
}

/// The session that sends a command: the simulator's sessions put their names into keys and values, `s7:` or `s7-`.
fn session_of(text: &str) -> Option<String> {
    text.split(' ').find_map(|word| {
        let (name, _) = word.split_once([':', '-'])?;
        let digits = name.strip_prefix('s')?;
        (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| name.to_owned())
    })
}

/// The command that `args` are.
pub(super) fn parse(args: &[Bytes]) -> Command<Bytes> {
    let words: Vec<&[u8]> = args.iter().map(|arg| &arg[..]).collect();
    let mut frame = BytesMut::new();
    write::command(&mut frame, &words);
    let found = RequestScan::default().advance(&frame, &RequestLimits::AUTHENTICATED);
    Command::new(frame.freeze(), found.unwrap().unwrap())
}
