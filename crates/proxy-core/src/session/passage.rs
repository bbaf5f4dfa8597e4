//! A session that leaves for another process, and one that comes from there. It leaves when nothing of it is unanswered;
//! what it has read and not sent goes with it as unread input.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use sentinel_watcher::{Credentials, Epoch};

use super::noted::Scans;
use super::{Close, Reading, Session};
use crate::backend::NodeKey;
use crate::client::{Client, Order};
use crate::door::{Door, Origin};
use crate::metrics::CloseReason;
use crate::passage::{Cursors, Departure, HushState, SessionState, Subscriptions, Wrote};

impl Session {
    /// Leaves, once all is answered. Comes back if it cannot: the session stays.
    pub(super) async fn leave(&mut self) -> Result<(), Close> {
        self.settled().await?;
        self.leave_with(None).await
    }

    /// The same with `subscriptions`, while nothing is outstanding.
    pub(super) async fn leave_with(&mut self, subscriptions: Option<Subscriptions>) -> Result<(), Close> {
        let departures = self.door.worker.departures.borrow().clone();
        let Some(departures) = departures.filter(|departures| self.client.is_portable(departures.portable))
        else {
            self.client.stay();
            return Ok(());
        };
        let Ok(place) = departures.sender.reserve().await else {
            self.client.stay();
            return Ok(());
        };
        // It may have got other orders while it waited for its turn.
        let state = match self.client.order() {
            Some(Order::Leave) if !self.reading.has_ended() => self.state(subscriptions).encode(),
            _ => None,
        };
        let Some(state) = state else {
            self.client.stay();
            return Ok(());
        };
        let Some(io) = self.client.depart() else {
            return Err(Close(CloseReason::Client));
        };
        place.send(Departure { state, io });
        Err(Close(CloseReason::Moved))
    }

    fn state(&self, subscriptions: Option<Subscriptions>) -> SessionState {
        let topology = self.door.fleet.topology();
        let primary = topology.shard(0).primary.as_ref();
        let term = primary.map(|primary| primary.term);
        let face = self.client.face();
        let own = self.profile.credentials == self.door.first_profile().credentials;
        let credentials = self.profile.credentials.as_ref().filter(|_| !own);
        let mut state = SessionState {
            id: self.id,
            master: self.door.master.to_string(),
            listener: self.door.listener.to_string(),
            peer: (&face.peer).into(),
            local: (&face.local).into(),
            is_here: self.origin == Origin::Here,
            age_millis: 0,
            idle_millis: 0,
            name: Bytes::copy_from_slice(&face.name),
            alias: face.alias.as_deref().map(Bytes::copy_from_slice),
            library: face.library.as_ref().map(|library| {
                let [name, version] =
                    [&library.name, &library.version].map(|text| Bytes::copy_from_slice(text));
                (name, version)
            }),
            capabilities: Bytes::copy_from_slice(face.capabilities()),
            last: None,
            received: 0,
            written: 0,
            commands: 0,
            own,
            user: credentials.and_then(user_of),
            password: credentials.map(password_of),
            db: self.profile.db,
            selected_by: self
                .profile
                .selected_by
                .as_ref()
                .map(|first| (user_of(first), password_of(first))),
            resp3: self.profile.resp == crate::backend::profile::Resp::Three,
            admitted: self.admitted,
            hush: HushState::Nothing,
            input: Bytes::copy_from_slice(&self.input),
            output: Bytes::new(),
            primary: primary.map(|primary| primary.address.to_string()),
            wrote: match self.wrote_at {
                None => Wrote::Nothing,
                wrote_at if wrote_at == term => Wrote::Here,
                _ => Wrote::Elsewhere,
            },
            scans: match &self.scans {
                None if term.is_some_and(|term| term <= self.born) => Cursors::Fresh,
                Some(scans) if !scans.is_whole() => Cursors::Stale,
                Some(scans) if scans.node.term.is_none() => Cursors::Replica(scans.node.address.to_string()),
                Some(scans) if scans.node.term == term => Cursors::Primary,
                _ => Cursors::Stale,
            },
            subscriptions,
        };
        self.client.describe(&mut state, self.door.worker.now());
        state
    }

    /// The session that `state` tells of, and what it is subscribed to.
    pub(crate) fn resume(
        client: Rc<Client>,
        door: Rc<Door>,
        origin: Origin,
        state: SessionState,
    ) -> (Self, Option<Subscriptions>) {
        client.resume(&state);
        let mut session = Self::new(client, door, origin);
        let topology = session.door.fleet.topology().clone();
        let primary = topology.shard(0).primary.as_ref();
        let same = primary.filter(|primary| Some(primary.address.to_string()) == state.primary);
        // Before every term: that of a node that is the primary no longer.
        let former = Epoch(0);
        session.change(state.profile(&session.door.first_profile()));
        session.admitted = state.admitted;
        session.input = BytesMut::from(&state.input[..]);
        if !session.input.is_empty() {
            session.reading = Reading::Unscanned;
        }
        session.wrote_at = match state.wrote {
            Wrote::Nothing => None,
            Wrote::Here => Some(same.map_or(former, |primary| primary.term)),
            Wrote::Elsewhere => Some(former),
        };
        let home = match (&state.scans, same) {
            (Cursors::Fresh, Some(_)) => None,
            (Cursors::Primary, Some(primary)) => Some(NodeKey {
                address: primary.address.clone(),
                term: Some(primary.term),
            }),
            (Cursors::Replica(address), _) => address
                .parse()
                .ok()
                .map(|address| NodeKey { address, term: None }),
            _ => {
                session.born = former;
                None
            }
        };
        session.scans = home.map(|node| Box::new(Scans::whole(node)));
        (session, state.subscriptions)
    }
}

fn user_of(credentials: &Credentials) -> Option<Bytes> {
    credentials.username.as_deref().map(Bytes::copy_from_slice)
}

fn password_of(credentials: &Credentials) -> Bytes {
    Bytes::copy_from_slice(credentials.password.reveal())
}
