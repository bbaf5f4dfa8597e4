//! What a node postpones because a client said so, and what must be over by then.

use tokio::time::Instant;

use super::{Fleet, key_of};

/// A pause that a client has asked of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pause {
    pub(crate) until: Instant,
    pub(crate) of: Postponed,
}

/// What a node postpones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Postponed {
    /// What may reach the replicas.
    Writes,
    Everything,
}

// === impl Fleet ===

impl Fleet {
    /// What the primary postpones now.
    pub(crate) fn paused(&self) -> Option<Pause> {
        let pause = self.paused.get()?;
        if pause.until > Instant::now() {
            return Some(pause);
        }
        self.paused.set(None);
        None
    }

    /// The primary is about to postpone this, or postpones nothing any more. Once this ends, what it may postpone does
    /// not travel on a shared connection any more.
    pub(crate) async fn pause(&self, pause: Option<Pause>) {
        self.paused.set(pause);
        if pause.is_none() {
            return;
        }
        let primary = self.topology().shard(0).primary.as_ref().map(key_of);
        let backends: Vec<_> = {
            let nodes = self.nodes.borrow();
            let node = primary.and_then(|key| nodes.get(&key));
            node.map(|node| node.backends.values().cloned().collect())
                .unwrap_or_default()
        };
        // The answer to a question means that all before it are answered.
        let drained = backends.iter().map(|backend| backend.drained());
        let drained = futures_util::future::join_all(drained);
        let _ = tokio::time::timeout(self.parts.settings.get().node_timeout, drained).await;
    }
}
