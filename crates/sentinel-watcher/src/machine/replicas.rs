//! The acting half: which replicas may be read?

use std::collections::BTreeMap;

use crate::machine::node::{Node, Reign};
use crate::machine::sentinel::Sentinel;
use crate::machine::{Machine, Note};
use crate::topology::{HostPort, Phase, Replica, Shard};

/// What sentinels say of one replica.
#[derive(Default)]
pub(super) struct Listing {
    priority: u32,
    named: usize,
    called_down: usize,
}

impl Machine {
    /// Judges every replica anew; `before` is what was published.
    pub(super) fn judge_replicas(&mut self, before: &Shard) {
        let listed = self.listed_replicas();
        let known = |address: &HostPort| self.nodes.contains_key(address);
        let reign = || Reign {
            number: self.reign,
            moving: self.shard.phase == Phase::Moving,
            is_known_node: &known,
        };
        let readable = |node: &Node, primary: &HostPort| {
            node.readable(primary, reign(), self.rules.max_replica_lag, self.now)
        };
        let replicas = listed.into_iter().filter_map(|(address, listing)| {
            let primary = self.primary().filter(|primary| **primary != address)?;
            let node = self.nodes.get(&address)?;
            Some(Replica {
                usable: !listing.down() && readable(node, primary),
                lag_bytes: node.lag_bytes(),
                priority: listing.priority,
                address,
            })
        });
        let replicas: Vec<_> = replicas.collect();
        for replica in &replicas {
            let was = before
                .replicas
                .iter()
                .find(|known| known.address == replica.address);
            if was.map_or(replica.usable, |was| was.usable != replica.usable) {
                self.log(Note::Replica {
                    address: replica.address.clone(),
                    usable: replica.usable,
                });
            }
        }
        self.shard.replicas = replicas;
    }

    /// What the sentinels that answer (or, with none of them, the last answers) say of each replica.
    pub(super) fn listed_replicas(&self) -> BTreeMap<HostPort, Listing> {
        let any = self.sentinels.values().any(Sentinel::answers);
        let heard = self
            .sentinels
            .values()
            .filter(|sentinel| sentinel.answers() || !any);
        let mut listed = BTreeMap::<HostPort, Listing>::new();
        for replica in heard
            .filter_map(|sentinel| sentinel.report.as_ref())
            .flat_map(|report| &report.replicas)
        {
            let listing = listed.entry(replica.address.clone()).or_default();
            listing.priority = replica.priority;
            listing.named += 1;
            listing.called_down += usize::from(replica.down);
        }
        listed
    }
}

impl Listing {
    /// Most of those that name it call it down.
    const fn down(&self) -> bool {
        self.called_down * 2 > self.named
    }
}
