//! What a newcomer has to pass before it has a session.
//!
//! ```text
//!   accepted --> open: PROXY header, TLS --> may it enter? --> session
//!                         \ too slow            \ told why not, and closed
//! ```

use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use sentinel_watcher::BoxIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

use super::Running;
use crate::backend::fleet::Grants;
use crate::client::Client;
use crate::client::face::Face;
use crate::crowd::Place;
use crate::door::{Door, Origin};
use crate::error::Error;
use crate::limits;
use crate::metrics::{Counter, Gauge, RefuseReason};
use crate::net::{Accepted, Address, NotOpened, Opened};
use crate::passage::Subscriptions;
use crate::session::Session;
use crate::settings::ClientAuth;

/// A client that has no session yet.
struct Newcomer {
    peer: Address,
    local: Address,
    descriptor: i32,
    listener: usize,
    origin: Origin,
    /// Counted among those of its address.
    place: Option<Place>,
}

/// Whether whoever comes from the network could do as they please.
enum Exposure {
    Guarded,
    Exposed,
    /// Only the nodes can tell, and none was asked yet.
    Unknown,
}

impl Running {
    /// Lets a client in, or tells it why not. It counts as a client already.
    pub(super) fn admit(self: &Rc<Self>, accepted: Accepted, listener: usize) {
        let mut newcomer = Newcomer {
            origin: origin(&accepted.peer),
            peer: accepted.peer,
            local: accepted.local,
            descriptor: accepted.descriptor,
            listener,
            place: None,
        };
        // Who comes through a load balancer is known only once that has said so.
        let judged = if self.state.memory.is_scarce() {
            Err(RefuseReason::Memory)
        } else if self.door(&newcomer).proxied {
            Ok(())
        } else {
            self.judge(&mut newcomer)
        };
        let settings = self.state.settings.get();
        let mut opening = accepted.socket.open(settings.entry.tcp_keepalive);
        match ((&mut opening).now_or_never(), judged) {
            (Some(Ok(opened)), Ok(())) => self.receive(opened, newcomer),
            (Some(Ok(opened)), Err(reason)) => self.turn_away(opened.io, &newcomer, reason),
            (Some(Err(refused)), _) => self.lose(&newcomer, &refused),
            // As on Redis: whoever finds no room does not get to shake hands, and hears nothing.
            (None, Err(reason)) => self.refuse(&newcomer, reason),
            (None, Ok(())) if self.is_full() => self.refuse(&newcomer, RefuseReason::MaxClients),
            (None, Ok(())) => {
                let running = Rc::clone(self);
                let patience = settings.entry.handshake_timeout;
                crate::task::spawn(async move {
                    match timeout(patience, opening).await {
                        Ok(Ok(opened)) => running.receive(opened, newcomer),
                        Ok(Err(refused)) => running.lose(&newcomer, &refused),
                        Err(_) => running.refuse(&newcomer, RefuseReason::Handshake),
                    }
                });
            }
        }
    }

    fn receive(self: &Rc<Self>, opened: Opened, mut newcomer: Newcomer) {
        if let Some([peer, local]) = opened.ends {
            newcomer.peer = peer.into();
            newcomer.local = local.into();
            // A load balancer elsewhere may say what it likes: nobody is on this machine by its word.
            if origin(&newcomer.peer) == Origin::Elsewhere {
                newcomer.origin = Origin::Elsewhere;
            }
        }
        if newcomer.place.is_none()
            && let Err(reason) = self.judge(&mut newcomer)
        {
            return self.turn_away(opened.io, &newcomer, reason);
        }
        if self.is_full() {
            return self.turn_away(opened.io, &newcomer, RefuseReason::MaxClients);
        }
        self.guard(opened.io, newcomer);
    }

    /// By its address.
    fn judge(&self, newcomer: &mut Newcomer) -> Result<(), RefuseReason> {
        let Some(address) = newcomer.peer.inet() else {
            return Ok(());
        };
        let entry = &self.state.settings.get().entry;
        if !entry.allows(address.ip()) {
            return Err(RefuseReason::Address);
        }
        newcomer.place = Some(self.shared.crowd.enter(address.ip(), entry)?);
        Ok(())
    }

    /// Lets nobody from the network in who could do as they please.
    fn guard(self: &Rc<Self>, io: BoxIo, newcomer: Newcomer) {
        let door = self.door(&newcomer);
        match self.exposure(door, newcomer.origin) {
            Exposure::Guarded => self.welcome(io, newcomer),
            Exposure::Exposed => self.turn_away(io, &newcomer, RefuseReason::Protected),
            Exposure::Unknown => {
                crate::task::spawn(Rc::clone(self).keep_waiting(io, newcomer));
            }
        }
    }

    /// Until the nodes have said whether they ask for passwords.
    async fn keep_waiting(self: Rc<Self>, io: BoxIo, newcomer: Newcomer) {
        let door = Rc::clone(self.door(&newcomer));
        let deadline = Instant::now() + door.fleet.hold_timeout();
        while door.fleet.grants() == Grants::Unknown {
            if Instant::now() >= deadline {
                return self.turn_away(io, &newcomer, RefuseReason::Unready);
            }
            sleep(Duration::from_millis(limits::PULSE_MS)).await;
        }
        self.guard(io, newcomer);
    }

