//! The one shape in which the rest of the house sees Redis: slots, shards, nodes.
//!
//! A [`Topology`] is immutable. Whoever wants the newest one loads it from a [`TopologyFeed`]; only a
//! [`TopologyPublisher`] puts a new one there, and only with a greater [`Epoch`].

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use crate::signal::{Signal, SignalFeed};

/// Where a node listens: a host name or IP address, and a TCP port.
///
/// Displays as `host:port`, an IPv6 address in brackets. Compares by text: two names of one host differ.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// Host name or IP address, without brackets.
    pub host: Arc<str>,
    /// TCP port.
    pub port: u16,
}

/// Text that is no `host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPortError(String);

/// Our own count of published topologies of one master. Only grows; unrelated to Sentinel's config-epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// What a shard's clients may do right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The primary passed its ROLE check: everything flows.
    Serving,
    /// A switch is going on, or the primary does not answer: new writes wait.
    Moving,
    /// No primary is known (not yet, or no longer): everything waits, bounded.
    Down,
}

/// The node that takes a shard's writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Primary {
    /// Where it listens, after `--address-map`.
    pub address: HostPort,
    /// The [`Epoch`] at which this node was verified as primary. A node that loses the role and regains it
    /// comes back with another term, so connections of the two terms can never be mixed.
    pub term: Epoch,
}

/// A node that replicates from the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Where it listens, after `--address-map`.
    pub address: HostPort,
    /// It may be read: linked to its primary, not `s_down`, not loading, within `--max-replica-lag`.
    pub usable: bool,
    /// Bytes of the replication stream it is behind its primary, where known.
    pub lag_bytes: Option<u64>,
    /// `replica-priority`; 0 is never promoted.
    pub priority: u32,
}

/// One primary, its replicas, and what its clients may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// What clients may do now.
    pub phase: Phase,
    /// The verified primary; while `Moving` the old one. `None` only while `Down`.
    pub primary: Option<Primary>,
    /// Known replicas, by address.
    pub replicas: Vec<Replica>,
    /// Sentinel's config-epoch that named this primary.
    pub config_epoch: u64,
    /// The release is provisional: the node says `master`, no sentinel's epoch has confirmed it yet.
    pub provisional: bool,
}

/// Which node serves what, at one [`Epoch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Our own strictly increasing count.
    pub epoch: Epoch,
    /// The master's name, as Sentinel knows it.
    pub master: Arc<str>,
    /// One shard a primary; a single master has exactly one.
    shards: Vec<Shard>,
}

/// Reads the newest [`Topology`] and learns when there is a newer one. Cheap to clone, one a task.
#[derive(Clone, Debug)]
pub struct TopologyFeed {
    current: Arc<ArcSwap<Topology>>,
    news: SignalFeed,
}

/// The one writer behind all [`TopologyFeed`]s of a master.
#[derive(Debug)]
pub struct TopologyPublisher {
    current: Arc<ArcSwap<Topology>>,
    news: Signal,
}

// === impl Topology ===

impl Topology {
    /// A topology of one master that owns all slots.
    #[must_use]
    pub fn single(epoch: Epoch, master: Arc<str>, shard: Shard) -> Self {
        Self {
            epoch,
            master,
            shards: vec![shard],
        }
    }

    /// The shard that owns `slot` (0 to 16383). A single master owns them all.
    #[must_use]
    pub fn shard(&self, _slot: u16) -> &Shard {
        self.shards.first().expect("a topology has at least one shard")
    }

    /// All shards, in slot order.
    #[must_use]
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }
}

impl Shard {
    /// A shard of which nothing is known yet.
    #[must_use]
    pub const fn unknown() -> Self {
        Self {
            phase: Phase::Down,
            primary: None,
            replicas: Vec::new(),
            config_epoch: 0,
            provisional: false,
        }
    }
}

// === impl TopologyFeed ===

impl TopologyFeed {
    /// The newest topology. The guard is cheap; do not keep it across an await.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<Topology>> {
        self.current.load()
    }

    /// The newest topology, where this feed has neither waited for it nor been asked for it yet. Costs one load where it has.
    pub fn news(&mut self) -> Option<Arc<Topology>> {
        self.news.look().then(|| Arc::clone(&self.current.load()))
    }

    /// Waits until a topology is published that this feed has not waited for yet. Pending for ever once the
    /// publisher is gone: the last good topology serves.
    pub async fn changed(&mut self) {
        self.news.changed().await;
    }
}

// === impl TopologyPublisher ===

impl TopologyPublisher {
    /// A publisher whose first topology is [`Shard::unknown`] at epoch 0.
    #[must_use]
    pub fn new(master: Arc<str>) -> (Self, TopologyFeed) {
        let first = Topology::single(Epoch(0), master, Shard::unknown());
        let current = Arc::new(ArcSwap::from_pointee(first));
        let signal = Signal::default();
        let news = signal.listen();
        (
            Self {
                current: Arc::clone(&current),
                news: signal,
            },
            TopologyFeed { current, news },
        )
    }

    /// Publishes `shard` under the next epoch, which it returns.
    pub fn publish(&mut self, shard: Shard) -> Epoch {
        let last = self.current.load();
        let epoch = Epoch(last.epoch.0 + 1);
        self.current
            .store(Arc::new(Topology::single(epoch, Arc::clone(&last.master), shard)));
        self.news.raise();
        epoch
    }

    /// The epoch that the next [`Self::publish`] will use: the term of a primary about to be published.
    #[must_use]
    pub fn next_epoch(&self) -> Epoch {
        Epoch(self.current.load().epoch.0 + 1)
    }
}

// === impl HostPort ===

impl HostPort {
    /// From parts; `host` without brackets.
    #[must_use]
    pub fn new(host: &str, port: u16) -> Self {
        Self {
            host: Arc::from(host),
            port,
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || HostPortError(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let host = bracketed.unwrap_or(host);
        if host.is_empty() || (bracketed.is_none() && host.contains(':')) {
            return Err(wrong());
        }
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        Ok(Self::new(host, port))
    }
}

impl fmt::Display for HostPortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" is no host:port", self.0)
    }
}

impl std::error::Error for HostPortError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_port_reads_what_it_writes() {
        for text in ["redis:6379", "10.0.0.1:1", "[::1]:65535"] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
        for text in ["redis", "redis:0", "redis:65536", ":1", "::1:6379", "a:b"] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }

    #[test]
    fn epochs_grow_with_every_publication() {
        let (mut publisher, feed) = TopologyPublisher::new(Arc::from("mymaster"));
        assert_eq!(feed.load().shard(0).phase, Phase::Down);
        let term = publisher.next_epoch();
        assert_eq!(publisher.publish(Shard::unknown()), term);
        assert!(publisher.publish(Shard::unknown()) > term);
        assert_eq!(feed.load().epoch, Epoch(2));
    }
}
