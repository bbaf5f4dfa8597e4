//! A fake Sentinel: what it sees, whom it believes, and how it fails over, in the order and at the pace of the real
//! one (down-after 1 s). See docs/ARCHITECTURE.md, "One failover".
//!
//! It judges nodes by looking at them, and speaks with its peers by calling them, wherever the network would let a
//! message pass; towards the proxy it is a server like any other.

mod attempt;
mod wire;

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use sentinel_watcher::HostPort;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::network::{Manner, Network};
use super::node::Node;
use super::pipe::End;
use super::rng::Rng;
use super::task::spawn;
use attempt::Attempt;

/// The master's name.
pub const MASTER: &str = "mymaster";

/// Silence after which a sentinel calls a node down.
const DOWN_AFTER: Duration = Duration::from_secs(1);
/// How long an attempt may take; half the pause until the next one.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(6);
/// How often a sentinel looks around.
const TICK: Duration = Duration::from_millis(100);
/// How often it tells the others what it believes.
const HELLO: Duration = Duration::from_secs(2);
/// How often it asks the others whether they call the primary down.
const ASK: Duration = Duration::from_secs(1);
/// How long the answer counts.
const OPINION: Duration = Duration::from_secs(5);
/// How long a node may be what it should not be.
const ODD: Duration = Duration::from_secs(8);
/// How long a primary may call itself a replica before it counts as down.
const ABDICATED: Duration = Duration::from_secs(21);
/// Votes that are needed, for `o_down` and for a leader.
const QUORUM: usize = 2;

/// One process. Cheap to clone.
#[derive(Clone)]
pub struct Sentinel(Rc<Process>);

struct Process {
    address: HostPort,
    network: Network,
    nodes: Vec<Node>,
    peers: RefCell<Vec<Sentinel>>,
    state: RefCell<State>,
}

struct State {
    rng: Rng,
    life: Life,
    /// Kept over a restart, as the real one keeps it in its file.
    belief: Belief,
    seen: BTreeMap<HostPort, Seen>,
    objectively_down: bool,
    /// When each peer last called the primary down.
    opinions: BTreeMap<HostPort, Instant>,
    attempt: Option<Attempt>,
    /// When an attempt, its own or another's, last began.
    attempted: Option<Instant>,
    next_ask: Instant,
    next_hello: Instant,
    gossip: Gossip,
    subscribers: Vec<mpsc::UnboundedSender<Vec<u8>>>,
    connections: Vec<CancellationToken>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    Running,
    Frozen,
    Dead,
}

/// What a sentinel writes down.
#[derive(Clone)]
struct Belief {
    master: HostPort,
    config_epoch: u64,
    current_epoch: u64,
    /// For whom it voted, and in which epoch.
    vote: (u64, HostPort),
}

/// One node, as a sentinel sees it.
struct Seen {
    heard: Instant,
    down: bool,
    /// Since when it is what it should not be.
    odd: Option<Instant>,
}

/// How events reach their subscribers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gossip {
    /// All of them, in order.
    #[default]
    Faithful,
    /// Some are lost, some come twice, some late.
    Careless,
    /// None.
    Silent,
}

// === impl Sentinel ===

impl Sentinel {
    /// Starts a sentinel that believes in `master`.
    #[must_use]
    pub fn start(
        network: &Network,
        address: HostPort,
        nodes: &[Node],
        master: &HostPort,
        mut rng: Rng,
    ) -> Self {
        let now = Instant::now();
        let phase = Duration::from_millis(rng.below(100));
        let state = State {
            life: Life::Running,
            belief: Belief {
                master: master.clone(),
                config_epoch: 0,
                current_epoch: 0,
                vote: (0, address.clone()),
            },
            seen: BTreeMap::new(),
            objectively_down: false,
            opinions: BTreeMap::new(),
            attempt: None,
            attempted: None,
            next_ask: now,
            next_hello: now + Duration::from_millis(rng.below(2000)),
            gossip: Gossip::Faithful,
            subscribers: Vec::new(),
            connections: Vec::new(),
            rng,
        };
        let mut accepted = network.open(&address);
        let sentinel = Self(Rc::new(Process {
            address,
            network: network.clone(),
            nodes: nodes.to_vec(),
            peers: RefCell::default(),
            state: RefCell::new(state),
        }));
        let accepting = sentinel.clone();
        spawn(async move {
            while let Some(stream) = accepted.recv().await {
                accepting.admit(stream);
            }
        });
        let ticking = sentinel.clone();
        spawn(async move {
            sleep(phase).await;
            loop {
                sleep(TICK).await;
                if ticking.is_running() {
                    ticking.tick();
                }
            }
        });
        sentinel
    }

    /// Makes sentinels know each other.
    pub fn introduce(all: &[Self]) {
        for one in all {
            let others = all.iter().filter(|other| other.address() != one.address());
            *one.0.peers.borrow_mut() = others.cloned().collect();
        }
    }

