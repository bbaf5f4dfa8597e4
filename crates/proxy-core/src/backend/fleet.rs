//! All backends of one worker towards one master, and the topology that they follow.
//!
//! A worker acts on a new topology in one step: what is no longer there is fenced before any session sees the
//! new one, so that nothing can slip to a former primary.

mod newcomers;
mod pause;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use resp_codec::write;
use sentinel_watcher::{
    Credentials, Dial, Epoch, HealthFeed, HintSender, Phase, Primary, QuietPlace, Sabotage, Shard, Signal,
    SignalFeed, Suspicion, Topology, TopologyFeed, is_sabotaged,
};
use tokio::time::Instant;

use crate::backend::access::Access;
use crate::backend::by_hand::ByHand;
use crate::backend::conn::ConnectError;
use crate::backend::learned::Learned;
use crate::backend::profile::{Profile, Resp};
use crate::backend::scripts::{ScriptStore, Scripts};
use crate::backend::{Backend, Link, NodeKey};
use crate::failover::Timeline;
use crate::live::Live;
use crate::lookout::Lookout;
use crate::memory::Memory;
use crate::metrics::{Cells, ConnectionKind, NodeRole};
use crate::route::Plan;
pub(crate) use newcomers::{Grants, asks_for_password};
pub(crate) use pause::{Pause, Postponed};

/// What a fleet is made of.
pub(crate) struct FleetParts {
    pub(crate) upstream: usize,
    pub(crate) settings: Rc<Live>,
    pub(crate) dial: Arc<dyn Dial>,
    pub(crate) hints: HintSender,
    pub(crate) cells: Arc<Cells>,
    pub(crate) scratch: Rc<RefCell<Box<[u8]>>>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) health: HealthFeed,
    pub(crate) timeline: Arc<Timeline>,
    pub(crate) by_hand: Arc<ByHand>,
    pub(crate) access: Arc<Access>,
    pub(crate) quiet: QuietPlace,
    pub(crate) scripts: Arc<ScriptStore>,
    pub(crate) lookout: Option<Rc<Lookout>>,
}

/// One worker's backends of one master.
pub(crate) struct Fleet {
    parts: FleetParts,
    feed: RefCell<TopologyFeed>,
    topology: RefCell<Arc<Topology>>,
    applied: Signal,
    nodes: RefCell<BTreeMap<NodeKey, NodeBackends>>,
    settling_until: Rc<Cell<Option<Instant>>>,
    /// It has had a primary.
    led: Cell<bool>,
    /// Credentials that the primary takes no longer.
    revoked: Rc<RefCell<BTreeSet<Credentials>>>,
    /// What the primary postpones.
    paused: Cell<Option<Pause>>,
    /// The primary follows another node because a client said so, and the watcher has seen it.
    follows: Cell<bool>,
    /// The primary answers NOAUTH to nobody.
    grants: Cell<Grants>,
    /// Who newcomers are, if nobody in particular.
    nobody: RefCell<Rc<Profile>>,
    /// Somebody has come in since the last look at what is granted to nobody.
    entered: Cell<bool>,
    looked_at: Cell<Option<Instant>>,
    scripts: Scripts,
}

struct NodeBackends {
    link: Rc<Link>,
    backends: BTreeMap<Profile, Rc<Backend>>,
    /// A connection of its own for AUTH: what a client claims is proven there, and nothing else is sent.
    prover: Rc<Backend>,
    probing: Rc<Cell<bool>>,
}

// === impl Fleet ===

impl Fleet {
    pub(crate) fn new(parts: FleetParts, feed: &TopologyFeed) -> Rc<Self> {
        // Nothing is known until `follow` applies it, which has consequences.
        let topology = Topology::single(Epoch(0), Arc::clone(&feed.load().master), Shard::unknown());
        let topology = Arc::new(topology);
        Rc::new(Self {
            scripts: Scripts::new(Arc::clone(&parts.scripts)),
            parts,
            feed: RefCell::new(feed.clone()),
            topology: RefCell::new(topology),
            applied: Signal::default(),
            nodes: RefCell::new(BTreeMap::new()),
            settling_until: Rc::new(Cell::new(None)),
            led: Cell::new(false),
            revoked: Rc::default(),
            paused: Cell::new(None),
            follows: Cell::new(false),
            grants: Cell::default(),
            nobody: RefCell::default(),
            entered: Cell::new(false),
            looked_at: Cell::new(None),
        })
    }

