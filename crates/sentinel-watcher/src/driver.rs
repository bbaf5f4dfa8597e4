//! The watcher with its sockets: runs the [`Machine`] on tokio.
//!
//! ```text
//!   subscribe task ─┐ one a sentinel          ┌─> TopologyPublisher ─> workers
//!   poll task ──────┤                         │
//!   probe task ─────┼─> inputs ─> Machine ────┼─> HealthPublisher
//!      one a node   │             (one task)  │
//!   hints ──────────┘                         └─> orders back to the tasks
//! ```
//! Every task has its own connections and deadlines, so a hung sentinel or node stalls no other.

mod handover;
mod poll;
mod probe;
mod subscribe;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::config::WatcherConfig;
use crate::credentials::Credentials;
use crate::dial::Dial;
use crate::health::{HealthFeed, HealthPublisher, SentinelHealth, SentinelState};
use crate::hint::{HintReceiver, HintSender, hints};
use crate::limits;
use crate::link::Manners;
use crate::machine::{Action, Input, Machine, Rules};
use crate::steering::{
    HandedOver, Handover, ORDERS_WAITING, Steering, SteeringOrder, SteeringReceiver, steering,
};
use crate::task::{Task, Tasks};
use crate::topology::{HostPort, TopologyFeed, TopologyPublisher};

/// Watches one master. Nothing happens until it runs.
pub struct Watcher {
    config: WatcherConfig,
    sentinel_dial: Arc<dyn Dial>,
    node_dial: Arc<dyn Dial>,
    publisher: TopologyPublisher,
    health: HealthPublisher,
    hints: HintReceiver,
    feed: TopologyFeed,
    steering: Steering,
    orders: SteeringReceiver,
}

/// A watcher of `config.master`, what it says, and what it is told.
///
/// Sentinels are reached through `sentinel_dial`, nodes (for their ROLE) through `node_dial`.
#[must_use]
pub fn watcher(
    config: WatcherConfig,
    sentinel_dial: Arc<dyn Dial>,
    node_dial: Arc<dyn Dial>,
) -> (Watcher, TopologyFeed, HintSender, HealthFeed) {
    let (publisher, topologies) = TopologyPublisher::new(Arc::from(config.master.as_str()));
    let (health, healths) = HealthPublisher::new();
    let (sender, hints) = hints();
    let (steering, orders) = steering();
    let watcher = Watcher {
        config,
        sentinel_dial,
        node_dial,
        publisher,
        health,
        hints,
        feed: topologies.clone(),
        steering,
        orders,
    };
    (watcher, topologies, sender, healths)
}

/// What a poll or probe task is to do; the newest order counts.
#[derive(Clone, Copy, Default)]
struct Order {
    /// The interval.
    every: Duration,
    /// How many times it was asked to act at once.
    urgent: u64,
    /// How many of these were to use a fresh connection.
    afresh: u64,
}

/// A running machine and the tasks that serve it.
struct Driver {
    config: WatcherConfig,
    master: Arc<str>,
    sentinel_dial: Arc<dyn Dial>,
    node_dial: Arc<dyn Dial>,
    publisher: TopologyPublisher,
    machine: Machine,
    inputs: mpsc::Sender<Input>,
    tasks: Tasks,
    poll_every: Duration,
    sentinels: BTreeMap<HostPort, WatchedSentinel>,
    nodes: BTreeMap<HostPort, ProbedNode>,
    feed: TopologyFeed,
    /// The failover that an operator asked for last.
    handover: Option<Task>,
    /// Operators who wait until writes do, or flow again.
    paused: Vec<oneshot::Sender<()>>,
}

struct WatchedSentinel {
    orders: watch::Sender<Order>,
    _poll: Task,
    _subscribe: Task,
}

struct ProbedNode {
    orders: watch::Sender<Order>,
    _probe: Task,
}

// === impl Watcher ===

impl Watcher {
    /// Where an operator's orders go.
    #[must_use]
    pub fn steering(&self) -> Steering {
        self.steering.clone()
    }