    fn exposure(&self, door: &Door, origin: Origin) -> Exposure {
        let settings = self.state.settings.get();
        if origin == Origin::Here
            || door.encrypted
            || !settings.entry.protected_mode
            || settings.client_auth != ClientAuth::Passthrough
        {
            return Exposure::Guarded;
        }
        match door.fleet.grants() {
            Grants::Nothing => Exposure::Guarded,
            Grants::Something => Exposure::Exposed,
            Grants::Unknown => Exposure::Unknown,
        }
    }

    fn welcome(self: &Rc<Self>, io: BoxIo, newcomer: Newcomer) {
        if *self.shared.draining.borrow() {
            return self.refuse(&newcomer, RefuseReason::Unready);
        }
        let door = self.door(&newcomer);
        let Newcomer {
            peer,
            local,
            descriptor,
            listener,
            origin,
            place,
        } = newcomer;
        let cells = &self.state.cells;
        let id = self.shared.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let upstream = door.fleet.upstream();
        let profile = door.first_profile();
        let face = Face::new(id, upstream, (peer, local), descriptor, self.state.now(), profile);
        let client = Client::new(io, Arc::clone(cells), face);
        cells.add(Counter::ClientsAccepted { listener }, 1);
        let session = Session::new(Rc::clone(&client), Rc::clone(door), origin);
        self.serve(client, session, None, place);
    }

    /// Serves a client until its session ends. What it is subscribed to already comes first.
    pub(super) fn serve(
        self: &Rc<Self>,
        client: Rc<Client>,
        session: Session,
        subscriptions: Option<Box<Subscriptions>>,
        place: Option<Place>,
    ) {
        let key = self.clients.borrow_mut().insert(client);
        let listener = session.listener();
        self.state.cells.gauge_add(Gauge::Clients { listener }, 1);
        crate::task::spawn(Rc::clone(self).attend(session, subscriptions, place, key));
    }

    /// A client's task. The session lives in its block and nowhere else: it is most of what an idle client costs.
    #[expect(clippy::manual_async_fn, reason = "it would keep its arguments twice")]
    fn attend(
        self: Rc<Self>,
        mut session: Session,
        subscriptions: Option<Box<Subscriptions>>,
        place: Option<Place>,
        key: usize,
    ) -> impl Future<Output = ()> {
        async move {
            let _place = place;
            let ended = AssertUnwindSafe(session.run(subscriptions)).catch_unwind().await;
            self.bid_farewell(ended.ok(), key, session.listener());
        }
    }

    fn door(&self, newcomer: &Newcomer) -> &Rc<Door> {
        self.doors.get(newcomer.listener).expect("one door a listener")
    }

    fn is_full(&self) -> bool {
        self.shared.clients() > self.state.settings.get().max_clients
    }

    fn lose(&self, newcomer: &Newcomer, refused: &NotOpened) {
        tracing::debug!(peer = %newcomer.peer, error = %refused.cause, "a client did not get in");
        self.refuse(newcomer, refused.reason);
    }

    fn turn_away(&self, mut io: BoxIo, newcomer: &Newcomer, reason: RefuseReason) {
        let door = self.door(newcomer);
        let words = match reason {
            RefuseReason::MaxClients => Error::MaxClients,
            RefuseReason::Address => Error::Address,
            RefuseReason::PerIp => Error::PerIp,
            RefuseReason::Rate => Error::Rate,
            RefuseReason::Protected => Error::Protected,
            RefuseReason::Memory => Error::NoMemory,
            RefuseReason::Unready => Error::NoPrimary {
                master: &door.master,
                waited: door.fleet.hold_timeout(),
            },
            RefuseReason::Socket | RefuseReason::Handshake | RefuseReason::ProxyHeader => {
                return self.refuse(newcomer, reason);
            }
        };
        let reply = words.reply();
        crate::task::spawn(timeout(Duration::from_millis(limits::REFUSAL_MS), async move {
            let _ = io.write_all(&reply).await;
            let _ = io.shutdown().await;
            // What it has sent already, left unread, would have the kernel answer with a reset.
            let _ = io.read(&mut [0; 1024]).now_or_never();
        }));
        self.refuse(newcomer, reason);
    }

    fn refuse(&self, newcomer: &Newcomer, reason: RefuseReason) {
        tracing::debug!(peer = %newcomer.peer, reason = reason.label(), "a client is turned away");
        self.load().fetch_sub(1, Ordering::Relaxed);
        self.state.cells.add(Counter::ClientsRefused(reason), 1);
    }
}

fn origin(peer: &Address) -> Origin {
    if peer.is_local() {
        Origin::Here
    } else {
        Origin::Elsewhere
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the runtime keeps beside a task's future; together they are given memory by the 128 bytes.
    const TASK_BYTES: usize = 96;

    /// What an idle client costs is these two: its task, and what muxes and other clients see of it.
    #[test]
    fn an_idle_client_is_small() {
        fn task<F: Future>(
            _: impl FnOnce(Rc<Running>, Session, Option<Box<Subscriptions>>, Option<Place>, usize) -> F,
        ) -> usize {
            TASK_BYTES + size_of::<F>()
        }
        let (task, client) = (task(Running::attend), size_of::<Client>());
        assert!(
            task <= 384 && client <= 376,
            "{task} and {client} bytes, Session {}",
            size_of::<Session>()
        );
    }
}
