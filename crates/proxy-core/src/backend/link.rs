//! What all connections of one worker to one node share.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use resp_codec::{Class, Refusal, refusal};
use sentinel_watcher::{Credentials, Dial, Epoch, Hint, HintSender, HostPort, Suspicion};
use tokio::time::Instant;

use crate::backend::by_hand::ByHand;
use crate::backend::conn::{Conn, ConnectError, Counted};
use crate::backend::learned::Learned;
use crate::backend::profile::Profile;
use crate::backend::scripts::Digest;
use crate::client::Shape;
use crate::failover::Timeline;
use crate::limits;
use crate::live::Live;
use crate::lookout::Lookout;
use crate::memory::Memory;
use crate::metrics::{Cells, ConnectionKind, Counter, NodeCells, Outcome};
use crate::settings::ClientAuth;

/// Which node, in which role.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeKey {
    /// Where it listens.
    pub address: HostPort,
    /// The term of a primary; `None` for a replica. A primary that comes back is another node.
    pub term: Option<Epoch>,
}

/// What all connections of one worker to one node share.
pub(crate) struct Link {
    /// Which master the node belongs to.
    pub upstream: usize,
    /// The node.
    pub node: NodeKey,
    pub(crate) settings: Rc<Live>,
    pub(crate) dial: Arc<dyn Dial>,
    pub(crate) hints: HintSender,
    pub(crate) cells: Arc<Cells>,
    pub(crate) node_cells: Arc<NodeCells>,
    pub(crate) scratch: Rc<RefCell<Box<[u8]>>>,
    pub(crate) memory: Arc<Memory>,
    /// Credentials that the primary takes no longer; their sessions end at the next pulse.
    pub(crate) revoked: Rc<RefCell<BTreeSet<Credentials>>>,
    /// Until when a new primary's lack of replicas is waited out.
    pub(crate) settling_until: Rc<Cell<Option<Instant>>>,
    /// Whether the primary follows another node because a client said so.
    pub(crate) by_hand: Arc<ByHand>,
    pub(crate) timeline: Arc<Timeline>,
    /// A new primary that has not answered a write yet.
    pub(crate) unwritten: Cell<bool>,
    /// Digests that need no more looking after here: the node was told, or nobody knows their scripts.
    pub(crate) scripts: RefCell<BTreeSet<Digest>>,
    /// What the node has said of commands that the table does not know.
    pub(crate) learned: Learned,
    /// Its answer to CLIENT INFO. Of interest are the names in it.
    pub(crate) client_line: RefCell<Option<Bytes>>,
    /// Who looks at commands, if anybody does.
    pub(crate) lookout: Option<Rc<Lookout>>,
}

// === impl Link ===

impl Link {
    /// A fresh connection of `kind` in `profile`.
    pub(crate) async fn connect(
        &self,
        profile: &Profile,
        kind: ConnectionKind,
    ) -> Result<Conn, ConnectError> {
        let counted = Counted::new(&self.node_cells, &self.cells, kind);
        Conn::open(
            &*self.dial,
            &self.node.address,
            &self.settings.present(profile),
            self.settings.get().connect_timeout,
            counted,
        )
        .await
    }

    /// The node has refused `profile` with `reply`. Whoever had proven these credentials to a primary loses the session.
    pub(crate) fn revoke(&self, profile: &Profile, reply: &[u8]) {
        let proven = self.node.term.is_some() && self.settings.get().client_auth == ClientAuth::Passthrough;
        if proven && refusal(reply) == Some(Refusal::WrongPass) {
            self.revoked.borrow_mut().extend(profile.credentials.clone());
        }
    }

    /// Tells the watcher that something looks wrong.
    pub(crate) fn hint(&self, suspicion: Suspicion) {
        self.hints.send(Hint {
            node: self.node.address.clone(),
            term: self.node.term,
            suspicion,
        });
    }

    /// What a node refuses with READONLY tells that it is the primary no longer.
    pub(crate) fn heed(&self, refusal: Option<Refusal>) {
        if refusal == Some(Refusal::Readonly) {
            self.hint(Suspicion::Demoted);
        }
    }

    /// Counts a command that has been answered.
    #[inline]
    pub(crate) fn account(&self, shape: Shape, class: Class, outcome: Outcome, elapsed: Duration) {
        self.cells.command(shape.command, outcome);
        self.cells.command_durations(class, elapsed, 1);
        if shape.writes && outcome == Outcome::Ok && self.unwritten.get() {
            self.note_write(Instant::now());
        }
    }

    /// A write has been answered: the first one of a primary belongs to the timeline.
    #[inline]
    pub(crate) fn note_write(&self, at: Instant) {
        if self.unwritten.get() {
            self.unwritten.set(false);
            if let Some(term) = self.node.term {
                self.timeline.wrote(term, at);
            }
        }
    }

    /// Counts a command whose outcome nobody knows.
    pub(crate) fn account_unknown(&self, shape: Shape) {
        self.cells.command(shape.command, Outcome::Unknown);
        self.cells.add(
            Counter::UnknownOutcomes {
                upstream: self.upstream,
            },
            1,
        );
    }

    /// A script is about to be asked for by its digest. True: for the first time here.
    pub(crate) fn note_script(&self, digest: Digest) -> bool {
        let scripts = &mut *self.scripts.borrow_mut();
        if scripts.len() >= limits::SCRIPTS_KNOWN {
            scripts.clear();
        }
        scripts.insert(digest)
    }

    /// The node's entry check refused a command for a reason that passes: `error` is the whole error reply.
    pub(crate) fn may_wait_out(&self, refusal: Refusal, error: &[u8]) -> bool {
        if self.by_hand.holds(&self.node) {
            return false;
        }
        match refusal {
            Refusal::Readonly | Refusal::Loading | Refusal::MasterDown => true,
            // A new primary has no replicas for a moment; an old one that has none is the operator's affair.
            Refusal::NoReplicas => self
                .settling_until
                .get()
                .is_some_and(|until| Instant::now() < until),
            // EXEC itself was refused: the transaction is gone from the node, and nothing of it was executed.
            Refusal::ExecAbort => {
                let says = |word: &[u8]| error.windows(word.len()).any(|window| window == word);
                says(b"READONLY")
                    || says(b"LOADING")
                    || says(b"MASTERDOWN")
                    || (says(b"NOREPLICAS") && self.may_wait_out(Refusal::NoReplicas, error))
            }
            _ => false,
        }
    }
}
