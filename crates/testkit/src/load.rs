//! A steady load of plain clients whose every operation is written down, and checked against the primary afterwards.
//!
//! ```text
//!  Load::builder(address).start() --> N threads --> finish() --> History --verify(primary)--> Verdict
//!                 | live()            Journal each                   |                           |
//!                 v                                                  +------- phase(..) ---------+--> Phase
//! ```
//! Most threads cycle through [`Step`]s; one feeds a queue that another drains by BLPOP, and one publishes what another
//! has subscribed to.

mod history;
mod journal;
mod verdict;
mod verify;
mod worker;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::client::{Client, REPLY_TIMEOUT};
use crate::servers::Login;

pub use history::{History, Hold, Phase};
pub use journal::{Kind, Operation, Outcome};
pub use verdict::Verdict;

use journal::Journal;
use worker::{Role, Worker};

/// What a mixed client does at one turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// SET of a key of its own.
    Set,
    /// GET of the last key so written.
    Get,
    /// RPUSH of an id onto the client's list.
    Push,
    /// INCR of the client's counter.
    Count,
    /// Four RPUSH and four GET in one write.
    Pipeline,
    /// MULTI, RPUSH, INCR, EXEC in one write.
    Transaction,
}

/// A load that is to be.
#[derive(Clone, Debug)]
pub struct LoadBuilder {
    address: SocketAddr,
    login: Option<Login>,
    name: String,
    clients: usize,
    pace: Duration,
    steps: Vec<Step>,
    queue: bool,
    pubsub: bool,
}

/// A load that runs. Dropped without [`Load::finish`], its threads go on until the process ends.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    started: Instant,
    threads: Vec<JoinHandle<Journal>>,
}

/// Where a load stands, for a display.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// Replies so far, errors among them.
    pub operations: u64,
    /// Operations that got an error reply.
    pub errors: u64,
    /// Connections lost.
    pub dropped: u64,
    /// The longest time so far without any acknowledged write, the present one included.
    pub longest_pause: Duration,
}

/// What the threads share: what they are told, and the counters of [`Live`].
#[derive(Debug)]
struct Shared {
    options: LoadBuilder,
    stopping: AtomicBool,
    epoch: Instant,
    operations: AtomicU64,
    errors: AtomicU64,
    dropped: AtomicU64,
    /// Microseconds since `epoch` of the last acknowledged write.
    last_write_micros: AtomicU64,
    longest_pause_micros: AtomicU64,
}

// === impl LoadBuilder ===

impl LoadBuilder {
    /// How many clients in all. Without the call, 32.
    #[must_use]
    pub fn clients(mut self, clients: usize) -> Self {
        self.clients = clients;
        self
    }

    /// Logs every client in.
    #[must_use]
    pub fn login(mut self, login: Option<Login>) -> Self {
        self.login = login;
        self
    }

    /// The first part of every key. Without the call, `load`.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// How long a client rests between its operations. Without the call, 5 ms.
    #[must_use]
    pub fn pace(mut self, pace: Duration) -> Self {
        self.pace = pace;
        self
    }

    /// What the mixed clients do, turn by turn. Without the call, all there is.
    #[must_use]
    pub fn steps(mut self, steps: &[Step]) -> Self {
        self.steps = steps.to_vec();
        self
    }

    /// Without the clients that feed and drain a queue, and those that publish and subscribe.
    #[must_use]
    pub fn mixed_only(mut self) -> Self {
        (self.queue, self.pubsub) = (false, false);
        self
    }

