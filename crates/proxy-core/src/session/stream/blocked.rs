//! A blocking command of a session that streams: its node lets go of it when the primary moves, and it is sent again
//! to the next. Only the node's own word proves that nothing was popped.

use std::rc::Rc;

use bytes::Bytes;
use resp_codec::{Refusal, ReplyKind, refusal};
use tokio::time::{Instant, timeout_at};

use super::state::{Fate, Pending, Stream};
use crate::backend::Backend;
use crate::backend::conn::Arrival;
use crate::backend::lease::Lease;
use crate::client::face::Blocked;
use crate::roster::Way;
use crate::session::rearm::{self, UNBLOCKED_BY_DEMOTION};
use crate::session::{Close, Session};

impl Session {
    /// Whether the node is to let go of a blocked command now: it is the primary no longer, or not for long.
    pub(super) fn is_to_let_go(&self, stream: &Stream, backend: &Backend) -> bool {
        let fleet = &self.door.fleet;
        stream.is_blocked() && !(fleet.is_serving() && fleet.is_primary(&backend.link().node))
    }

    /// Where the command in front waits, if it does: CLIENT UNBLOCK of others names the client, the node knows its
    /// connection.
    pub(super) fn show_blocked(&self, stream: &Stream, lease: &mut Lease, backend: &Rc<Backend>) {
        let id = stream.is_blocked().then(|| lease.conn().id()).flatten();
        let blocked = id.map(|id| Blocked {
            backend: Rc::clone(backend),
            id,
        });
        let mut face = self.client.face_mut();
        if blocked.is_some() || face.blocked().is_some() {
            face.doing().blocked = blocked;
        }
    }

    /// CLIENT UNBLOCK over a connection of its own, and the blocked command's answer: what it has popped, if it came
    /// first. Whatever the node does not say in time is left to the rest of the stay.
    pub(super) async fn let_go_streamed(
        &mut self,
        stream: &mut Stream,
        lease: &mut Lease,
        backend: &Rc<Backend>,
    ) -> Result<(), Close> {
        let Some(id) = lease.conn().id() else {
            return Ok(());
        };
        stream.let_go();
        let until = Instant::now() + self.door.worker.settings.get().node_timeout;
        let profile = self.profile.clone();
        let unblocked = tokio::select! {
            biased;
            close = self.broken() => return Err(close),
            unblocked = backend.unblock(id, &profile, Way::Error) => unblocked,
        };
        while unblocked.is_some() && stream.is_let_go() {
            let whole = stream.whole_bytes().max(self.whole_bytes());
            let arrival = tokio::select! {
                biased;
                close = self.broken() => return Err(close),
                arrival = timeout_at(until, lease.conn().arrival(whole)) => arrival,
            };
            let Ok(Ok(arrival)) = arrival else { break };
            if !self.believes(stream, backend, &arrival) {
                break;
            }
            self.pass_on(stream, arrival).await?;
        }
        Ok(())
    }

    /// A former primary may have acted after the switch, on data that nobody keeps: only that it did nothing is believed
    /// of it, and what it was told to tell.
    pub(super) fn believes(&self, stream: &Stream, backend: &Backend, arrival: &Arrival) -> bool {
        let harmless = match arrival {
            Arrival::Frame(kind, frame) => *kind == ReplyKind::Push || stream.lets_go(frame),
            Arrival::Part(_) => false,
        };
        stream.pending.is_empty() || harmless || self.door.fleet.is_primary(&backend.link().node)
    }
}

// === impl Stream ===

impl Stream {
    /// The command in front waits on the node for somebody to write.
    pub(super) fn is_blocked(&self) -> bool {
        self.waiting(Fate::Sent)
    }

    /// The same, and the node was told to let go of it.
    pub(super) fn is_let_go(&self) -> bool {
        self.waiting(Fate::LetGo)
    }

    fn waiting(&self, fate: Fate) -> bool {
        let in_front = self.pending.front();
        in_front.is_some_and(|front| front.fate == fate && front.command.may_block())
            && !self.transaction.is_open()
    }

    /// Nothing is sent behind a blocking command: where it is sent again, all behind it must be, too.
    pub(super) fn waits_behind_blocked(&self) -> bool {
        let last = self.pending.back();
        last.is_some_and(|last| matches!(last.fate, Fate::Sent | Fate::LetGo) && last.command.may_block())
    }

    fn let_go(&mut self) {
        if let Some(front) = self.pending.front_mut() {
            front.fate = Fate::LetGo;
        }
    }

    /// The node says that it has let go of the command in front, and that this is nobody else's doing.
    fn lets_go(&self, frame: &[u8]) -> bool {
        let ours = self.is_let_go() || (self.is_blocked() && frame.starts_with(UNBLOCKED_BY_DEMOTION));
        ours && refusal(frame) == Some(Refusal::Unblocked)
    }

    /// If the node has let go of the command in front, it waits for the next.
    pub(super) fn arms_again(&mut self, frame: &[u8]) -> bool {
        if !self.lets_go(frame) {
            return false;
        }
        if let Some(mut front) = self.take_pending() {
            front.fate = Fate::Unsent;
            self.outbox.push_front(front);
        }
        true
    }
}

// === impl Pending ===

impl Pending {
    /// The bytes that arm a blocking command: the second time it has only what is left of its timeout.
    pub(super) fn armed(&mut self, command: Bytes) -> Bytes {
        if !self.command.may_block() {
            return command;
        }
        match self.since {
            Some(since) => rearm::with_timeout_left(&self.command, since.elapsed()),
            None => {
                self.since = Some(Instant::now());
                command
            }
        }
    }
}
