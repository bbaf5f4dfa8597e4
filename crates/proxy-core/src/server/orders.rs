//! What other workers, and the sessions of this one, want of it.

use std::rc::Rc;

use tokio::time::Instant;

use super::Running;
use crate::backend::fleet::Fleet;
use crate::client::face::Blocked;
use crate::client::{Client, Order};
use crate::limits;
use crate::metrics::CloseReason;
use crate::roster::{Filter, Message, Selection};
use crate::settings::{ReadPolicy, Settings};

impl Running {
    /// Does what another worker, or a session of this one, wants.
    pub(super) fn take(self: &Rc<Self>, message: Message) {
        // Whoever has asked and is gone needs no answer.
        match message {
            Message::Adopt(adopt) => match adopt.state {
                None => self.admit(adopt.accepted, adopt.listener),
                Some(state) => self.readmit(adopt.accepted, adopt.listener, *state),
            },
            Message::Leave(departures, answer) => {
                self.open_passage(departures);
                let _ = answer.try_send(());
            }
            Message::List(filter, fields, answer) => {
                let now = Instant::now();
                let lines = self
                    .meant(&filter)
                    .iter()
                    .map(|client| (client.face().id, client.line(&fields, now)))
                    .collect();
                let _ = answer.try_send(lines);
            }
            Message::Count(upstream, answer) => {
                let _ = answer.try_send(self.meant(&Filter::all(upstream)).len());
            }
            Message::Kill(filter, answer) => {
                let meant = self.meant(&filter);
                for client in &meant {
                    client.give_order(Order::Close(CloseReason::Killed));
                }
                let _ = answer.try_send(meant.len());
            }
            Message::Pause(upstream, pause, answer) => {
                let fleet = Rc::clone(self.fleet(upstream));
                crate::task::spawn(async move {
                    fleet.pause(pause).await;
                    let _ = answer.try_send(());
                });
            }
            Message::Pools(upstream, answer) => {
                let _ = answer.try_send(self.fleet(upstream).lines(self.number));
            }
            Message::Reconnect(upstream, answer) => {
                self.fleet(upstream).reconnect();
                let _ = answer.try_send(());
            }
            Message::Reload(settings, reads, answer) => {
                self.reload(&settings, &reads);
                let _ = answer.try_send(());
            }
            Message::Shed(bytes) => self.shed(bytes),
            Message::Summon(upstream, id, answer) => {
                let client = self.named(upstream, id);
                if let Some(client) = &client {
                    client.give_order(Order::Stream);
                }
                let _ = answer.try_send(client.is_some());
            }
            Message::Unblock(unblock, answer) => {
                let client = self.named(unblock.upstream, unblock.id);
                if let Some(Blocked { backend, id }) = client.and_then(|client| client.face().blocked()) {
                    crate::task::spawn(async move {
                        let unblocked = backend.unblock(id, &unblock.asker, unblock.way).await;
                        let _ = answer.try_send(unblocked == Some(true));
                    });
                }
            }
        }
    }

    /// Closes those who have the most unread output and kept input, until `bytes` of it are gone.
    fn shed(&self, bytes: usize) {
        let clients = self.clients.borrow();
        let mut hoards: Vec<_> = clients
            .iter()
            .filter(|(_, client)| !client.must_go())
            .map(|(_, client)| (client.hoarded_bytes(), client))
            .filter(|(hoarded, _)| *hoarded >= limits::SHED_BYTES)
            .collect();
        hoards.sort_by_key(|(hoarded, _)| std::cmp::Reverse(*hoarded));
        let mut gone = 0;
        for (hoarded, client) in hoards {
            if gone >= bytes {
                break;
            }
            gone += hoarded;
            client.give_order(Order::Close(CloseReason::Memory));
        }
    }

    fn fleet(&self, upstream: usize) -> &Rc<Fleet> {
        self.fleets.get(upstream).expect("one fleet an upstream")
    }

    /// The clients of this worker that `filter` holds, but for those on their way out.
    fn meant(&self, filter: &Filter) -> Vec<Rc<Client>> {
        let now = Instant::now();
        let clients = self.clients.borrow();
        let meant = clients.iter().map(|(_, client)| client);
        meant
            .filter(|client| !client.must_go() && filter.holds(client, now))
            .cloned()
            .collect()
    }

    /// The one with this CLIENT ID.
    fn named(&self, upstream: usize, id: u64) -> Option<Rc<Client>> {
        let filter = Filter::all(upstream).with(Selection::Ids(vec![id]));
        self.meant(&filter).into_iter().next()
    }

    /// Sessions see it at their next batch, what is made from now on is made by it.
    fn reload(&self, settings: &Settings, reads: &[ReadPolicy]) {
        self.state.settings.replace(settings.clone());
        for (door, reads) in self.doors.iter().zip(reads) {
            door.reads.set(*reads);
        }
        for fleet in &self.fleets {
            fleet.renew();
        }
        for (_, client) in self.clients.borrow().iter() {
            if !settings.entry.users.keep(client.face().alias.as_deref()) {
                client.give_order(Order::Close(CloseReason::Revoked));
            }
        }
    }
}
