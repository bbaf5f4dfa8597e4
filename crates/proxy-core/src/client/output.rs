//! How much waits for a client to take it, and behind that.

use std::task::Context;

use super::{Client, State};
use crate::limits;
use crate::memory::Memory;

impl Client {
    /// So much waits for the client, `spare` bytes past its share of what is left of memory, that whoever produces the
    /// reply at `seq` must pause. What came before its turn counts as long as that reply is one of those, and so do the
    /// `begun` bytes of it. Wakes `cx` when that has changed.
    pub(super) fn is_stalled(
        &self,
        (seq, begun): (u64, usize),
        cx: &Context<'_>,
        memory: &Memory,
        spare: usize,
    ) -> bool {
        let state = &mut *self.state.borrow_mut();
        let early = match &state.rare {
            None if begun == 0 => 0,
            _ => state.early_bytes(seq, begun),
        };
        let unread = state.output.len() + early;
        let stalled = unread >= limits::SHED_BYTES && unread >= memory.share() + spare && state.io.is_some();
        if stalled {
            let feeders = &mut state.rare_mut().feeders;
            if !feeders.iter().any(|feeder| feeder.will_wake(cx.waker())) {
                feeders.push(cx.waker().clone());
            }
        }
        stalled
    }

    /// It has taken so much that it may be sent more, however short memory is.
    pub(crate) fn has_read_up(&self) -> bool {
        self.state.borrow().output.len() < limits::SHED_BYTES
    }

    /// Bytes waiting for the socket.
    #[must_use]
    pub(crate) fn output_bytes(&self) -> usize {
        self.state.borrow().output.len()
    }

    /// Bytes that would be gone with it: of replies that it has not taken, those that came before their turn among them,
    /// and of requests that wait behind those, or behind a blocked one.
    #[must_use]
    pub(crate) fn hoarded_bytes(&self) -> usize {
        self.state.borrow().hoarded_bytes()
    }
}

impl State {
    /// What waits for an earlier reply, where the one at `seq` does, too, and `begun` bytes of it are here.
    #[cold]
    fn early_bytes(&self, seq: u64, begun: usize) -> usize {
        match self.first_returned() {
            // What is to be sent again goes only once all others have come.
            Some(returned) if returned < seq => 0,
            _ if seq == self.head => 0,
            _ => begun + self.parked_bytes(),
        }
    }

    pub(super) fn hoarded_bytes(&self) -> usize {
        self.output.len() + self.parked_bytes() + self.kept_bytes()
    }
}
