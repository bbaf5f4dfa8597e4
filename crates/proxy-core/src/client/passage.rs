//! A client's connection taken from its session, or given to it with what it was in another process.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use resp_codec::CommandSpec;
use sentinel_watcher::BoxIo;
use tokio::time::Instant;

use super::{Client, Hush, Order};
use crate::client::face::Library;
use crate::metrics::CloseReason;
use crate::passage::{HushState, SessionState};

impl Client {
    /// The worker wants the session to leave for another process.
    pub(crate) fn is_to_leave(&self) -> bool {
        self.order() == Some(Order::Leave)
    }

    /// The session stays, for now.
    pub(crate) fn stay(&self) {
        self.state
            .borrow_mut()
            .order
            .take_if(|order| *order == Order::Leave);
    }

    /// Has it leave, unless its connection cannot, or it has other orders.
    pub(crate) fn see_off(&self, portable: fn(&BoxIo) -> bool) {
        if self.order().is_none() && self.is_portable(portable) {
            self.give_order(Order::Leave);
        }
    }

    /// Its connection may leave the process.
    pub(crate) fn is_portable(&self, portable: fn(&BoxIo) -> bool) -> bool {
        self.state.borrow().io.as_ref().is_some_and(portable)
    }

    /// Fills in what the connection has behind it and in it.
    pub(crate) fn describe(&self, state: &mut SessionState, now: Instant) {
        let own = self.state.borrow();
        let millis = |since| now.saturating_duration_since(since).as_millis() as u64;
        state.age_millis = millis(self.face().since);
        state.idle_millis = millis(own.heard);
        state.last = self.last.get().map(|last| last.spec().name.to_owned());
        (state.received, state.written, state.commands) = (own.received, own.written, own.next);
        state.hush = match own.hush {
            None => HushState::Nothing,
            // Nothing is outstanding, so the one reply has not begun.
            Some(Hush::Next(_)) => HushState::Next,
            Some(Hush::All) => HushState::All,
        };
        state.output = Bytes::copy_from_slice(&own.output);
    }

    /// Takes the connection away. Whoever else knows this client finds it gone.
    pub(crate) fn depart(&self) -> Option<BoxIo> {
        let own = &mut *self.state.borrow_mut();
        let io = own.io.take()?;
        own.broken_by = CloseReason::Moved;
        own.output = BytesMut::new();
        Some(io)
    }

    /// Takes up what the connection was in another process.
    pub(crate) fn resume(&self, state: &SessionState) {
        let own = &mut *self.state.borrow_mut();
        own.output.extend_from_slice(&state.output);
        (own.received, own.written) = (state.received, state.written);
        (own.head, own.next) = (state.commands, state.commands);
        own.heard = before(own.heard, state.idle_millis);
        own.hush = match state.hush {
            HushState::Nothing => None,
            HushState::Next => Some(Hush::next()),
            HushState::All => Some(Hush::All),
        };
        let mut words = state.last.iter().flat_map(|last| last.split('|'));
        if let Some(container) = words.next().map(|name| CommandSpec::of(name.as_bytes())) {
            let spec = words
                .next()
                .and_then(|name| container.subcommand(name.as_bytes()));
            self.last.set(Some(spec.unwrap_or(container).id));
        }
        let mut face = self.face_mut();
        face.since = before(face.since, state.age_millis);
        face.name = state.name[..].into();
        face.alias = state.alias.as_deref().map(Box::from);
        face.library = state.library.as_ref().map(|(name, version)| {
            Box::new(Library {
                name: name[..].into(),
                version: version[..].into(),
            })
        });
        if !state.capabilities.is_empty() {
            face.doing().capabilities = state.capabilities[..].into();
        }
    }
}

/// So long ago; as long ago as the clock goes back, if it does not go back so far.
fn before(now: Instant, millis: u64) -> Instant {
    now.checked_sub(Duration::from_millis(millis)).unwrap_or(now)
}