    /// Lets go of the others, so that all of them can end.
    pub fn part(&self) {
        self.0.peers.take();
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &HostPort {
        &self.0.address
    }

    /// Whom it names to whoever asks.
    #[must_use]
    pub fn master(&self) -> HostPort {
        let state = self.state();
        let promoted = state.attempt.as_ref().and_then(Attempt::promoted);
        promoted.unwrap_or(&state.belief.master).clone()
    }

    /// It answers, and acts.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state().life == Life::Running
    }

    /// It leads a failover, or wants to.
    #[must_use]
    pub fn is_attempting(&self) -> bool {
        self.state().attempt.is_some()
    }

    /// It has told a replica to be primary, and nobody knows yet whether that came to pass.
    #[must_use]
    pub fn awaits_promotion(&self) -> bool {
        self.state()
            .attempt
            .as_ref()
            .is_some_and(Attempt::awaits_promotion)
    }

    /// kill -9.
    pub fn crash(&self) {
        let state = &mut *self.state();
        state.life = Life::Dead;
        state.attempt = None;
        state.subscribers.clear();
        state
            .connections
            .drain(..)
            .for_each(|connection| connection.cancel());
        self.0.network.set(&self.0.address, Manner::Refuse);
    }

    /// SIGSTOP: connections are taken, and nothing is answered.
    pub fn freeze(&self) {
        let state = &mut *self.state();
        if state.life == Life::Running {
            state.life = Life::Frozen;
        }
    }

    /// It runs, again or still, and remembers what it had written down.
    pub fn revive(&self) {
        let now = Instant::now();
        let state = &mut *self.state();
        if state.life != Life::Running {
            state.life = Life::Running;
            // Nobody is called down for what was missed meanwhile.
            state.seen.values_mut().for_each(|seen| seen.heard = now);
        }
        self.0.network.set(&self.0.address, Manner::Accept);
    }

    /// How its events reach their subscribers from now on.
    pub fn gossip(&self, gossip: Gossip) {
        self.state().gossip = gossip;
    }

    fn admit(&self, stream: End) {
        let cut = CancellationToken::new();
        self.state().connections.push(cut.clone());
        spawn(wire::serve(self.clone(), stream, cut));
    }

    /// Looks around, and does what is due.
    fn tick(&self) {
        let now = Instant::now();
        for node in &self.0.nodes {
            self.look_at(node, now);
        }
        self.judge_primary(now);
        self.go_on(now);
        let next = self.state().next_hello;
        if next <= now {
            self.state().next_hello = now + HELLO;
            self.greet();
        }
    }

    fn look_at(&self, node: &Node, now: Instant) {
        let reached = self.reaches(node);
        let is_master = *node.address() == self.state().belief.master;
        let (word, kind) = {
            let seen = &mut *RefMut::map(self.state(), |state| state.seen_mut(node.address(), now));
            if reached {
                seen.heard = now;
            }
            if is_master && (!reached || node.following().is_none()) {
                seen.odd = None;
            } else if is_master {
                seen.odd.get_or_insert(now);
            }
            let abdicated = is_master && seen.odd.is_some_and(|since| now - since > ABDICATED);
            let down = now - seen.heard > DOWN_AFTER || abdicated;
            let was = std::mem::replace(&mut seen.down, down);
            let word = match (was, seen.down) {
                (false, true) => "+sdown",
                (true, false) => "-sdown",
                _ => "",
            };
            (word, if is_master { "master" } else { "slave" })
        };
        if !word.is_empty() {
            let subject = match kind {
                "master" => self.of_master(),
                _ => self.of_replica(node.address()),
            };
            self.tell(word, &subject);
        }
        if reached && !is_master {
            self.correct(node, now);
        }
    }

    /// A node that takes itself for a primary, or follows another, is put in its place after a while.
    fn correct(&self, node: &Node, now: Instant) {
        let master = self.state().belief.master.clone();
        let odd = node.following().is_none_or(|(of, _)| of != master);
        let overdue = {
            let state = &mut *self.state();
            let late = Duration::from_millis(state.rng.below(200)) * 10;
            let leads = state.attempt.is_some();
            let seen = state.seen_mut(node.address(), now);
            if !odd {
                seen.odd = None;
                return;
            }
            let since = *seen.odd.get_or_insert(now + late);
            !leads && now.saturating_duration_since(since) >= ODD
        };
        if overdue && self.is_sane(&master) {
            self.state().seen_mut(node.address(), now).odd = None;
            node.demote(&master);
            self.tell("+convert-to-slave", &self.of_replica(node.address()));
        }
    }

    /// The primary answers, and is one.
    fn is_sane(&self, master: &HostPort) -> bool {
        let node = self.node(master);
        self.reaches(node) && node.following().is_none()
    }

