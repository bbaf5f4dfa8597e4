//! Sessions that leave for another process, and those that come from there.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use sentinel_watcher::BoxIo;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Handle, Running, Shared};
use crate::client::face::Face;
use crate::client::{Client, Order};
use crate::door::Origin;
use crate::limits;
use crate::metrics::{CloseReason, Counter, RefuseReason};
use crate::net::{Accepted, Opened};
use crate::passage::{Departure, Departures, Entrant, SessionState};
use crate::roster::Adopt;
use crate::session::Session;

/// What another process may ask of all workers.
#[derive(Clone)]
pub struct Passage(Arc<Shared>);

/// How often sessions that could not leave are asked again.
const DEPARTURE_RETRY: Duration = Duration::from_millis(limits::DEPARTURE_RETRY_MS);

// === impl Handle ===

impl Handle {
    /// The way of sessions to another process, and from there.
    #[must_use]
    pub fn passage(&self) -> Passage {
        Passage(Arc::clone(&self.shared))
    }
}

// === impl Passage ===

impl Passage {
    /// Lets nobody in any more and has sessions leave, each when it is at rest, if its connection is `portable`. They
    /// come out of the answer, until [`Self::stay`] or a drain; whoever holds one is the only one who knows it.
    pub async fn leave(&self, portable: fn(&BoxIo) -> bool) -> mpsc::Receiver<Departure> {
        let (sender, departed) = mpsc::channel(limits::DEPARTURES);
        let departures = Departures { sender, portable };
        self.0.roster.leave(Some(&departures)).await;
        // Once more: whoever one worker had accepted and given to another is in by now.
        self.0.roster.leave(Some(&departures)).await;
        departed
    }

    /// Clients come from this process: for `PROXY SHOW STATS`.
    pub fn comes_from(&self, process: u32) {
        self.0.kin.predecessor.store(process, Ordering::Relaxed);
    }

    /// Clients go to this process.
    pub fn goes_to(&self, process: u32) {
        self.0.kin.successor.store(process, Ordering::Relaxed);
    }

    /// Lets clients in again; nobody is asked to leave any more.
    pub async fn stay(&self) {
        self.goes_to(0);
        self.0.roster.leave(None).await;
    }

    /// Whether [`Self::adopt`] has a place for this session: the listener that it came through.
    #[must_use]
    pub fn has_place_for(&self, state: &SessionState) -> bool {
        self.0.listener_of(state).is_some()
    }

    /// Serves a session from here on. False: nobody can, and its connection is closed.
    pub async fn adopt(&self, entrant: Entrant) -> bool {
        let shared = &self.0;
        let Some(listener) = shared.listener_of(&entrant.state) else {
            return false;
        };
        shared.last_id.fetch_max(entrant.state.id(), Ordering::Relaxed);
        let (accepted, state) = entrant.into_parts();
        let worker = shared.home_of_next(&shared.settings.load(), 0);
        shared.load(worker).fetch_add(1, Ordering::Relaxed);
        let adopt = Adopt {
            accepted,
            listener,
            state: Some(Box::new(state)),
        };
        let adopted = shared.roster.adopt_in_turn(worker, adopt).await;
        if !adopted {
            shared.load(worker).fetch_sub(1, Ordering::Relaxed);
        }
        adopted
    }

    /// Clients connected now, over all workers.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.0.clients()
    }

    /// No CLIENT ID is above this one, once nobody is let in any more: whoever is on the way in counts already.
    #[must_use]
    pub fn last_id(&self) -> u64 {
        let coming = self.0.clients() as u64;
        self.0.last_id.load(Ordering::Relaxed) + coming
    }

    /// CLIENT IDs go on behind `id`.
    pub fn begin_above(&self, id: u64) {
        self.0.last_id.fetch_max(id, Ordering::Relaxed);
    }
}

// === impl Shared ===

impl Shared {
    fn listener_of(&self, state: &SessionState) -> Option<usize> {
        let named = |(master, address): &(Arc<str>, Arc<str>)| {
            **master == *state.master && **address == *state.listener
        };
        self.doors.iter().position(named)
    }
}

// === impl Running ===

impl Running {
    /// Another process takes over.
    pub(super) fn is_left(&self) -> bool {
        self.state.departures.borrow().is_some()
    }

    /// Has sessions leave, or stay again.
    pub(super) fn open_passage(&self, departures: Option<Departures>) {
        *self.state.departures.borrow_mut() = departures;
        if self.is_left() {
            self.see_off();
        } else {
            self.clients.borrow().iter().for_each(|(_, client)| client.stay());
        }
    }

    /// Asks those again who could not leave before.
    pub(super) fn see_off_at(&self, now: Instant) {
        if self.is_left() && now.duration_since(self.asked.get()) >= DEPARTURE_RETRY {
            self.see_off();
        }
    }

    fn see_off(&self) {
        let departures = self.state.departures.borrow().clone();
        self.asked.set(Instant::now());
        if let Some(Departures { portable, .. }) = departures {
            self.clients
                .borrow()
                .iter()
                .for_each(|(_, client)| client.see_off(portable));
        }
    }

    /// Serves a client that another process has let in. It counts as a client already.
    pub(super) fn readmit(self: &Rc<Self>, accepted: Accepted, listener: usize, state: SessionState) {
        let Accepted {
            socket,
            peer,
            local,
            descriptor,
        } = accepted;
        let settings = self.state.settings.get();
        let keepalive = settings.entry.tcp_keepalive;
        // A plain socket opens at once.
        let Some(Ok(Opened { io, .. })) = socket.open(keepalive).now_or_never() else {
            tracing::warn!(%peer, "a client is lost on its way here");
            self.load().fetch_sub(1, Ordering::Relaxed);
            let lost = Counter::ClientsRefused(RefuseReason::Socket);
            return self.state.cells.add(lost, 1);
        };
        let door = self.doors.get(listener).expect("one door a listener");
        let origin = if state.is_here {
            Origin::Here
        } else {
            Origin::Elsewhere
        };
        let place = peer.inet().map(|peer| self.shared.crowd.admit(peer.ip()));
        let upstream = door.fleet.upstream();
        let (now, profile) = (self.state.now(), door.first_profile());
        let face = Face::new(state.id(), upstream, (peer, local), descriptor, now, profile);
        let client = Client::new(io, Arc::clone(&self.state.cells), face);
        if !settings.entry.users.keep(state.alias.as_deref()) {
            client.give_order(Order::Close(CloseReason::Revoked));
        }
        self.state.cells.add(Counter::ClientsAdopted { listener }, 1);
        let (session, subscriptions) = Session::resume(Rc::clone(&client), Rc::clone(door), origin, state);
        self.serve(client, session, subscriptions.map(Box::new), place);
    }
}
