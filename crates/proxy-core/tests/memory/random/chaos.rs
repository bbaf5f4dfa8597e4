//! What goes wrong.

use std::time::Duration;

use sentinel_watcher::Phase;
use tokio::time::sleep;

use crate::common::network::Manner;
use crate::common::node::{Fault, Node, Temper};
use crate::common::rng::Rng;
use crate::common::world::World;

/// Somebody who breaks a world, and knows who is primary.
pub(super) struct Chaos<'a> {
    world: &'a World,
    rng: Rng,
    primary: Node,
    replica: Node,
}

impl<'a> Chaos<'a> {
    pub(super) fn new(world: &'a World, rng: Rng) -> Self {
        Self {
            world,
            rng,
            primary: world.a.clone(),
            replica: world.b.clone(),
        }
    }

    pub(super) fn primary(&self) -> &Node {
        &self.primary
    }

    /// Some faults, one after the other.
    pub(super) async fn rage(&mut self) {
        for _ in 0..3 + self.rng.below(5) {
            self.pause(300).await;
            match self.rng.below(12) {
                0 => self.primary.cut(),
                1 => self.replica.cut(),
                2 | 3 => self.bewitch(),
                4 => self.delay(),
                5 => self.abort().await,
                6 => self.restart().await,
                7 => self.load().await,
                8 => self.crash().await,
                9 => self.stop().await,
                _ => self.fail_over().await,
            }
        }
    }

    /// Everything is well again.
    pub(super) async fn calm(&mut self) {
        for node in [&self.primary, &self.replica] {
            node.forgive();
            node.latency(Duration::ZERO, Duration::ZERO);
        }
        sleep(Duration::from_secs(1)).await;
    }

    async fn pause(&mut self, most_millis: u64) {
        sleep(Duration::from_millis(self.rng.below(most_millis))).await;
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
        ];
        let prefix = prefixes[self.rng.below(prefixes.len() as u64) as usize];
        let fault = match self.rng.below(4) {
            0 => Fault::CutBefore,
            1 => Fault::CutAfter,
            2 => Fault::CutWithin(2),
            _ => Fault::Delay(Duration::from_millis(self.rng.below(200))),
        };
        self.primary.once(prefix, fault);
    }

    fn delay(&mut self) {
        for node in [&self.primary, &self.replica] {
            let mut some = || Duration::from_millis(self.rng.below(20));
            node.latency(some(), some());
        }
    }

    async fn abort(&mut self) {
        self.world.moving();
        self.pause(500).await;
        self.world.phase(Phase::Serving);
    }

    /// The primary dies and comes back with all it knew.
    async fn restart(&mut self) {
        self.primary.kill();
        self.pause(300).await;
        if self.rng.once_in(2) {
            self.world.moving();
        }
        self.pause(300).await;
        self.primary.dials(Manner::Accept);
        self.world.serve_with(&self.primary, true);
    }

    async fn load(&mut self) {
        self.primary
            .become_a([Temper::Loading, Temper::MasterDown, Temper::NoReplicas][self.rng.below(3) as usize]);
        self.pause(500).await;
        self.primary.become_a(Temper::Primary);
    }

    /// A planned failover; sometimes the old primary is demoted before the switch is known.
    async fn fail_over(&mut self) {
        self.world.moving();
        self.pause(300).await;
        if self.rng.once_in(2) {
            self.primary.become_a(Temper::Replica);
            self.pause(100).await;
        }
        self.promote();
        self.pause(300).await;
        self.rejoin();
    }

    async fn crash(&mut self) {
        self.primary.kill();
        self.pause(500).await;
        self.world.moving();
        self.pause(500).await;
        self.promote();
        self.pause(500).await;
        self.replica.dials(Manner::Accept);
        self.rejoin();
    }

    /// SIGSTOP, and SIGCONT once it has been replaced.
    async fn stop(&mut self) {
        self.primary.freeze();
        self.pause(3000).await;
        self.world.moving();
        self.pause(500).await;
        self.promote();
        self.pause(2000).await;
        self.replica.thaw();
        sleep(Duration::from_millis(500)).await;
        self.rejoin();
    }

    fn promote(&mut self) {
        std::mem::swap(&mut self.primary, &mut self.replica);
        self.primary.part();
        self.primary.become_a(Temper::Primary);
        self.world.serve_with(&self.primary, false);
    }

    /// The former primary follows the new one.
    fn rejoin(&mut self) {
        self.replica.follow(&self.primary);
        self.world.with_replicas();
    }
}
