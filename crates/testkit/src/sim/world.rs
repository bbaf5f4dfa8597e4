//! All of it: nodes, sentinels, the real watcher, the real proxy, and who may be asked what has happened.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use proxy_core::{Handle, Listener, ReadPolicy, Settings, Upstream, build};
use sentinel_watcher::{HostPort, Phase, Shard, TopologyFeed, WatcherConfig, watcher};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::data::Data;
use super::network::{Door, Network, WINDOW_BYTES};
use super::node::Node;
use super::replication::forget_snapshots;
use super::rng::Rng;
use super::sentinel::{MASTER, Sentinel};
use super::task::spawn;
use super::trace;

/// Three sentinels, two or three nodes, a proxy of one to three workers.
pub struct World {
    /// Everything in between.
    pub network: Network,
    /// The first one is primary at the start.
    pub nodes: Vec<Node>,
    /// They know each other; the proxy is told of one to three.
    pub sentinels: Vec<Sentinel>,
    doors: [Door; 2],
    handle: Handle,
    feed: TopologyFeed,
    published: Rc<RefCell<Vec<Published>>>,
    /// When something first went wrong that a prompt release depends on.
    troubled: Cell<Option<Instant>>,
    /// The faults are over.
    calm: Cell<bool>,
    peaceful: bool,
    names: Cell<u64>,
}

/// A topology, and when it was published.
#[derive(Clone, Debug)]
pub struct Published {
    /// When.
    pub at: Instant,
    /// Who is primary, and whether commands flow.
    pub shard: Shard,
}

/// A user whom all nodes know, and the password.
pub const USER: (&str, &str) = ("app", "secret");

/// How long bytes take at most, in a network that is well.
pub const LATENCY_MILLIS: u64 = 5;

impl World {
    /// Starts it all; what differs from seed to seed is drawn from `rng`.
    #[must_use]
    pub fn start(rng: &mut Rng) -> Self {
        forget_snapshots();
        let latency = Duration::from_millis(rng.below(LATENCY_MILLIS - 2));
        let network = Network::new(latency, 1 + rng.below(3), rng.fork());
        let nodes: Vec<_> = (1..=2 + rng.below(2))
            .map(|number| {
                let data = Rc::new(RefCell::new(Data::default()));
                Node::start(&network, HostPort::new(&format!("n{number}"), 6379), data)
            })
            .collect();
        let (user, password) = USER;
        nodes.iter().for_each(|node| node.require(user, password));
        let first = nodes[0].address().clone();
        nodes[1..].iter().for_each(|node| node.replicate(&first));
        let sentinels: Vec<_> = (1..=3)
            .map(|number| {
                let address = HostPort::new(&format!("q{number}"), 26379);
                Sentinel::start(&network, address, &nodes, &first, rng.fork())
            })
            .collect();
        Sentinel::introduce(&sentinels);
        let dial = Arc::new(network.dialler("proxy"));
        let told = 1 + rng.below(3) as usize;
        let addresses = sentinels[..told]
            .iter()
            .map(|sentinel| sentinel.address().clone());
        let config = WatcherConfig::new(MASTER, addresses.collect());
        let (watching, feed, hints, health) = watcher(config, dial.clone(), dial.clone());
        let steering = watching.steering();
        spawn(watching.run(CancellationToken::new()));
        let upstream = Upstream {
            master: Arc::from(MASTER),
            feed: feed.clone(),
            hints,
            health,
            steering,
        };
        let doors = [Door::new(&network), Door::new(&network)];
        let policies = [ReadPolicy::Primary, ReadPolicy::PreferReplica];
        let listener = |(door, reads): (&Door, ReadPolicy)| Listener {
            listen: Box::new(door.clone()),
            upstream: 0,
            reads,
        };
        let listeners = doors.iter().zip(policies).map(listener).collect();
        let settings = Settings {
            workers: 1 + rng.below(3) as usize,
            ..Settings::default()
        };
        let (workers, handle) = build(settings, vec![upstream], listeners, dial).unwrap();
        for worker in workers {
            spawn(worker.run());
        }
        for timeline in handle.timelines() {
            spawn(async move { timeline.follow().await });
        }
        let published = Rc::default();
        spawn(record(feed.clone(), Rc::clone(&published)));
        Self {
            network,
            nodes,
            sentinels,
            doors,
            handle,
            feed,
            published,
            troubled: Cell::new(None),
            calm: Cell::new(false),
            peaceful: rng.once_in(10),
            names: Cell::new(0),
        }
    }

