//! WAIT of a streaming session: what it counts must cover all that the session has written, over whatever connection.

use bytes::Bytes;
use resp_codec::{Class, Command, ReplyKind};

use super::standing::is_monitors;
use super::state::{Fate, Stream, may_write};
use crate::backend::NodeKey;
use crate::backend::conn::Arrival;
use crate::backend::lease::Lease;
use crate::backend::profile::Resp;
use crate::route;
use crate::session::{Close, Session, rearm};

/// Whether the WAIT in front, if there is one, may be sent.
pub(super) enum Vouched {
    /// It may, or it has been answered.
    Now,
    /// There is none, or its turn has not come.
    NotYet,
    /// The connection is lost, or its node is no longer the primary.
    Lost,
}

impl Session {
    /// Has the connection's offset cover what the session has written, once all before the WAIT in front is answered.
    pub(super) async fn vouch(
        &mut self,
        stream: &mut Stream,
        lease: &mut Lease,
        node: &NodeKey,
    ) -> Result<Vouched, Close> {
        if !self.door.fleet.is_serving() || !stream.is_to_vouch() {
            return Ok(Vouched::NotYet);
        }
        let is_refused = self.profile.resp == Resp::Two && !stream.roll.is_empty();
        if self.wrote_at.is_none() || is_refused || stream.transaction.is_open() {
            stream.vouched = true;
            return Ok(Vouched::Now);
        }
        if self.wrote_at != node.term {
            // The primary that took this session's writes is gone: nobody can vouch for them.
            if let Some(wait) = stream.pop_unsent() {
                self.client.push(rearm::nobody(&wait));
            }
            return Ok(Vouched::Now);
        }
        let sent = self
            .while_primary(node, lease.conn().send(rearm::WAIT_MARK))
            .await?;
        if !matches!(sent, Some(Ok(()))) {
            return Ok(Vouched::Lost);
        }
        loop {
            let reply = self.while_primary(node, lease.conn().reply()).await?;
            let Some(Ok((kind, frame))) = reply else {
                return Ok(Vouched::Lost);
            };
            if stream.is_unasked(kind, &frame) {
                self.pass_on(stream, Arrival::Frame(kind, frame)).await?;
                continue;
            }
            if kind.is_error() {
                stream.pop_unsent();
                self.client.push(&frame);
            } else {
                stream.vouched = true;
            }
            return Ok(Vouched::Now);
        }
    }
}

// === impl Stream ===

impl Stream {
    /// A WAIT that would not cover what the session has written elsewhere.
    pub(super) fn is_unvouched(&self, command: &Command<Bytes>) -> bool {
        command.spec().class == Class::Wait && !self.vouched
    }

    /// It is in front, and everything before it is answered.
    fn is_to_vouch(&self) -> bool {
        let front = self.outbox.front().filter(|front| front.fate == Fate::Unsent);
        self.pending.is_empty() && front.is_some_and(|front| self.is_unvouched(&front.command))
    }

    /// It comes between a command and its answer.
    fn is_unasked(&self, kind: ReplyKind, frame: &[u8]) -> bool {
        kind == ReplyKind::Push || (self.standing.monitors() && is_monitors(frame))
    }

    /// A command is being sent.
    pub(super) fn note_sent(&mut self, command: &Command<Bytes>) {
        match command.spec().class {
            Class::Wait => self.vouched = false,
            Class::Transaction => self.wrote |= command.spec().name == "exec",
            _ => self.wrote |= may_write(command) && !route::is_inert(command.spec()),
        }
    }
}
