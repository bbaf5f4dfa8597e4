//! What goes wrong.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::sleep;

use super::network::Manner;
use super::node::{Fault, Node};
use super::rng::Rng;
use super::sentinel::{Gossip, Sentinel};
use super::task::spawn;
use super::trace;
use super::world::World;

/// Somebody who breaks a world.
pub struct Chaos {
    world: Rc<World>,
    rng: Rng,
}

/// One thing that can be done to a world.
type Deed = fn(&mut Chaos);

/// What is done, and how often for each of the others.
const DEEDS: [(u64, Deed); 16] = [
    (4, Chaos::fail_over),
    (3, Chaos::fail_over_and_kill_the_leader),
    (3, Chaos::crash_primary),
    (1, Chaos::crash_replica),
    (1, Chaos::restart_at_once),
    (1, Chaos::restart_empty),
    (3, Chaos::freeze_primary),
    (1, Chaos::freeze_replica),
    (3, Chaos::cut_primary_off),
    (3, Chaos::cut_some_link),
    (2, Chaos::cut_the_proxy_off),
    (2, Chaos::trouble_a_sentinel),
    (2, Chaos::spoil_gossip),
    (4, Chaos::bewitch),
    (3, Chaos::reset_connections),
    (2, Chaos::slow_down),
];

// === impl Chaos ===

impl Chaos {
    /// All its choices follow from `rng`.
    #[must_use]
    pub fn new(world: &Rc<World>, rng: Rng) -> Self {
        Self {
            world: Rc::clone(world),
            rng,
        }
    }

    /// Some faults, which may overlap.
    pub async fn rage(&mut self) {
        if self.world.is_peaceful() {
            return self.fail_over_in_peace().await;
        }
        let total = DEEDS.iter().map(|(weight, _)| weight).sum();
        for _ in 0..2 + self.rng.below(5) {
            let mut at = self.rng.below(total);
            let deed = DEEDS.iter().find(|(weight, _)| {
                let hit = at < *weight;
                at = at.saturating_sub(*weight);
                hit
            });
            (deed.expect("a number below the total").1)(self);
            let most = if self.rng.once_in(3) { 500 } else { 8000 };
            sleep(self.millis(most)).await;
        }
    }

    /// Planned failovers, each when the last is over.
    async fn fail_over_in_peace(&mut self) {
        for _ in 0..1 + self.rng.below(3) {
            while !self.world.is_settled() {
                sleep(Duration::from_millis(100)).await;
            }
            self.fail_over();
            sleep(Duration::from_secs(1) + self.millis(12_000)).await;
        }
    }

    /// Everything is mended.
    pub fn calm(&self) {
        let world = &self.world;
        world.calm_down();
        world.network.heal();
        world.network.slow(Duration::from_millis(1));
        for node in &world.nodes {
            node.forgive();
            revive(node);
        }
        for sentinel in &world.sentinels {
            sentinel.gossip(Gossip::Faithful);
            sentinel.revive();
        }
    }

    fn millis(&mut self, below: u64) -> Duration {
        Duration::from_millis(self.rng.below(below))
    }

    fn say(&self, what: impl FnOnce() -> String) {
        trace::note(|| format!("*** {}", what()));
    }

    /// Mends something later.
    fn later(&mut self, most_millis: u64, mend: impl FnOnce(&World) + 'static) {
        let (world, delay) = (Rc::clone(&self.world), self.millis(most_millis));
        spawn(async move {
            sleep(delay).await;
            if !world.is_calm() {
                mend(&world);
            }
        });
    }

    /// The node that most sentinels take for primary.
    fn primary(&self) -> Node {
        let masters: Vec<_> = self.world.sentinels.iter().map(Sentinel::master).collect();
        let most = masters
            .iter()
            .max_by_key(|master| masters.iter().filter(|other| other == master).count());
        let node = |node: &&Node| Some(node.address()) == most;
        self.world
            .nodes
            .iter()
            .find(node)
            .expect("sentinels know nodes")
            .clone()
    }

    fn replica(&mut self) -> Node {
        let primary = self.primary();
        let others: Vec<_> = self
            .world
            .nodes
            .iter()
            .filter(|node| node.address() != primary.address())
            .collect();
        others[self.rng.below(others.len() as u64) as usize].clone()
    }

    fn sentinel(&mut self) -> Sentinel {
        let at = self.rng.below(self.world.sentinels.len() as u64) as usize;
        self.world.sentinels[at].clone()
    }

    fn fail_over(&mut self) {
        let sentinel = self.sentinel();
        let begun = sentinel.fail_over();
        self.say(|| format!("SENTINEL FAILOVER {}: {begun}", sentinel.address()));
    }

    /// The leader dies when it has promoted a replica, and before it has told anybody.
    fn fail_over_and_kill_the_leader(&mut self) {
        let sentinel = self.sentinel();
        if !sentinel.fail_over() {
            return;
        }
        self.say(|| {
            format!(
                "SENTINEL FAILOVER {}, which dies after the promotion",
                sentinel.address()
            )
        });
        let back = self.millis(20_000);
        let world = Rc::clone(&self.world);
        spawn(async move {
            while !sentinel.awaits_promotion() {
                sleep(Duration::from_millis(10)).await;
                if world.is_calm() || !sentinel.is_attempting() {
                    return;
                }
            }
            sentinel.crash();
            sleep(back).await;
            sentinel.revive();
        });
    }

    fn crash_primary(&mut self) {
        let node = self.primary();
        self.crash(&node, 10_000, false);
    }

    fn crash_replica(&mut self) {
        let node = self.replica();
        self.crash(&node, 4000, false);
    }

