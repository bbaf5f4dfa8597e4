//! What the node of a streaming session refuses at its entry: it waits, and is sent again to whoever is primary then.

use resp_codec::{ReplyKind, refusal};

use super::state::{Fate, LOSSES_BORNE, Stream};
use crate::backend::Backend;
use crate::backend::conn::Arrival;
use crate::session::{Session, shape_of};

impl Session {
    /// The node refused the only command on its way, for a reason that passes: its connection serves no longer.
    pub(super) fn was_refused(&self, stream: &mut Stream, backend: &Backend, arrival: &Arrival) -> bool {
        let Arrival::Frame(ReplyKind::Error, frame) = arrival else {
            return false;
        };
        let link = backend.link();
        let passing = refusal(frame).filter(|refusal| link.may_wait_out(*refusal, frame));
        if passing.is_none() || !stream.takes_back() {
            return false;
        }
        link.heed(passing);
        true
    }
}

// === impl Stream ===

impl Stream {
    /// The command in front was not executed, and goes to the next node. Not if something was sent behind it: that may
    /// have been.
    fn takes_back(&mut self) -> bool {
        let alone = self.pending.len() == 1 && self.transaction.is_idle() && !self.is_within_answer();
        let front = self.pending.front_mut().filter(|front| {
            let borne = front.resends < LOSSES_BORNE;
            alone && borne && front.fate == Fate::Sent && shape_of(&front.command).refusable
        });
        front.map(|front| front.fate = Fate::Unsent).is_some()
    }
}
