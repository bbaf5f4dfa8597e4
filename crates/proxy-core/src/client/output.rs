//! How much waits for a client to take it.

use std::task::Context;

use super::Client;
use crate::limits;

impl Client {
    /// So much output waits that whoever produces it must pause. Wakes `cx` when it has fallen.
    pub(crate) fn is_stalled(&self, cx: &Context<'_>) -> bool {
        let state = &mut *self.state.borrow_mut();
        let stalled = state.output.len() >= limits::OUTPUT_STALL_BYTES && state.io.is_some();
        if stalled {
            let feeders = &mut state.rare_mut().feeders;
            if !feeders.iter().any(|feeder| feeder.will_wake(cx.waker())) {
                feeders.push(cx.waker().clone());
            }
        }
        stalled
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