    /// A client; its reads may be answered by a replica, or not.
    #[must_use]
    pub fn client(&self, from_replicas: bool) -> Client {
        Client::new(self.doors[usize::from(from_replicas)].knock(WINDOW_BYTES))
    }

    /// A name that no other session has.
    pub fn name(&self) -> String {
        self.names.set(self.names.get() + 1);
        format!("s{}", self.names.get())
    }

    /// Clients, tasks and counters of the proxy.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// All topologies so far.
    #[must_use]
    pub fn published(&self) -> Vec<Published> {
        self.published.borrow().clone()
    }

    /// The node that the proxy takes for primary now.
    #[must_use]
    pub fn primary(&self) -> Option<&Node> {
        let topology = self.feed.load();
        let address = topology.shard(0).primary.as_ref()?.address.clone();
        self.nodes.iter().find(|node| *node.address() == address)
    }

    /// Commands flow, to a node that is primary and confirmed.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let topology = self.feed.load();
        let shard = topology.shard(0);
        let agreed = |sentinel: &Sentinel| {
            shard
                .primary
                .as_ref()
                .is_some_and(|primary| primary.address == sentinel.master())
        };
        shard.phase == Phase::Serving
            && !shard.provisional
            && self.sentinels.iter().all(agreed)
            && !self.sentinels.iter().any(Sentinel::is_attempting)
            && self
                .primary()
                .is_some_and(|node| node.is_running() && node.following().is_none())
    }

    /// Commands flow to a node that is primary.
    #[must_use]
    pub fn serves(&self) -> bool {
        let phase = self.feed.load().shard(0).phase;
        let primary = self.primary();
        phase == Phase::Serving && primary.is_some_and(|node| node.is_running() && node.following().is_none())
    }

    /// The one node that the proxy could serve now: all sentinels agree on it, it is primary, and the proxy hears
    /// all of them.
    #[must_use]
    pub fn servable(&self) -> Option<HostPort> {
        let heard = |host: &str| self.network.hears("proxy", host) && self.network.hears(host, "proxy");
        let master = self.sentinels[0].master();
        let agrees = |sentinel: &Sentinel| {
            sentinel.is_running()
                && !sentinel.is_attempting()
                && sentinel.master() == master
                && heard(&sentinel.address().host)
        };
        let node = self.nodes.iter().find(|node| *node.address() == master)?;
        let is_primary = node.is_running() && !node.is_loading() && node.following().is_none();
        let whole = is_primary && heard(&master.host) && self.sentinels.iter().all(agrees);
        whole.then_some(master)
    }

    /// Changes with everything that may take an older state of the keys before a client's eyes.
    #[must_use]
    pub fn stamp(&self) -> u64 {
        let upheavals: usize = self.nodes.iter().map(Node::upheaval_count).sum();
        upheavals as u64 + self.feed.load().epoch.0
    }

    /// From here on nobody may expect a prompt release: the proxy does not hear all sentinels and all nodes.
    pub fn trouble(&self) {
        self.troubled
            .set(self.troubled.get().or_else(|| Some(Instant::now())));
    }

    /// Whether the proxy heard everybody until then.
    #[must_use]
    pub fn was_well(&self, until: Instant) -> bool {
        self.troubled.get().is_none_or(|troubled| until < troubled)
    }

    /// The faults are over.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        self.calm.get()
    }

    /// There are planned failovers, one at a time, and nothing goes wrong: nobody gets an error.
    #[must_use]
    pub fn is_peaceful(&self) -> bool {
        self.peaceful
    }

    /// From here on nothing goes wrong any more.
    pub fn calm_down(&self) {
        trace::note(|| "calm".to_owned());
        self.calm.set(true);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.sentinels.iter().for_each(Sentinel::part);
    }
}

/// Writes down what is published.
async fn record(mut feed: TopologyFeed, published: Rc<RefCell<Vec<Published>>>) {
    loop {
        let shard = feed.load().shard(0).clone();
        trace::note(|| {
            let primary = shard.primary.as_ref().map(|primary| primary.address.to_string());
            let provisional = if shard.provisional { ", provisional" } else { "" };
            format!(
                "proxy {:?} {}{provisional}",
                shard.phase,
                primary.unwrap_or_default()
            )
        });
        published.borrow_mut().push(Published {
            at: Instant::now(),
            shard,
        });
        feed.changed().await;
    }
}