    /// Watches until `cancel`. Runs on any tokio runtime, also one of a single thread and with paused time.
    pub async fn run(self, cancel: CancellationToken) {
        let Self {
            config,
            sentinel_dial,
            node_dial,
            publisher,
            health,
            mut hints,
            feed,
            steering,
            mut orders,
        } = self;
        // Else it would wait for orders of its own.
        drop(steering);
        let master: Arc<str> = Arc::from(config.master.as_str());
        let (machine, first) = Machine::new(rules(&config, &master), &config.sentinels, Instant::now());
        let (inputs, mut inbox) = mpsc::channel(limits::INPUTS);
        let mut driver = Driver {
            config,
            master,
            sentinel_dial,
            node_dial,
            publisher,
            machine,
            inputs,
            tasks: Tasks::default(),
            poll_every: limits::POLL_MOVING,
            sentinels: BTreeMap::new(),
            nodes: BTreeMap::new(),
            feed,
            handover: None,
            paused: Vec::new(),
        };
        driver.obey(first);
        health.publish(driver.machine.health());
        let (mut hinting, mut steered) = (true, true);
        loop {
            let wake = driver.machine.wake();
            let input = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                Some(input) = inbox.recv() => input,
                hint = hints.recv(), if hinting => match hint {
                    Some(hint) => Input::Hinted(hint),
                    None => {
                        hinting = false;
                        continue;
                    }
                },
                order = orders.next(), if steered && driver.paused.len() < ORDERS_WAITING => match order {
                    Some(order) => match driver.take_order(order, &orders) {
                        Some(input) => input,
                        None => continue,
                    },
                    None => {
                        steered = false;
                        continue;
                    }
                },
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => Input::Tick,
                () = driver.tasks.reap() => continue,
            };
            let actions = driver.machine.step(input, Instant::now());
            driver.obey(actions);
            health.publish(driver.machine.health());
            driver.answer_pauses();
        }
    }
}

// === impl Driver ===

