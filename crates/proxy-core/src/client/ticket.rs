//! A command's place in its session's reply queue, as a mux holds it.

use std::cell::Ref;
use std::rc::Rc;
use std::task::Context;

use bytes::Bytes;
use resp_codec::CommandId;

use super::Client;
use super::face::Face;
use crate::limits;
use crate::memory::Memory;
use crate::metrics::CloseReason;

/// A command's place in its session's reply queue. Exactly one of [`Self::deliver`], [`Self::give_back`] ends it.
#[must_use = "a ticket that is dropped leaves its client waiting for ever"]
pub(crate) struct Ticket {
    pub(super) client: Rc<Client>,
    pub(super) seq: u64,
    /// Consecutive places that this ticket stands for.
    pub(super) count: u64,
    pub(super) bytes: usize,
    /// It stands for a command that may have written.
    pub(super) wrote: bool,
}

/// A command that came back unanswered.
pub(crate) struct Returned {
    /// Its place.
    pub seq: u64,
    /// Its frame, or the frames of its MULTI block.
    pub frame: Bytes,
    /// What it is.
    pub shape: Shape,
    /// What the node has said of it already.
    pub before: Before,
}

/// What a node has said of a command that came back. It is the answer after all, if the command comes too late to be
/// sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// Nothing.
    Unanswered,
    /// Nothing that its client has heard: it has too much unread, and others waited behind it.
    PutOff,
    /// It refused it at the entry.
    Refused(Bytes),
    /// It answered it, out of turn: an earlier command of the session had been refused.
    Answered(Bytes),
}

/// What a mux must know of a command in order to answer, account and resend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Row of the command table.
    pub command: CommandId,
    /// Reply frames it is answered with: 1, or one for each command of a MULTI block.
    pub replies: u32,
    /// `readonly` and no script: may travel twice.
    pub read: bool,
    /// May change what other commands see; all but reads and a few that concern the connection or the server.
    pub writes: bool,
    /// The node's entry check alone can have answered a refusal: no script, no module, no EXEC, no DEBUG.
    pub refusable: bool,
    /// How often a lost connection already made it travel again.
    pub resends: u8,
}

// === impl Ticket ===

impl Ticket {
    /// What tells its client from every other of this worker, while the ticket lives.
    #[must_use]
    pub(crate) fn client_address(&self) -> usize {
        Rc::as_ptr(&self.client).addr()
    }

    /// What others may see of its client.
    #[must_use]
    pub(crate) fn face(&self) -> Ref<'_, Face> {
        self.client.face()
    }

    /// Both are the same client's.
    #[must_use]
    pub(crate) fn is_of(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.client, &other.client)
    }

    /// `next` stands right behind this one.
    #[must_use]
    pub(crate) fn is_followed_by(&self, next: &Self) -> bool {
        Rc::ptr_eq(&self.client, &next.client) && self.seq + self.count == next.seq
    }

    /// Takes in a ticket that [follows](Self::is_followed_by): both are then answered together.
    pub(crate) fn absorb(&mut self, next: Self) {
        debug_assert!(self.is_followed_by(&next), "a gap between two places");
        self.count += next.count;
        self.bytes += next.bytes;
        self.wrote |= next.wrote;
    }

    /// How many consecutive places it stands for.
    #[must_use]
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Parts with the first `count` places of more.
    pub(crate) fn split(&mut self, count: u64) -> Self {
        debug_assert!(count < self.count, "something must stay");
        let bytes = self.bytes * count as usize / self.count as usize;
        let first = Self {
            client: Rc::clone(&self.client),
            seq: self.seq,
            count,
            bytes,
            wrote: self.wrote,
        };
        self.seq += count;
        self.count -= count;
        self.bytes -= bytes;
        first
    }

    /// What it stands for may have written.
    #[must_use]
    pub(crate) fn wrote(&self) -> bool {
        self.wrote
    }

    /// What it stands for may have written: no earlier command may be sent again any more.
    pub(crate) fn note_write(&mut self) {
        self.wrote = true;
    }

    /// An earlier command of this client is to be sent again, so this one must not overtake it.
    #[must_use]
    pub(crate) fn is_behind_returned(&self) -> bool {
        self.client
            .state
            .borrow()
            .first_returned()
            .is_some_and(|first| first < self.seq)
    }

    /// All earlier commands of this client have been answered.
    #[must_use]
    pub(crate) fn is_next(&self) -> bool {
        self.client.state.borrow().head == self.seq
    }

    /// Too much waits for this client to have more of its reply, of which `begun` bytes are here. Wakes `cx` when that has
    /// changed.
    #[must_use]
    pub(crate) fn is_stalled(&self, begun: usize, cx: &Context<'_>, memory: &Memory, spare: usize) -> bool {
        self.client.is_stalled((self.seq, begun), cx, memory, spare)
    }

    /// Bytes this client has taken so far; how a slow client is told from a stuck one.
    #[must_use]
    pub(crate) fn taken(&self) -> u64 {
        self.client.taken()
    }

    /// The client cannot be served any further: its session ends.
    pub(crate) fn break_off(&self, reason: CloseReason) {
        self.client.break_off(reason);
    }

    /// Its reply is a large one.
    pub(crate) fn note_large(&self) {
        self.client.reads_large.set(limits::LARGE_READER_BATCHES);
    }

    /// Passes on a part of the reply. Only when [`Self::is_next`].
    pub(crate) fn part(&self, bytes: &[u8]) {
        self.parts(b"", bytes);
    }

    /// The same of two that follow each other.
    pub(crate) fn parts(&self, first: &[u8], second: &[u8]) {
        let state = &mut *self.client.state.borrow_mut();
        // Of a client that is gone, later replies are counted as they come.
        debug_assert!(state.head == self.seq || state.io.is_none(), "a part out of turn");
        state.put_both(first, second);
    }

    /// Answers the command, whose reply came in pieces: what was kept of it, and its end.
    pub(crate) fn deliver_both(self, kept: &[u8], end: &[u8]) {
        if kept.is_empty() {
            self.deliver(end);
        } else if self.is_next() {
            self.parts(kept, end);
            self.deliver(b"");
        } else {
            self.deliver(&[kept, end].concat());
        }
    }

    /// Answers the commands: `replies` is their complete replies, or what is left of them after [`Self::part`].
    pub(crate) fn deliver(self, replies: &[u8]) {
        let state = &mut *self.client.state.borrow_mut();
        state.landed(self.count, self.bytes);
        if self.wrote {
            state.wrote_before = state.wrote_before.max(self.seq + self.count);
        }
        state.deliver(self.seq, self.count, replies);
    }

    /// Gives the command back to its session, to be sent again.
    pub(crate) fn give_back(self, frame: Bytes, shape: Shape, before: Before) {
        debug_assert_eq!(self.count, 1, "a run is answered whole");
        let state = &mut *self.client.state.borrow_mut();
        state.landed(self.count, self.bytes);
        let returned = &mut state.rare_mut().returned;
        let at = returned.partition_point(|other| other.seq < self.seq);
        returned.insert(
            at,
            Returned {
                seq: self.seq,
                frame,
                shape,
                before,
            },
        );
        state.wake_feeders();
        state.wake();
    }
}
