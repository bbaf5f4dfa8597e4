//! What the data plane tells the watcher: "this looks stale". Never a fact, only a reason to look.

use tokio::sync::mpsc;

use crate::topology::{Epoch, HostPort};

/// How many hints may wait; more are dropped, since one is as good as a hundred.
const HINTS_WAITING: usize = 64;

/// What looked wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspicion {
    /// A connection broke. Any CLIENT KILL does that, so this alone holds nothing.
    ConnectionLost,
    /// A redial was refused or timed out.
    DialFailed,
    /// The node did not answer within `--node-timeout`, nor did a probe on a fresh connection.
    Silent,
    /// The primary answered READONLY: it has been demoted.
    Demoted,
}

/// One suspicion about one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The node, as the topology names it.
    pub node: HostPort,
    /// The term of the primary it was seen as; `None` for a replica.
    pub term: Option<Epoch>,
    /// What looked wrong.
    pub suspicion: Suspicion,
}

/// Where the data plane drops its hints. Cheap to clone; never blocks.
#[derive(Clone, Debug)]
pub struct HintSender(mpsc::Sender<Hint>);

/// The watcher's end.
pub type HintReceiver = mpsc::Receiver<Hint>;

/// A bounded pair.
#[must_use]
pub fn hints() -> (HintSender, HintReceiver) {
    let (sender, receiver) = mpsc::channel(HINTS_WAITING);
    (HintSender(sender), receiver)
}

impl HintSender {
    /// Drops the hint where the watcher has enough to look at already.
    pub fn send(&self, hint: Hint) {
        let _ = self.0.try_send(hint);
    }
}