impl Driver {
    fn obey(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Watch(sentinel) => self.watch(sentinel),
                Action::Forget(sentinel) => drop(self.sentinels.remove(&sentinel)),
                Action::PollNow(sentinel) => {
                    if let Some(watched) = self.sentinels.get(&sentinel) {
                        watched.orders.send_modify(|order| order.urgent += 1);
                    }
                }
                Action::PollEvery(every) => {
                    self.poll_every = every;
                    for watched in self.sentinels.values() {
                        watched.orders.send_modify(|order| order.every = every);
                    }
                }
                Action::Probe { node, every } => self.probe(node, every),
                Action::ProbeNow(node) => self.order(&node, |order| order.urgent += 1),
                Action::ProbeAfresh(node) => self.order(&node, |order| {
                    order.urgent += 1;
                    order.afresh += 1;
                }),
                Action::Unprobe(node) => drop(self.nodes.remove(&node)),
                Action::Publish(shard) => {
                    self.publisher.publish(shard);
                }
                Action::Log(note) => note.log(&self.master),
            }
        }
    }

    /// What an operator orders, as the machine is told of it; a failover sees to itself.
    fn take_order(&mut self, order: SteeringOrder, orders: &SteeringReceiver) -> Option<Input> {
        match order {
            SteeringOrder::Pause(paused, done) => {
                self.paused.push(done);
                Some(Input::Paused(paused))
            }
            SteeringOrder::Handover(handover, outcome) => {
                self.hand_over(handover, outcome, orders);
                None
            }
            SteeringOrder::Reconfigure(config, done) => {
                let _ = done.send(());
                Some(self.reconfigure(*config))
            }
        }
    }

    /// What PAUSE and RESUME order has come to be: an order behind them may count on it.
    fn answer_pauses(&mut self) {
        if !self.machine.is_clearing() {
            for done in self.paused.drain(..) {
                let _ = done.send(());
            }
        }
    }

    fn watch(&mut self, sentinel: HostPort) {
        let (orders, receiver) = watch::channel(Order {
            every: self.poll_every,
            ..Order::default()
        });
        let manners = Manners {
            credentials: self.config.sentinel_credentials.clone(),
            connect_timeout: self.config.connect_timeout,
            answer_timeout: self.config.node_timeout,
        };
        let poller = poll::Poller {
            sentinel: sentinel.clone(),
            master: Arc::clone(&self.master),
            dial: Arc::clone(&self.sentinel_dial),
            manners: manners.clone(),
            orders: receiver,
            inputs: self.inputs.clone(),
            backoff: Backoff::new(&sentinel, "poll"),
        };
        let subscriber = subscribe::Subscriber {
            sentinel: sentinel.clone(),
            master: Arc::clone(&self.master),
            dial: Arc::clone(&self.sentinel_dial),
            manners,
            inputs: self.inputs.clone(),
            backoff: Backoff::new(&sentinel, "subscribe"),
        };
        let watched = WatchedSentinel {
            orders,
            _poll: self.tasks.spawn(poller.run()),
            _subscribe: self.tasks.spawn(subscriber.run()),
        };
        self.sentinels.insert(sentinel, watched);
    }

    /// Takes another configuration, and greets everybody anew where that means another greeting.
    fn reconfigure(&mut self, config: WatcherConfig) -> Input {
        let ruled = Input::Ruled(rules(&config, &self.master), config.sentinels.clone());
        let before = std::mem::replace(&mut self.config, config);
        let now = &self.config;
        let times = |config: &WatcherConfig| (config.connect_timeout, config.node_timeout);
        let patience = times(&before) != times(now);
        let sentinels = patience || before.sentinel_credentials != now.sentinel_credentials;
        let nodes = patience || before.node_credentials != now.node_credentials;
        if sentinels {
            let watched: Vec<_> = self.sentinels.keys().cloned().collect();
            watched.into_iter().for_each(|sentinel| self.watch(sentinel));
        }
        if nodes {
            for (node, probed) in std::mem::take(&mut self.nodes) {
                let every = probed.orders.borrow().every;
                self.probe(node, every);
            }
        }
        ruled
    }

    fn probe(&mut self, node: HostPort, every: Duration) {
        if self.nodes.contains_key(&node) {
            self.order(&node, |order| {
                order.every = every;
                order.urgent += 1;
            });
            return;
        }
        let (orders, receiver) = watch::channel(Order {
            every,
            ..Order::default()
        });
        let prober = probe::Prober {
            node: node.clone(),
            dial: Arc::clone(&self.node_dial),
            manners: Manners {
                credentials: self.config.node_credentials.clone(),
                connect_timeout: self.config.connect_timeout,
                answer_timeout: self.config.node_timeout,
            },
            orders: receiver,
            inputs: self.inputs.clone(),
        };
        let probed = ProbedNode {
            orders,
            _probe: self.tasks.spawn(prober.run()),
        };
        self.nodes.insert(node, probed);
    }

    /// Starts a failover that an operator asks for; one at a time.
    fn hand_over(
        &mut self,
        handover: Handover,
        outcome: oneshot::Sender<Result<HandedOver, String>>,
        orders: &SteeringReceiver,
    ) {
        if self.handover.as_ref().is_some_and(|task| !task.is_over()) {
            let _ = outcome.send(Err("another one is under way".to_owned()));
            return;
        }
        let health = self.machine.health();
        let answers = |sentinel: &&SentinelHealth| {
            matches!(sentinel.state, SentinelState::Watching | SentinelState::Polling)
        };
        let sentinels = health.sentinels.iter().filter(answers);
        let manners = |credentials: &Option<Credentials>| Manners {
            credentials: credentials.clone(),
            connect_timeout: self.config.connect_timeout,
            answer_timeout: self.config.node_timeout,
        };
        let conductor = handover::Conductor {
            handover,
            outcome,
            master: Arc::clone(&self.master),
            sentinels: sentinels.map(|sentinel| sentinel.address.clone()).collect(),
            sentinels_known: health.sentinels.len(),
            down_after: health.down_after.unwrap_or(self.config.node_timeout),
            address_map: self.config.address_map.clone(),
            sentinel_dial: Arc::clone(&self.sentinel_dial),
            sentinel_manners: manners(&self.config.sentinel_credentials),
            node_dial: Arc::clone(&self.node_dial),
            node_manners: manners(&self.config.node_credentials),
            feed: self.feed.clone(),
            inputs: self.inputs.clone(),
            quiet: orders.quiet(),
        };
        self.handover = Some(self.tasks.spawn(conductor.run()));
    }

    fn order(&self, node: &HostPort, change: impl FnOnce(&mut Order)) {
        if let Some(probed) = self.nodes.get(node) {
            probed.orders.send_modify(change);
        }
    }
}

fn rules(config: &WatcherConfig, master: &Arc<str>) -> Rules {
    Rules {
        master: Arc::clone(master),
        address_map: config.address_map.clone(),
        max_replica_lag: config.max_replica_lag,
    }
}