    fn judge_primary(&self, now: Instant) {
        let (down, asks) = {
            let state = &mut *self.state();
            let master = state.belief.master.clone();
            let down = state.seen_mut(&master, now).down;
            let asks = down && state.next_ask <= now;
            if asks {
                state.next_ask = now + ASK;
            }
            (down, asks)
        };
        if asks {
            self.ask_peers(now);
        }
        let agreed = {
            let state = self.state();
            let fresh = state.opinions.values().filter(|at| now - **at < OPINION);
            down && 1 + fresh.count() >= QUORUM
        };
        let was = std::mem::replace(&mut self.state().objectively_down, agreed);
        match (was, agreed) {
            (false, true) => self.tell("+odown", &format!("{} #quorum 2/2", self.of_master())),
            (true, false) => self.tell("-odown", &self.of_master()),
            _ => {}
        }
        let due = {
            let state = self.state();
            let rested = |at: Instant| now.saturating_duration_since(at) > FAILOVER_TIMEOUT * 2;
            agreed && state.attempt.is_none() && state.attempted.is_none_or(rested)
        };
        if due {
            self.begin(false);
        }
    }

    fn ask_peers(&self, now: Instant) {
        let master = self.state().belief.master.clone();
        for peer in self.peers_in_touch() {
            let agrees = {
                let state = &mut *peer.state();
                state.belief.master == master && state.seen_mut(&master, now).down
            };
            let opinions = &mut RefMut::map(self.state(), |state| &mut state.opinions);
            if agrees {
                opinions.insert(peer.address().clone(), now);
            } else {
                opinions.remove(peer.address());
            }
        }
    }

    /// Tells the peers that some node can pass it on to.
    fn greet(&self) {
        let (master, belief) = (self.master(), self.state().belief.clone());
        for peer in self.0.peers.borrow().iter() {
            let passes = |node: &&Node| self.reaches(node) && peer.reaches(node);
            if peer.is_running() && self.0.nodes.iter().any(|node| passes(&node)) {
                peer.hear(&master, &belief);
            }
        }
    }

    fn hear(&self, master: &HostPort, belief: &Belief) {
        self.note_epoch(belief.current_epoch);
        if belief.config_epoch <= self.state().belief.config_epoch {
            return;
        }
        self.state().belief.config_epoch = belief.config_epoch;
        let old = self.state().belief.master.clone();
        if *master != old {
            self.tell("+config-update-from", &format!("sentinel x {old} @ {MASTER}"));
            self.switch(master);
        }
    }

    fn note_epoch(&self, epoch: u64) {
        if epoch > self.state().belief.current_epoch {
            self.state().belief.current_epoch = epoch;
            self.tell("+new-epoch", &epoch.to_string());
        }
    }

    /// It believes in another primary from here on.
    fn switch(&self, master: &HostPort) {
        let now = Instant::now();
        let old = {
            let state = &mut *self.state();
            state.attempt = None;
            state.objectively_down = false;
            state.opinions.clear();
            state.seen.values_mut().for_each(|seen| {
                seen.heard = now;
                seen.odd = None;
            });
            std::mem::replace(&mut state.belief.master, master.clone())
        };
        let line = format!(
            "{MASTER} {} {} {} {}",
            old.host, old.port, master.host, master.port
        );
        self.tell("+switch-master", &line);
    }

    /// Both hear each other, and it answers.
    fn reaches(&self, node: &Node) -> bool {
        let (own, other) = (&self.0.address.host, &node.address().host);
        node.is_running() && self.0.network.hears(own, other) && self.0.network.hears(other, own)
    }

    fn peers_in_touch(&self) -> Vec<Self> {
        let own = &self.0.address.host;
        let in_touch = |peer: &&Self| {
            let other = &peer.0.address.host;
            peer.is_running() && self.0.network.hears(own, other) && self.0.network.hears(other, own)
        };
        self.0.peers.borrow().iter().filter(in_touch).cloned().collect()
    }

    fn node(&self, address: &HostPort) -> &Node {
        let node = self.0.nodes.iter().find(|node| node.address() == address);
        node.expect("sentinels know all nodes")
    }

    fn of_master(&self) -> String {
        let HostPort { host, port } = &self.state().belief.master;
        format!("master {MASTER} {host} {port}")
    }

    fn of_replica(&self, address: &HostPort) -> String {
        let HostPort { host, port } = address;
        let master = self.state().belief.master.clone();
        let of = format!("@ {MASTER} {} {}", master.host, master.port);
        format!("slave {host}:{port} {host} {port} {of}")
    }

    fn state(&self) -> RefMut<'_, State> {
        self.0.state.borrow_mut()
    }
}

// === impl State ===

impl State {
    fn seen_mut(&mut self, address: &HostPort, now: Instant) -> &mut Seen {
        self.seen.entry(address.clone()).or_insert(Seen {
            heard: now,
            down: false,
            odd: None,
        })
    }
}
