//! How much waits for a client to take it.

use std::task::Context;

use super::Client;
use crate::limits;
use crate::memory::Memory;

impl Client {
    /// So much output waits, `spare` bytes past its share of what is left of memory, that whoever produces it must pause.
    /// Wakes `cx` when it has fallen.
    pub(crate) fn is_stalled(&self, cx: &Context<'_>, memory: &Memory, spare: usize) -> bool {
        let state = &mut *self.state.borrow_mut();
        let unread = state.output.len();
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

    /// Bytes of replies that it has not taken, those that came before their turn among them.
    #[must_use]
    pub(crate) fn unread_bytes(&self) -> usize {
        let state = self.state.borrow();
        let parked = state.rare.iter().flat_map(|rare| &rare.parked);
        state.output.len() + parked.map(|(_, reply)| reply.len()).sum::<usize>()
    }
}
