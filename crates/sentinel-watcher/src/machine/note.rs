//! What the log says: one line for each believable change of state, none for a poll.

use std::time::Duration;

use crate::health::{Failover, SentinelState};
use crate::topology::HostPort;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// A sentinel fares differently; why, where it fares badly.
    Sentinel {
        address: HostPort,
        state: SentinelState,
        problem: Option<String>,
    },
    /// Another sentinel named one that nobody configured.
    Discovered { sentinel: HostPort },
    /// The first primary since the start.
    Found { primary: HostPort },
    /// Clients wait from now on.
    Held { primary: HostPort, sign: &'static str },
    /// A sentinel is about to promote this one.
    Candidate { sentinel: HostPort, candidate: HostPort },
    /// A sentinel gave its attempt up.
    Aborted {
        sentinel: HostPort,
        reason: &'static str,
    },
    /// The same primary serves on.
    Released { primary: HostPort, held: Duration },
    /// Another node serves; the whole story follows once a sentinel's epoch confirms it.
    Promoted { primary: HostPort, held: Duration },
    /// The whole story of a switch. The log gets it from the data plane, which knows the rest of it.
    Switched(Failover),
    /// A primary released provisionally says that it is a replica again.
    TurnedBack { primary: HostPort },
    /// A majority at a lower epoch won.
    Overruled { by: u64, memory: u64 },
    /// The primary's offset went back.
    Restarted {
        primary: HostPort,
        before: u64,
        after: u64,
    },
    /// A replica may be read from now on, or no longer.
    Replica { address: HostPort, usable: bool },
    /// A node cannot be asked who it is.
    Unverifiable { node: HostPort, problem: String },
}

// === impl Note ===

impl Note {
    /// Writes the line for `master`.
    pub(crate) fn log(&self, master: &str) {
        use tracing::{info, warn};
        match self {
            Self::Sentinel {
                address,
                state,
                problem: None,
            } => {
                info!(master, sentinel = %address, state = state.label(), "sentinel");
            }
            Self::Sentinel {
                address,
                state,
                problem: Some(problem),
            } => {
                warn!(master, sentinel = %address, state = state.label(), problem, "sentinel");
            }
            Self::Discovered { sentinel } => info!(master, %sentinel, "another sentinel discovered"),
            Self::Found { primary } => info!(master, %primary, "primary found"),
            Self::Held { primary, sign } => warn!(master, %primary, sign, "commands wait"),
            Self::Candidate { sentinel, candidate } => {
                info!(master, %sentinel, %candidate, "a replica is being promoted");
            }
            Self::Aborted { sentinel, reason } => {
                info!(master, %sentinel, reason, "a sentinel gave its failover up");
            }
            Self::Released { primary, held } => {
                info!(master, %primary, held_ms = millis(*held), "the same primary serves on");
            }
            Self::Promoted { primary, held } => {
                info!(master, %primary, held_ms = millis(*held), "another primary serves");
            }
            Self::Switched(_) => {}
            Self::TurnedBack { primary } => {
                warn!(master, %primary, "the promoted node was turned back into a replica");
            }
            Self::Overruled { by, memory } => warn!(
                master,
                believed_epoch = by,
                higher_epoch = memory,
                "a majority of sentinels agrees on a lower epoch: they were recreated, the higher one is past"
            ),
            Self::Restarted {
                primary,
                before,
                after,
            } => warn!(
                master,
                %primary,
                offset_before = before,
                offset_after = after,
                "the primary restarted behind its own replication offset: it may have come back without its data"
            ),
            Self::Replica { address, usable } => info!(master, replica = %address, usable, "replica"),
            Self::Unverifiable { node, problem } => {
                warn!(master, %node, problem, "a node does not say whether it is primary");
            }
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
