//! A primary that a client, through slipring, has told to follow another node. That is no failover: what it answers then
//! is meant for who asks, and is not waited out.

use std::sync::atomic::{AtomicU64, Ordering};

use super::NodeKey;
use super::told::Role;

/// Which term's primary follows another node because a client said so. One a master, for all workers.
#[derive(Debug, Default)]
pub(crate) struct ByHand(AtomicU64);

// === impl ByHand ===

impl ByHand {
    /// `node` has said OK to that.
    pub(crate) fn note(&self, node: &NodeKey, told: Role) {
        match (told, node.term) {
            (Role::Follow, Some(term)) => self.0.store(term.0, Ordering::Relaxed),
            (Role::Lead, Some(_)) => self.forget(),
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
