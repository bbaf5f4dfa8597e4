//! The end of a worker in good order: no client is sent away while it waits for an answer, and not all at once.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;
use tokio::time::{Instant, Interval};

use super::Running;
use crate::client::Order;
use crate::limits;
use crate::metrics::CloseReason;
use crate::roster::Message;

impl Running {
    /// Waits until every client is gone: slice by slice they are told to go, and the last ones are sent away at
    /// `--drain-timeout`.
    pub(super) async fn drain(self: &Rc<Self>, inbox: &mut mpsc::Receiver<Message>, pulse: &mut Interval) {
        let began = Instant::now();
        let slice = (self.clients.borrow().len() / limits::DRAIN_SLICES).max(limits::DRAIN_SLICE_CLIENTS);
        let mut told = 0;
        self.tell(&mut told, slice);
        while !self.clients.borrow().is_empty() {
            let deadline = began + self.state.settings.get().drain_timeout;
            tokio::select! {
                biased;
                () = self.emptied.notified() => {}
                Some(message) = inbox.recv() => self.take_last(message),
                () = tokio::time::sleep_until(deadline) => {
                    self.order(Order::Close(CloseReason::Drain));
                    inbox.close();
                    self.emptied.notified().await;
                }
                _ = pulse.tick() => {
                    self.pulse();
                    self.tell(&mut told, slice);
                }
            }
        }
    }

    /// Tells the next `slice` clients to go, of the places from `told` on.
    fn tell(&self, told: &mut usize, slice: usize) {
        let clients = self.clients.borrow();
        let next = clients.iter().filter(|(key, _)| key >= told).take(slice);
        let last = next.map(|(key, client)| {
            client.give_order(Order::Drain);
            key
        });
        *told = last.last().map_or(*told, |last| last + 1);
    }

    /// The same as [`Self::take`], but for clients: their like is being sent away.
    fn take_last(self: &Rc<Self>, message: Message) {
        if let Message::Adopt(_) = message {
            self.load().fetch_sub(1, Ordering::Relaxed);
        } else {
            self.take(message);
        }
    }

    fn order(&self, order: Order) {
        for (_, client) in self.clients.borrow().iter() {
            client.give_order(order);
        }
    }
}
