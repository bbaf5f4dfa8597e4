//! A streaming session's commands on their way to its node: what is at hand travels together.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;

use bytes::{Buf, Bytes, BytesMut};
use resp_codec::{Class, Command};

use super::redirect;
use super::state::{Fate, Pending, Stream, is_silent, waits_for_primary};
use super::vouch::Vouched;
use crate::backend::NodeKey;
use crate::backend::lease::Lease;
use crate::backend::profile::Resp;
use crate::door::Door;
use crate::limits;
use crate::session::clients::for_node;
use crate::session::{Close, Session};

const DISCARD: &[u8] = b"*1\r\n$7\r\nDISCARD\r\n";

impl Session {
    /// `next`, and what has come behind it: to be sent together. Nothing behind what may have to wait.
    pub(super) fn take_at_hand(&mut self, stream: &mut Stream, mut next: Command<Bytes>) {
        let mut bytes = 0;
        loop {
            bytes += next.frame().len();
            let is_last =
                next.may_block() || next.spec().class == Class::Wait || bytes >= limits::CHUNK_BYTES;
            self.take_streamed(stream, next);
            if is_last || stream.has_own_affairs() || !stream.has_room() || !self.door.fleet.is_serving() {
                return;
            }
            match self.request_at_hand() {
                Some(Ok(command)) if command.is_http() => {
                    // It is the end, and found again.
                    self.put_back(command.frame());
                    return;
                }
                Some(Ok(command)) => next = command,
                // What is malformed is found again.
                Some(Err(_)) | None => return,
            }
        }
    }

    /// The scripts that a streaming session is about to send, or to ask its node for by digest.
    async fn provide_streamed(&mut self, stream: &Stream, node: &NodeKey) -> Result<(), Close> {
        for command in stream
            .unsent()
            .filter(|command| command.spec().class == Class::Script)
        {
            self.note_script(command);
            let backend = self.door.fleet.primary(&self.profile);
            if let Some(backend) = backend.filter(|backend| backend.link().node == *node) {
                self.provide_scripts(&backend, command.frame()).await?;
            }
        }
        Ok(())
    }

    /// Sends what may be sent. False: the connection is lost, or the node is no longer the primary.
    pub(super) async fn send_streamed(
        &mut self,
        stream: &mut Stream,
        lease: &mut Lease,
        node: &NodeKey,
    ) -> Result<bool, Close> {
        self.tell_unserved(stream);
        self.provide_streamed(stream, node).await?;
        let door = Rc::clone(&self.door);
        loop {
            let sending = stream.send(lease, self.profile.resp, &door, node);
            let sent = self.while_primary(node, sending).await?;
            if std::mem::take(&mut stream.wrote) {
                self.wrote_at = node.term;
            }
            if !matches!(sent, Some(Ok(()))) {
                return Ok(false);
            }
            match self.vouch(stream, lease, node).await? {
                Vouched::Now => {}
                Vouched::NotYet => return Ok(true),
                Vouched::Lost => return Ok(false),
            }
        }
    }
}

// === impl Stream ===

impl Stream {
    /// More may be on its way than is.
    pub(super) fn has_room(&self) -> bool {
        let begins = self.pending.front().map_or(self.gathered, |front| front.begins);
        let waiting = (self.pending.len() + self.outbox.len()) as u64;
        waiting < limits::PIPELINE_DEPTH
            && self.gathered.saturating_sub(begins) < limits::PIPELINE_BYTES as u64
    }

    /// Sends what waits, small commands together. While the shard moves, what may write waits on, and all behind it.
    pub(super) async fn send(
        &mut self,
        lease: &mut Lease,
        resp: Resp,
        door: &Door,
        node: &NodeKey,
    ) -> io::Result<()> {
        let mut chunk = BytesMut::new();
        while self.may_send(door.fleet.is_serving()) {
            if let Some(client) = self.next().and_then(redirect::target) {
                self.write(lease, &mut chunk).await?;
                redirect::summon(client, door, node).await;
            }
            let mut next = self.outbox.pop_front().expect("just seen");
            if next.fate != Fate::Unsent {
                self.pending.push_back(next);
                continue;
            }
            if is_silent(&next.command) {
                if !self.pending.is_empty() {
                    // Only when all before it is answered is it known whether it is refused, or queued.
                    self.outbox.push_front(next);
                    break;
                }
                let refused = resp == Resp::Two && !self.roll.is_empty();
                if !refused && !self.transaction.is_open() {
                    continue;
                }
            }
            let mut frame = next.armed(for_node(&next.command));
            if next.command.spec().name == "client|tracking" {
                (frame, self.redirect) = redirect::translate(&next.command, &door.streams, node);
            }
            if next.command.spec().name == "exec" && self.transaction.is_broken() {
                if !self.pending.is_empty() {
                    // Only when all before it is answered is it known what this EXEC would execute.
                    self.outbox.push_front(next);
                    break;
                }
                self.instead = self.transaction.instead_of_exec(resp);
                if self.instead.is_some() {
                    frame = Bytes::from_static(DISCARD);
                }
            }
            next.fate = Fate::Sent;
            next.begins = self.gathered;
            self.gathered += frame.len() as u64;
            let class = next.command.spec().class;
            self.altered |= class != Class::Subscription && !class.is_shared();
            self.note_sent(&next.command);
            self.pending.push_back(next);
            if chunk.len() + frame.len() > limits::CHUNK_BYTES {
                self.write(lease, &mut chunk).await?;
            }
            if frame.len() > limits::CHUNK_BYTES {
                self.write(lease, &mut frame).await?;
            } else {
                chunk.extend_from_slice(&frame);
            }
        }
        self.write(lease, &mut chunk).await
    }

    /// Writes all of `bytes`, and knows at any time how far that may have come.
    async fn write(&mut self, lease: &mut Lease, bytes: &mut impl Buf) -> io::Result<()> {
        if !bytes.has_remaining() {
            return Ok(());
        }
        while bytes.has_remaining() {
            let sent = poll_fn(|cx| lease.conn().poll_send(cx, bytes.chunk())).await?;
            self.written += sent as u64;
            bytes.advance(sent);
        }
        poll_fn(|cx| lease.conn().poll_flush(cx)).await
    }

    /// What waits in front may be sent now.
    fn may_send(&self, is_serving: bool) -> bool {
        let waits = |next: &Pending| {
            let for_primary = !is_serving && waits_for_primary(&next.command);
            next.fate == Fate::Unsent && (for_primary || self.is_unvouched(&next.command))
        };
        let blocked = self.waits_for_answer() || self.transaction.is_unserved();
        !blocked && self.outbox.front().is_some_and(|next| !waits(next))
    }

    /// What the connection has taken no byte of was not sent.
    pub(super) fn take_back_unwritten(&mut self) {
        let written = self.written;
        let is_unwritten = |last: &mut Pending| last.fate == Fate::Sent && last.begins >= written;
        while let Some(mut unwritten) = self.pending.pop_back_if(is_unwritten) {
            unwritten.fate = Fate::Unsent;
            self.outbox.push_front(unwritten);
        }
        (self.gathered, self.written) = (0, 0);
    }
}
