//! A primary that a client, through slipring, has told to follow another node. That is no failover: what it answers then
//! is meant for who asks, and is not waited out.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use resp_codec::Command;

use super::NodeKey;

/// Which term's primary follows another node because a client said so. One a master, for all workers.
#[derive(Debug, Default)]
pub(crate) struct ByHand(AtomicU64);

/// What REPLICAOF told the node to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// To follow another node.
    Follow,
    /// `NO ONE`.
    Lead,
}

// === impl ByHand ===

impl ByHand {
    /// `node` has said OK to that.
    pub(crate) fn note(&self, node: &NodeKey, told: Told) {
        match (told, node.term) {
            (Told::Follow, Some(term)) => self.0.store(term.0, Ordering::Relaxed),
            (Told::Lead, Some(_)) => self.forget(),
            // A replica may follow whom it will.
            (_, None) => {}
        }
    }

    /// It leads again, whoever told it.
    pub(crate) fn forget(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// `node` follows another one by hand. Terms begin at 1.
    pub(crate) fn holds(&self, node: &NodeKey) -> bool {
        node.term
            .is_some_and(|term| term.0 != 0 && self.0.load(Ordering::Relaxed) == term.0)
    }
}

// === impl Told ===

impl Told {
    /// What `command` tells a node to be, if anything.
    pub(crate) fn by(command: &Command<Bytes>) -> Option<Self> {
        if !matches!(command.spec().name, "replicaof" | "slaveof") || command.argc() != 3 {
            return None;
        }
        let no_one = command
            .args()
            .skip(1)
            .zip([&b"no"[..], b"one"])
            .all(|(arg, word)| arg.eq_ignore_ascii_case(word));
        Some(if no_one { Self::Lead } else { Self::Follow })
    }
}
