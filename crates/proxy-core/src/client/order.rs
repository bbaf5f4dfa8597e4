//! What the worker, or another client, wants of a session.

use std::future::poll_fn;
use std::task::Poll;

use super::Client;
use crate::metrics::CloseReason;

/// What the worker wants of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Take a connection of its own, once it is at rest: another client has invalidations sent to it.
    Stream,
    /// Close at the next request boundary.
    Drain,
    /// Leave for another process at the next request boundary.
    Leave,
    /// Close now.
    Close(CloseReason),
}

impl Client {
    /// What the worker wants of this session.
    #[inline]
    #[must_use]
    pub(crate) fn order(&self) -> Option<Order> {
        self.state.borrow().order
    }

    /// Its session ends as soon as it can.
    #[must_use]
    pub(crate) fn must_go(&self) -> bool {
        matches!(self.order(), Some(Order::Close(_)))
    }

    /// Tells the session what the worker wants. An order to close now outranks a drain, and that all else.
    pub(crate) fn give_order(&self, order: Order) {
        let state = &mut *self.state.borrow_mut();
        let outranked = match state.order {
            Some(Order::Close(_)) => true,
            Some(Order::Drain) => order == Order::Stream,
            Some(Order::Stream | Order::Leave) | None => false,
        };
        if !outranked {
            state.order = Some(order);
        }
        state.wake();
    }

    /// Ends once the session has this order; nobody but its own task may wait for it.
    pub(crate) async fn ordered(&self, order: Order) {
        poll_fn(|cx| {
            self.register(cx);
            if self.order() == Some(order) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    /// It has a connection of its own, or had one: nothing is left of that order.
    pub(crate) fn note_streamed(&self) {
        let order = &mut self.state.borrow_mut().order;
        order.take_if(|order| *order == Order::Stream);
    }
}