    /// Applies every topology that the watcher publishes. Never ends.
    pub(crate) async fn follow(self: Rc<Self>) {
        let mut feed = self.feed.borrow().clone();
        let first = Arc::clone(&feed.load());
        self.feed.borrow_mut().news();
        self.apply(first);
        loop {
            feed.changed().await;
            self.catch_up();
        }
    }

    /// Applies what is published by now. A worker that the machine has not let run finds the watcher's news and its clients'
    /// commands at once, and tokio lets tasks that other threads wake wait for up to thirty of its own: whoever is about
    /// to send something looks here first, so that no command is sent by what was true before it came.
    #[inline]
    pub(crate) fn catch_up(self: &Rc<Self>) {
        let news = self.feed.borrow_mut().news();
        if let Some(newest) = news {
            self.apply(newest);
        }
    }

    /// The topology that this worker acts on.
    pub(crate) fn topology(&self) -> std::cell::Ref<'_, Arc<Topology>> {
        self.topology.borrow()
    }

    /// Learns of every topology that this worker acts on.
    pub(crate) fn applied(&self) -> SignalFeed {
        self.applied.listen()
    }

    /// Which master.
    pub(crate) fn upstream(&self) -> usize {
        self.parts.upstream
    }

    /// How long a command may wait for a primary.
    pub(crate) fn hold_timeout(&self) -> Duration {
        self.parts
            .settings
            .get()
            .failover_hold_timeout
            .unwrap_or_else(|| {
                let down_after = self.parts.health.down_after().unwrap_or_default();
                (down_after * 2 + Duration::from_secs(10)).max(Duration::from_secs(15))
            })
    }

    /// The scripts that this worker knows.
    pub(crate) fn scripts(&self) -> &Scripts {
        &self.scripts
    }

    /// The primary under `profile`, where there is one.
    pub(crate) fn primary(&self, profile: &Profile) -> Option<Rc<Backend>> {
        let key = key_of(self.topology().shard(0).primary.as_ref()?);
        Some(self.backend(key, profile))
    }

    /// The node at index `at` of the shard's replicas under `profile`, where there is one.
    pub(crate) fn replica(&self, at: usize, profile: &Profile) -> Option<Rc<Backend>> {
        let address = self.topology().shard(0).replicas.get(at)?.address.clone();
        Some(self.backend(NodeKey { address, term: None }, profile))
    }

    /// The node that `plan` names, under `profile`.
    ///
    /// # Panics
    /// If the plan was not made from the present topology, or names no node.
    pub(crate) fn backend_of(&self, plan: Plan, profile: &Profile) -> Rc<Backend> {
        let backend = match plan {
            Plan::Replica(at) => self.replica(at, profile),
            _ => self.primary(profile),
        };
        backend.expect("a plan names a node of the topology it was made from")
    }

    /// Whether the primary lets the user of `profile` select its database. Only what it grants gets a backend of its own.
    ///
    /// # Panics
    /// Without a primary.
    pub(crate) fn prove(&self, profile: &Profile) -> impl Future<Output = Result<(), ConnectError>> + use<> {
        let prover = self.prover();
        let proven = {
            let nodes = self.nodes.borrow();
            let backend = nodes
                .get(&prover.link().node)
                .and_then(|node| node.backends.get(profile));
            backend.is_some_and(|backend| backend.is_selectable())
        };
        let (user, db) = (profile.on(0), profile.db);
        async move {
            if proven {
                return Ok(());
            }
            let mut conn = prover.link().connect(&user, ConnectionKind::Control).await?;
            let timeout = prover.link().settings.get().connect_timeout;
            let selected = tokio::time::timeout(timeout, conn.select(db)).await;
            let reply = selected.map_err(io::Error::from).flatten()?;
            if reply.starts_with(b"+") {
                Ok(())
            } else {
                Err(ConnectError::Refused(reply))
            }
        }
    }

    /// Where the primary is asked whether credentials are right.
    ///
    /// # Panics
    /// Without a primary.
    pub(crate) fn prover(&self) -> Rc<Backend> {
        let key = self.topology().shard(0).primary.as_ref().map(key_of);
        let nodes = &mut *self.nodes.borrow_mut();
        let key = key.expect("the caller knows of a primary");
        let node = nodes.entry(key).or_insert_with_key(|key| self.node(key));
        Rc::clone(&node.prover)
    }

    /// Writes may flow.
    pub(crate) fn is_serving(&self) -> bool {
        self.topology().shard(0).phase == Phase::Serving
    }

    /// Whether `node` is still the primary, in the same term.
    pub(crate) fn is_primary(&self, node: &NodeKey) -> bool {
        self.topology()
            .shard(0)
            .primary
            .as_ref()
            .is_some_and(|primary| key_of(primary) == *node)
    }

    /// Credentials that the primary has refused since the last time.
    pub(crate) fn take_revoked(&self) -> BTreeSet<Credentials> {
        std::mem::take(&mut *self.revoked.borrow_mut())
    }

    /// The primary has just granted `credentials`: whatever it refused before, to a user of that name who was deleted
    /// and made anew, is past.
    pub(crate) fn granted(&self, credentials: &Credentials) {
        self.revoked.borrow_mut().remove(credentials);
    }

    /// What PROXY SHOW POOLS prints, in the name of worker number `worker`.
    pub(crate) fn lines(&self, worker: usize) -> Vec<String> {
        let nodes = self.nodes.borrow();
        let backends = nodes.iter().flat_map(|(key, node)| {
            let backends = node.backends.iter();
            backends.map(move |(profile, backend)| (key, profile, backend))
        });
        let line = |(key, profile, backend): (&NodeKey, &Profile, &Rc<Backend>)| {
            let role = if key.term.is_some() { "primary" } else { "replica" };
            format!(
                "node={} role={role} user={} db={} resp={} worker={worker} {}",
                key.address,
                profile.user(),
                profile.db,
                if profile.resp == Resp::Three { 3 } else { 2 },
                backend.standing()
            )
        };
        backends.map(line).collect()
    }

    /// What is under way ends on the connections that there are, and everything else goes over new ones.
    pub(crate) fn reconnect(&self) {
        for node in self.nodes.borrow().values() {
            for backend in node.backends.values().chain([&node.prover]) {
                backend.retire();
                backend.renew();
            }
        }
    }

    /// Fresh connections are made by the settings of now.
    pub(crate) fn renew(&self) {
        for node in self.nodes.borrow().values() {
            for backend in node.backends.values().chain([&node.prover]) {
                backend.renew();
            }
        }
    }

    /// Looks after silent nodes and idle connections.
    pub(crate) fn pulse(self: &Rc<Self>, now: Instant) {
        self.look_at_access(now);
        for node in self.nodes.borrow_mut().values_mut() {
            node.backends.retain(|_, backend| !backend.retire_if_unused(now));
            let node = &*node;
            let backends = || node.backends.values().chain([&node.prover]);
            let silent = backends().filter(|backend| backend.pulse(now)).count() > 0;
            if silent && !node.probing.replace(true) {
                let backends = backends().cloned().collect();
                crate::task::spawn(probe(Rc::clone(&node.link), backends, Rc::clone(&node.probing)));
            }
        }
    }

    fn backend(&self, key: NodeKey, profile: &Profile) -> Rc<Backend> {
        let nodes = &mut *self.nodes.borrow_mut();
        let node = nodes.entry(key).or_insert_with_key(|key| self.node(key));
        match node.backends.get(profile) {
            Some(backend) => Rc::clone(backend),
            None => {
                let backend = Backend::new(Rc::clone(&node.link), profile.clone());
                node.backends.insert(profile.clone(), Rc::clone(&backend));
                backend
            }
        }
    }

    fn node(&self, key: &NodeKey) -> NodeBackends {
        let parts = &self.parts;
        let role = if key.term.is_some() {
            NodeRole::Primary
        } else {
            NodeRole::Replica
        };
        let link = Link {
            upstream: parts.upstream,
            node: key.clone(),
            settings: Rc::clone(&parts.settings),
            dial: Arc::clone(&parts.dial),
            hints: parts.hints.clone(),
            cells: Arc::clone(&parts.cells),
            node_cells: parts.cells.node(parts.upstream, &key.address, role),
            scratch: Rc::clone(&parts.scratch),
            memory: Arc::clone(&parts.memory),
            revoked: Rc::clone(&self.revoked),
            settling_until: Rc::clone(&self.settling_until),
            by_hand: Arc::clone(&parts.by_hand),
            timeline: Arc::clone(&parts.timeline),
            unwritten: Cell::new(key.term.is_some()),
            scripts: RefCell::default(),
            learned: Learned::default(),
            client_line: RefCell::default(),
            lookout: parts.lookout.clone(),
        };
        let link = Rc::new(link);
        NodeBackends {
            prover: Backend::new(Rc::clone(&link), Profile::default()),
            link,
            backends: BTreeMap::new(),
            probing: Rc::new(Cell::new(false)),
        }
    }

    fn apply(self: &Rc<Self>, newest: Arc<Topology>) {
        let newest = self.as_told(newest);
        let before = std::mem::replace(&mut *self.topology.borrow_mut(), newest);
        let gone = {
            let topology = self.topology();
            let shard = topology.shard(0);
            let primary = shard.primary.as_ref().map(key_of);
            if primary.is_some() && primary != before.shard(0).primary.as_ref().map(key_of) {
                // The first one has the replicas that its operator gave it.
                if self.led.replace(true) {
                    self.settling_until
                        .set(Some(Instant::now() + self.hold_timeout()));
                }
                self.paused.set(None);
                crate::task::spawn(Rc::clone(self).learn_auth());
            }
            let stays = |key: &NodeKey| match key.term {
                Some(_) => primary.as_ref() == Some(key),
                None => shard
                    .replicas
                    .iter()
                    .any(|replica| replica.address == key.address),
            };
            self.nodes
                .borrow_mut()
                .extract_if(.., |key, _| !stays(key))
                .collect::<Vec<_>>()
        };
        let fenced = gone.into_iter().filter(|_| !is_sabotaged(Sabotage::NoFence));
        for (_, node) in fenced {
            for backend in node.backends.values().chain([&node.prover]) {
                backend.fence();
            }
        }
        if !self.is_serving() && self.parts.quiet.is_asked() {
            crate::task::spawn(Rc::clone(self).tell_quiet());
        }
        if let Some(primary) = self.topology().shard(0).primary.as_ref()
            && Some(primary) != before.shard(0).primary.as_ref()
        {
            self.parts.timeline.fenced(primary.term, Instant::now());
        }
        self.applied.raise();
    }

    /// Nobody waits for a primary that a client has made a replica: as on Redis, it is asked, and says so.
    fn as_told(&self, newest: Arc<Topology>) -> Arc<Topology> {
        let shard = newest.shard(0);
        let primary = shard.primary.as_ref().map(key_of);
        let by_hand = primary.is_some_and(|primary| self.parts.by_hand.holds(&primary));
        match shard.phase {
            Phase::Moving if by_hand => {
                self.follows.set(true);
                let shard = Shard {
                    phase: Phase::Serving,
                    ..shard.clone()
                };
                Arc::new(Topology::single(newest.epoch, Arc::clone(&newest.master), shard))
            }
            _ => {
                if self.follows.replace(false) && by_hand {
                    self.parts.by_hand.forget();
                }
                newest
            }
        }
    }

    /// Tells an operator's handover once nothing is in flight to a primary whose writes wait.
    async fn tell_quiet(self: Rc<Self>) {
        while !self.is_serving() {
            let quiet = {
                let nodes = self.nodes.borrow();
                let mut primaries = nodes.iter().filter(|(key, _)| key.term.is_some());
                primaries.all(|(_, node)| node.backends.values().all(|backend| backend.is_quiet()))
            };
            if quiet {
                let epoch = self.topology().epoch;
                return self.parts.quiet.tell(epoch);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn key_of(primary: &Primary) -> NodeKey {
    NodeKey {
        address: primary.address.clone(),
        term: Some(primary.term),
    }
}

/// Decides between busy and gone: any answer on a fresh connection is a sign of life.
async fn probe(link: Rc<Link>, backends: Vec<Rc<Backend>>, probing: Rc<Cell<bool>>) {
    if ping(&link).await.is_none() {
        link.hint(Suspicion::Silent);
        if link.node.term.is_none() {
            // Only reads wait there: they travel again, elsewhere.
            for backend in backends {
                backend.cut();
            }
        }
    }
    probing.set(false);
}

/// PING on a fresh connection, as nobody; `None` without an answer within `--node-timeout`.
async fn ping(link: &Link) -> Option<bytes::Bytes> {
    let exchange = async {
        let mut conn = link
            .connect(&Profile::default(), ConnectionKind::Control)
            .await
            .ok()?;
        let mut request = bytes::BytesMut::new();
        write::command(&mut request, &[b"pInG"]);
        conn.send(&request).await.ok()?;
        conn.reply().await.ok().map(|(_, reply)| reply)
    };
    tokio::time::timeout(link.settings.get().node_timeout, exchange)
        .await
        .ok()
        .flatten()
}