    /// Removes what an earlier load of this name left, and starts the clients.
    ///
    /// # Errors
    /// When the first connection cannot be made or its commands are refused.
    pub fn start(self) -> Result<Load> {
        let mut roles = Vec::new();
        if self.queue {
            roles.extend([Role::Producer, Role::Consumer]);
        }
        if self.pubsub {
            roles.extend([Role::Publisher, Role::Subscriber]);
        }
        roles.resize(self.clients.max(roles.len()), Role::Mixed);
        self.clear()?;
        let epoch = Instant::now();
        let shared = Arc::new(Shared {
            options: self,
            stopping: AtomicBool::new(false),
            epoch,
            operations: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            last_write_micros: AtomicU64::new(0),
            longest_pause_micros: AtomicU64::new(0),
        });
        let spawn = |(number, role)| {
            let worker = Worker::new(number, role, Arc::clone(&shared));
            thread::spawn(move || worker.run())
        };
        let threads = roles.into_iter().enumerate().map(spawn).collect();
        Ok(Load {
            shared,
            started: epoch,
            threads,
        })
    }

    fn clear(&self) -> Result<()> {
        let mut client = Client::connect_as(self.address, self.login.as_ref(), REPLY_TIMEOUT)?;
        let pattern = format!("{}:*", self.name);
        let mut cursor = "0".to_owned();
        loop {
            let scanned = client.command(&["SCAN", &cursor, "MATCH", &pattern, "COUNT", "1000"])?;
            let [next, keys] = scanned.items() else {
                anyhow::bail!("SCAN answers {scanned:?}")
            };
            let keys = keys.texts();
            if !keys.is_empty() {
                let unlink = ["UNLINK"]
                    .into_iter()
                    .chain(keys.iter().map(String::as_str))
                    .collect::<Vec<_>>();
                client.command(&unlink)?;
            }
            next.text().unwrap_or("0").clone_into(&mut cursor);
            if cursor == "0" {
                return Ok(());
            }
        }
    }
}

// === impl Load ===

impl Load {
    /// Describes a load on what listens there.
    #[must_use]
    pub fn builder(address: SocketAddr) -> LoadBuilder {
        LoadBuilder {
            address,
            login: None,
            name: "load".to_owned(),
            clients: 32,
            pace: Duration::from_millis(5),
            steps: vec![
                Step::Set,
                Step::Push,
                Step::Get,
                Step::Count,
                Step::Set,
                Step::Push,
                Step::Pipeline,
                Step::Transaction,
            ],
            queue: true,
            pubsub: true,
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn live(&self) -> Live {
        let shared = &self.shared;
        let since_write = shared
            .now_micros()
            .saturating_sub(shared.last_write_micros.load(Ordering::Relaxed));
        Live {
            operations: shared.operations.load(Ordering::Relaxed),
            errors: shared.errors.load(Ordering::Relaxed),
            dropped: shared.dropped.load(Ordering::Relaxed),
            longest_pause: Duration::from_micros(
                since_write.max(shared.longest_pause_micros.load(Ordering::Relaxed)),
            ),
        }
    }

    /// Begins the longest pause of [`Load::live`] anew.
    pub fn reset_longest_pause(&self) {
        self.shared.longest_pause_micros.store(0, Ordering::Relaxed);
    }

    /// Lets every client end its present operation, and collects what they wrote down.
    ///
    /// # Panics
    /// When a client's thread did.
    #[must_use]
    pub fn finish(self) -> History {
        let ended = Instant::now();
        self.shared.stopping.store(true, Ordering::Relaxed);
        let journals = self
            .threads
            .into_iter()
            .map(|thread| thread.join().expect("a client does not panic"));
        History::new(self.shared.options.name.clone(), self.started, ended, journals)
    }
}

// === impl Shared ===

impl Shared {
    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    fn now_micros(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn count(&self, operation: &Operation) {
        self.operations.fetch_add(1, Ordering::Relaxed);
        match &operation.outcome {
            Outcome::Unknown(_) | Outcome::Refused(_) => {
                self.errors.fetch_add(1, Ordering::Relaxed);
            }
            Outcome::Acknowledged if operation.kind.is_write() => {
                let now = self.now_micros();
                let last = self.last_write_micros.swap(now, Ordering::Relaxed);
                self.longest_pause_micros
                    .fetch_max(now.saturating_sub(last), Ordering::Relaxed);
            }
            _ => {}
        }
    }
}
