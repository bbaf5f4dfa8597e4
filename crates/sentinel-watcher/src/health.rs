//! What the watcher knows about its own work: for `/readyz`, `/metrics`, `/failovers` and logs.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::topology::{Epoch, HostPort};

/// How the watching goes. Topologies say who is primary; this says how well it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Every sentinel, configured or discovered, by address.
    pub sentinels: Vec<SentinelHealth>,
    /// How many sentinels must agree that the primary is down, as they say.
    pub quorum: Option<u32>,
    /// `down-after-milliseconds`, as they say: the longest of them.
    pub down_after: Option<Duration>,
    /// The highest config-epoch among the sentinels reachable now.
    pub config_epoch: u64,
    /// Every replica, by address, fresher than in the topology: lag alone publishes no topology.
    pub replicas: Vec<ReplicaHealth>,
    /// What an operator should know, in words; `None` where all is well.
    pub problem: Option<String>,
    /// Switches seen since the start, by kind.
    pub failovers: FailoverCounts,
    /// The one that goes on now; unconfirmed, it goes on while commands flow again.
    pub failover: Option<Failover>,
    /// The latest that ended, the newest last: several where they ended right behind one another, before anybody
    /// looked.
    pub past_failovers: VecDeque<Failover>,
}

/// One sentinel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentinelHealth {
    /// Where it listens.
    pub address: HostPort,
    /// How it fares.
    pub state: SentinelState,
    /// Its config-epoch of the master; 0 where it has not said.
    pub config_epoch: u64,
}

/// How a sentinel fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SentinelState {
    /// Not asked yet.
    Connecting,
    /// It answers, and its events are subscribed.
    Watching,
    /// It answers; the subscription is being made anew.
    Polling,
    /// It answers in TILT mode: its clock jumped, it does not act.
    Tilted,
    /// It cannot be reached or does not answer.
    Unreachable,
    /// It answers, but does not serve us: no such master, or a wrong password.
    Refusing,
}

/// One replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaHealth {
    /// Where it listens, after `--address-map`.
    pub address: HostPort,
    /// It may be read.
    pub usable: bool,
    /// Bytes of the replication stream it is behind its primary, where known.
    pub lag_bytes: Option<u64>,
}

/// Switches by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FailoverCounts {
    /// A sentinel moved a healthy primary (`SENTINEL FAILOVER`).
    pub planned: u64,
    /// The primary was down.
    pub crash: u64,
    /// The primary was made a replica by hand, or the address changed and no attempt was seen.
    pub manual: u64,
}

/// What made a primary change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailoverKind {
    /// A sentinel moved a healthy primary.
    Planned,
    /// The primary was down.
    Crash,
    /// The primary was made a replica by hand, or the address changed and no attempt was seen.
    Manual,
}

/// One switch, or what looked like one. Durations count from its first sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failover {
    /// Counts them since the start, so that one can be told from another.
    pub number: u64,
    /// When the first sign came: commands wait from then on.
    pub began: Instant,
    /// What was seen first.
    pub sign: &'static str,
    /// What made it, as far as is known yet.
    pub kind: FailoverKind,
    /// The old primary.
    pub from: HostPort,
    /// Who was named as the next one, and when.
    pub candidate: Option<(HostPort, Duration)>,
    /// Who serves in its place.
    pub promotion: Option<Promotion>,
    /// How it ended; `None` while it goes on.
    pub end: Option<(FailoverEnd, Duration)>,
}

/// A new primary that was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promotion {
    /// Where it listens.
    pub address: HostPort,
    /// As which primary it was published.
    pub term: Epoch,
    /// When it said `master` to ROLE and was published.
    pub after: Duration,
}

/// How a failover ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailoverEnd {
    /// A sentinel's epoch confirmed the new primary.
    Confirmed,
    /// The new primary was published, and replaced before any epoch confirmed it.
    Unconfirmed,
    /// The same primary serves on.
    CalledOff,
}

/// Reads the newest [`Health`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct HealthFeed(watch::Receiver<Arc<Health>>);

/// The watcher's end.
#[derive(Debug)]
pub(crate) struct HealthPublisher(watch::Sender<Arc<Health>>);

// === impl Health ===

impl Health {
    /// Sentinels that answer now.
    #[must_use]
    pub fn sentinels_answering(&self) -> usize {
        use SentinelState::{Polling, Tilted, Watching};
        let answering = |sentinel: &&SentinelHealth| matches!(sentinel.state, Watching | Polling | Tilted);
        self.sentinels.iter().filter(answering).count()
    }
}

// === impl SentinelState ===

impl SentinelState {
    /// As a metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Watching => "watching",
            Self::Polling => "polling",
            Self::Tilted => "tilted",
            Self::Unreachable => "unreachable",
            Self::Refusing => "refusing",
        }
    }
}

// === impl FailoverCounts ===

impl FailoverCounts {
    pub(crate) const fn count(&mut self, kind: FailoverKind) {
        match kind {
            FailoverKind::Planned => self.planned += 1,
            FailoverKind::Crash => self.crash += 1,
            FailoverKind::Manual => self.manual += 1,
        }
    }
}

// === impl FailoverKind ===

impl FailoverKind {
    /// As a metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Crash => "crash",
            Self::Manual => "manual",
        }
    }
}

// === impl Failover ===

impl Failover {
    /// The new primary, where there is one.
    #[must_use]
    pub fn to(&self) -> Option<&HostPort> {
        self.promotion.as_ref().map(|promotion| &promotion.address)
    }

    /// How long commands waited at most; `None` while they still wait.
    #[must_use]
    pub fn held(&self) -> Option<Duration> {
        let called_off = || self.end.map(|(_, after)| after);
        self.promotion
            .as_ref()
            .map(|promotion| promotion.after)
            .or_else(called_off)
    }
}

// === impl FailoverEnd ===

impl FailoverEnd {
    /// For a person, and for a program.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Unconfirmed => "unconfirmed",
            Self::CalledOff => "called-off",
        }
    }
}

// === impl HealthFeed ===

impl HealthFeed {
    /// A feed that says `health` for ever: for a data plane whose watching is done elsewhere.
    #[must_use]
    pub fn fixed(health: Health) -> Self {
        let (_, receiver) = watch::channel(Arc::new(health));
        Self(receiver)
    }

    /// The newest health.
    #[must_use]
    pub fn load(&self) -> Arc<Health> {
        Arc::clone(&self.0.borrow())
    }

    /// `down-after-milliseconds` of the sentinels, once one has said it: the data plane's automatic hold
    /// timeout is made of it.
    #[must_use]
    pub fn down_after(&self) -> Option<Duration> {
        self.0.borrow().down_after
    }

    /// Waits for a health that this feed has not waited for yet. Pending for ever once the watcher is gone.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

// === impl HealthPublisher ===

impl HealthPublisher {
    pub(crate) fn new() -> (Self, HealthFeed) {
        let (sender, receiver) = watch::channel(Arc::default());
        (Self(sender), HealthFeed(receiver))
    }

    /// Wakes the feeds only where something changed.
    pub(crate) fn publish(&self, health: Health) {
        self.0.send_if_modified(|current| {
            let differs = **current != health;
            if differs {
                *current = Arc::new(health);
            }
            differs
        });
    }
}
