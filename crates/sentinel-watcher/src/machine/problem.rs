//! What an operator should know, in words.

use tokio::time::Instant;

use crate::limits;
use crate::link::with_remedy;
use crate::machine::Machine;
use crate::machine::node::Node;
use crate::machine::sentinel::Sentinel;
use crate::topology::HostPort;
use crate::verify::Verdict;

impl Machine {
    /// The gravest problem; `None` where all is well.
    pub(super) fn problem(&self) -> Option<String> {
        self.unverifiable_primary()
            .or_else(|| self.no_sentinel())
            .or_else(|| {
                // A regular switch is such a disagreement too, for a second.
                let lasting = |since: Instant| self.now - since >= limits::DISSENT_PATIENCE / 2;
                let (claim, _) = self.dissent.as_ref().filter(|(_, since)| lasting(*since))?;
                Some(format!(
                    "sentinels disagree: a majority names {} at a lower epoch",
                    claim.address
                ))
            })
            .or_else(|| self.sentinel_that(Sentinel::refuses))
            .or_else(|| self.unserved())
    }

    fn unverifiable_primary(&self) -> Option<String> {
        let claimed = self.claims().into_iter().map(|claim| claim.address);
        let mut named = self.primary().cloned().into_iter().chain(claimed);
        named.find_map(|address| unverifiable(&address, self.nodes.get(&address)?.verdict()?))
    }

    fn no_sentinel(&self) -> Option<String> {
        if self.sentinels.values().any(Sentinel::answers) {
            return None;
        }
        self.sentinel_that(Sentinel::refuses).or_else(|| {
            let example = self
                .sentinel_that(|_| true)
                .unwrap_or_else(|| "none has answered yet".to_owned());
            Some(format!("no sentinel is reachable: {example}"))
        })
    }

    fn sentinel_that(&self, ails: impl Fn(&Sentinel) -> bool) -> Option<String> {
        let ailing = self.sentinels.iter().filter(|(_, sentinel)| ails(sentinel));
        ailing
            .filter_map(|(address, sentinel)| sentinel.problem(address, &self.rules.master))
            .next()
    }

    /// Why there is no primary yet.
    fn unserved(&self) -> Option<String> {
        if self.shard.primary.is_some() {
            return None;
        }
        let address = self.claims().into_iter().next()?.address;
        let why = match self.nodes.get(&address).and_then(Node::verdict) {
            None => "it has not been asked for its ROLE yet",
            Some(Verdict::Replica(_)) => "it says that it is a replica",
            Some(Verdict::Loading) => "it is loading its data set",
            Some(Verdict::Unreachable(why)) => why,
            Some(Verdict::Primary { .. } | Verdict::Refused(_) | Verdict::Blind(_)) => return None,
        };
        Some(format!("{address} is named as primary: {why}"))
    }
}

/// Why a node's role cannot be known.
pub(super) fn unverifiable(node: &HostPort, verdict: &Verdict) -> Option<String> {
    match verdict {
        Verdict::Refused(denial) => Some(denial.explain(&node.to_string(), "--")),
        Verdict::Blind(why) => {
            let problem = format!("{node} cannot be asked from here: {why}");
            Some(with_remedy(problem, "--node-tls"))
        }
        _ => None,
    }
}