    fn restart_at_once(&mut self) {
        let node = self.primary();
        self.crash(&node, 800, false);
    }

    fn restart_empty(&mut self) {
        let node = self.primary();
        self.crash(&node, 800, true);
    }

    fn crash(&mut self, node: &Node, most_millis: u64, empty: bool) {
        self.say(|| format!("kill -9 {}", node.address()));
        node.crash();
        let (node, loading) = (node.clone(), self.millis(1000));
        self.later(most_millis, move |_| {
            if !node.is_open() {
                node.restart(empty, loading);
            }
        });
    }

    fn freeze_primary(&mut self) {
        let node = self.primary();
        self.freeze(&node, 8000);
    }

    fn freeze_replica(&mut self) {
        let node = self.replica();
        self.freeze(&node, 4000);
    }

    fn freeze(&mut self, node: &Node, most_millis: u64) {
        self.say(|| format!("SIGSTOP {}", node.address()));
        node.freeze();
        let node = node.clone();
        self.later(most_millis, move |_| {
            trace::note(|| format!("*** SIGCONT {}", node.address()));
            node.thaw();
        });
    }

    /// The primary loses the sentinels and its replicas, and keeps the proxy.
    fn cut_primary_off(&mut self) {
        let primary = self.primary().address().host.to_string();
        let hosts = self.hosts();
        let others: Vec<_> = hosts
            .iter()
            .filter(|host| *host != "proxy" && **host != primary)
            .collect();
        for other in others {
            self.block(&primary, other);
            self.block(other, &primary);
        }
        self.heal_later(8000);
    }

    /// One direction or both of one link.
    fn cut_some_link(&mut self) {
        let hosts = self.hosts();
        let mut draw = || hosts[self.rng.below(hosts.len() as u64) as usize].clone();
        let (one, other) = (draw(), draw());
        if one == other {
            return;
        }
        self.block(&one, &other);
        if self.rng.once_in(2) {
            self.block(&other, &one);
        }
        self.heal_later(6000);
    }

    /// The proxy loses some of the sentinels, or all.
    fn cut_the_proxy_off(&mut self) {
        for number in 1..=3 {
            if self.rng.once_in(2) {
                let sentinel = format!("q{number}");
                self.block("proxy", &sentinel);
                self.block(&sentinel, "proxy");
            }
        }
        self.heal_later(15_000);
    }

    fn hosts(&self) -> Vec<String> {
        let nodes = self
            .world
            .nodes
            .iter()
            .map(|node| node.address().host.to_string());
        nodes
            .chain(["q1", "q2", "q3", "proxy"].map(str::to_owned))
            .collect()
    }

    fn block(&self, from: &str, to: &str) {
        self.say(|| format!("{from} is not heard by {to}"));
        if from == "proxy" || to == "proxy" {
            self.world.trouble();
        }
        self.world.network.block(from, to, true);
    }

    fn heal_later(&mut self, most_millis: u64) {
        self.later(most_millis, |world| {
            trace::note(|| "*** everybody is heard again".to_owned());
            world.network.heal();
        });
    }

    fn trouble_a_sentinel(&mut self) {
        let sentinel = self.sentinel();
        self.world.trouble();
        if self.rng.once_in(2) {
            self.say(|| format!("kill -9 {}", sentinel.address()));
            sentinel.crash();
        } else {
            self.say(|| format!("SIGSTOP {}", sentinel.address()));
            sentinel.freeze();
        }
        self.later(10_000, move |_| sentinel.revive());
    }

    fn spoil_gossip(&mut self) {
        let gossip = [Gossip::Careless, Gossip::Silent][self.rng.below(2) as usize];
        let sentinel = self.sentinel();
        self.say(|| format!("the events of {} are {gossip:?}", sentinel.address()));
        self.world.trouble();
        sentinel.gossip(gossip);
        self.later(10_000, move |_| sentinel.gossip(Gossip::Faithful));
    }

    /// The connection of some command breaks.
    fn bewitch(&mut self) {
        let prefixes = [
            "RPUSH log",
            "SET",
            "GET",
            "EXEC",
            "BLPOP",
            "INCR",
            "ECHO",
            "MULTI",
            "PUBLISH",
            "EVAL",
            "WATCH",
            "XADD",
            "XREAD",
            "WAIT",
            "CLIENT TRACKING",
        ];
        let primary = self.primary();
        for _ in 0..1 + self.rng.below(4) {
            let prefix = prefixes[self.rng.below(prefixes.len() as u64) as usize];
            let fault = match self.rng.below(4) {
                0 => Fault::CutBefore,
                1 => Fault::CutAfter,
                2 => Fault::CutWithin(2),
                _ => Fault::Delay(self.millis(200)),
            };
            self.say(|| format!("{prefix} meets {fault:?} on {}", primary.address()));
            primary.once(prefix, fault);
        }
    }

    fn reset_connections(&mut self) {
        let primary = self.primary().address().host.to_string();
        self.say(|| format!("connections to {primary} are reset"));
        let times = 1 + self.rng.below(3);
        self.world.network.reset("proxy", &primary, times);
    }

    fn slow_down(&mut self) {
        let latency = self.millis(60);
        self.say(|| format!("bytes take {latency:?}"));
        self.world.trouble();
        self.world.network.slow(latency);
        self.later(3000, |world| world.network.slow(Duration::from_millis(1)));
    }
}

/// Whatever was done to it is undone.
fn revive(node: &Node) {
    node.thaw();
    if !node.is_open() {
        node.restart(false, Duration::from_millis(100));
    }
    node.dials(Manner::Accept);
}
