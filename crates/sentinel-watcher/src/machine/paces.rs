//! The acting half: whom to ask, and how often?

use std::collections::BTreeSet;
use std::time::Duration;

use crate::limits;
use crate::machine::decide::Belief;
use crate::machine::node::Node;
use crate::machine::sentinel::Sentinel;
use crate::machine::{Action, Machine};
use crate::topology::{HostPort, Phase, Replica};

impl Machine {
    /// Asks for each node, and each sentinel, to be asked as often as the moment needs it.
    pub(super) fn set_paces(&mut self, belief: Option<&Belief>) {
        let wanted = self.wanted_nodes();
        let gone: Vec<_> = self
            .nodes
            .keys()
            .filter(|address| !wanted.contains(address))
            .cloned()
            .collect();
        for address in gone {
            self.nodes.remove(&address);
            self.ask(Action::Unprobe(address));
        }
        for address in wanted {
            let every = self.probe_every(&address, belief);
            let node = self.nodes.entry(address.clone()).or_insert_with(Node::new);
            if node.pace.replace(every) != Some(every) {
                self.ask(Action::Probe { node: address, every });
            }
        }
        let settled = self.shard.phase == Phase::Serving && !self.shard.provisional && self.dissent.is_none();
        // What a sentinel cannot tell by events it is asked for more often.
        let unheard = |sentinel: &Sentinel| sentinel.answers() && !sentinel.subscribed;
        let calm = settled && !self.sentinels.values().any(unheard);
        let every = if calm {
            limits::POLL_CALM
        } else {
            limits::POLL_MOVING
        };
        if std::mem::replace(&mut self.poll_every, every) != every {
            self.ask(Action::PollEvery(every));
        }
    }

    /// Every node that matters, the most important ones first where there are too many.
    fn wanted_nodes(&self) -> Vec<HostPort> {
        let candidates = self
            .episode
            .iter()
            .flat_map(|episode| episode.candidates.keys().cloned());
        let claimed = self
            .sentinels
            .values()
            .filter_map(|sentinel| sentinel.report.as_ref());
        let mut wanted: Vec<HostPort> = self.primary().cloned().into_iter().collect();
        wanted.extend(candidates);
        wanted.extend(claimed.map(|report| report.address.clone()));
        wanted.extend(self.listed_replicas().into_keys());
        let mut seen = BTreeSet::new();
        wanted.retain(|address| seen.insert(address.clone()));
        wanted.truncate(limits::NODES);
        wanted
    }

    fn probe_every(&self, address: &HostPort, belief: Option<&Belief>) -> Duration {
        let reigning = self.primary() == Some(address);
        let holding = self.episode.as_ref().filter(|episode| episode.holds());
        let serves = |replica: &Replica| replica.usable && replica.address == *address;
        match holding {
            None if reigning && self.shard.provisional => limits::PROBE_CANDIDATE,
            None if reigning || self.shard.replicas.iter().any(serves) => limits::PROBE_CALM,
            None if self.shard.primary.is_some() => limits::PROBE_REPLICA,
            None if belief.is_some_and(|belief| belief.claim.address == *address) => limits::PROBE_HELD,
            None => limits::PROBE_CALM,
            Some(_) if reigning => limits::PROBE_HELD,
            Some(episode) if episode.candidates.contains_key(address) => limits::PROBE_CANDIDATE,
            Some(_) => limits::PROBE_REPLICA,
        }
    }
}
