//! From node to node: a lease on the primary, made into what the last one was.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use resp_codec::{Command, Refusal, ReplyKind, refusal};
use tokio::time::Instant;

use super::held::Hold;
use super::redirect::{self, Redirect};
use super::state::Stream;
use crate::backend::lease::{Budget, Lease, LeaseError};
use crate::backend::profile::Resp;
use crate::backend::{Backend, NodeKey};
use crate::backoff::Backoff;
use crate::door::{Door, Streams};
use crate::error::Error;
use crate::metrics::CloseReason;
use crate::session::{Close, Session, own, shape_of};

/// How long a new node may take to confirm what was subscribed on the old one.
const JOIN_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the client that invalidations are redirected to may take to arrive on a new node.
const REDIRECT_TIMEOUT: Duration = Duration::from_millis(500);

/// Where RESP2 clients hear what has changed.
const INVALIDATIONS: &[u8] = b"__redis__:invalidate";

impl Session {
    /// Makes a fresh connection into what the last one was; the client sees nothing of it but messages.
    pub(super) async fn make_again(
        &mut self,
        stream: &mut Stream,
        lease: &mut Lease,
        node: &NodeKey,
    ) -> Result<io::Result<()>, Close> {
        let mut messages = BytesMut::new();
        let door = Rc::clone(&self.door);
        let making = stream.make_again(lease, &door, node, self.profile.resp, &mut messages);
        let joined = tokio::select! {
            biased;
            close = self.broken() => return Err(close),
            made = tokio::time::timeout(JOIN_TIMEOUT, making) => made,
        };
        self.client.push_past_hush(&messages);
        match joined.map_err(io::Error::from).flatten() {
            // The user may no longer do there what it did here.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(Close(CloseReason::Node)),
            Err(error) => Ok(Err(error)),
            Ok(()) => {
                if stream.former.is_some() {
                    self.push_flush(stream);
                }
                Ok(Ok(()))
            }
        }
    }

    /// The node that knew what the client has cached is gone: all of it may be stale.
    pub(super) fn push_flush(&self, stream: &Stream) {
        let tracks = stream.standing.tracks() && stream.redirect.is_none();
        match self.profile.resp {
            Resp::Three if tracks || stream.roll.has(INVALIDATIONS) => {
                self.client.push_past_hush(b">2\r\n$10\r\ninvalidate\r\n_\r\n");
            }
            Resp::Two if stream.roll.has(INVALIDATIONS) => {
                let message = b"*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n$-1\r\n";
                self.client.push_past_hush(message);
            }
            _ => {}
        }
    }

    /// A lease on the primary, as soon as there is one. `None`: the client has been told why not.
    pub(super) async fn join(&mut self, stream: &mut Stream) -> Result<Option<(Lease, Rc<Backend>)>, Close> {
        let first = match stream.next() {
            Some(first)
                if stream.former.is_none() && stream.roll.is_empty() && stream.transaction.is_idle() =>
            {
                first
            }
            // What the session was comes first.
            _ => return self.join_silently(stream).await.map(Some),
        };
        let mut shape = shape_of(first);
        shape.read = false;
        let bytes = first.frame().len();
        let deadline = Instant::now() + self.door.fleet.hold_timeout();
        let mut backoff = Backoff::default();
        loop {
            let refusal = match self.primary_for(shape, bytes).await? {
                Err(refusal) => refusal,
                Ok(_) => match self.lease_now(stream).await? {
                    Ok(joined) => return Ok(Some(joined)),
                    Err(LeaseError::Refused(reply)) => reply,
                    Err(LeaseError::Exhausted) => Error::NoLease {
                        budget: Budget::Streaming.name(),
                    }
                    .reply(),
                    Err(LeaseError::Lost) if Instant::now() >= deadline => self.no_primary(),
                    Err(LeaseError::Lost) => {
                        let mut applied = self.door.fleet.applied();
                        self.changed(&mut applied, Instant::now() + backoff.next())
                            .await?;
                        continue;
                    }
                },
            };
            self.client.reply(&refusal);
            return Ok(None);
        }
    }

    /// The same for who is something already: it waits for as long as it takes, though not each of its commands does.
    async fn join_silently(&mut self, stream: &mut Stream) -> Result<(Lease, Rc<Backend>), Close> {
        let mut applied = self.door.fleet.applied();
        let mut backoff = Backoff::default();
        loop {
            match self.lease_now(stream).await? {
                Ok(joined) => return Ok(joined),
                Err(LeaseError::Refused(_)) => return Err(Close(CloseReason::Node)),
                Err(_) => {}
            }
            self.tell_unserved(stream);
            let next = Instant::now() + backoff.next();
            let until = match self.hold_stream(stream) {
                Hold::Free => next,
                Hold::Until(until) => next.min(until),
                Hold::Refused | Hold::Spoiled => continue,
            };
            let takes_more = stream.is_caught_up() && !stream.has_own_affairs();
            tokio::select! {
                biased;
                request = self.request_or_gone(takes_more, false, false) => match request? {
                    Ok(command) => self.take_streamed(stream, command),
                    Err(error) => stream.malformed = Some(error),
                },
                () = applied.changed() => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    async fn lease_now(
        &mut self,
        stream: &Stream,
    ) -> Result<Result<(Lease, Rc<Backend>), LeaseError>, Close> {
        let Some(backend) = self.door.fleet.primary(&self.profile) else {
            return Ok(Err(LeaseError::Lost));
        };
        tokio::select! {
            biased;
            close = self.broken() => Err(close),
            leased = backend.lease(Budget::Streaming, stream.reason) => Ok(leased.map(|lease| (lease, backend))),
        }
    }
}

// === impl Stream ===

impl Stream {
    /// Gives all standing orders, subscribes to all, and opens the transaction again. What else the node says meanwhile
    /// is for the client.
    async fn make_again(
        &mut self,
        lease: &mut Lease,
        door: &Door,
        node: &NodeKey,
        resp: Resp,
        messages: &mut BytesMut,
    ) -> io::Result<()> {
        let orders = self.standing.orders().ok_or(io::ErrorKind::PermissionDenied)?;
        let orders: Vec<Bytes> = orders.cloned().collect();
        for order in orders {
            let command = own::whole(order.clone());
            let mut frame = order.clone();
            if let Some(client) = redirect::target(&command) {
                (frame, self.redirect) = arrived(&command, &door.streams, node).await;
                if self.redirect.is_none() {
                    self.standing.forget_order(&order);
                    if resp == Resp::Three {
                        messages.extend_from_slice(&Redirect::broken(client));
                    }
                    continue;
                }
            }
            lease.conn().send(&frame).await?;
            answered(lease, messages).await?;
        }
        let again = self.roll.subscribe_again();
        lease.conn().send(&again).await?;
        while self.roll.is_repeating() {
            let (kind, frame) = lease.conn().reply().await?;
            if kind.is_error() {
                return Err(refused(&frame));
            }
            if !self.roll.swallows(&frame) {
                messages.extend_from_slice(&frame);
            }
        }
        if let Some((frames, replies)) = self.transaction.replay() {
            lease.conn().send(&frames).await?;
            for _ in 0..replies {
                answered(lease, messages).await?;
            }
        }
        Ok(())
    }
}

/// CLIENT TRACKING REDIRECT in the node's numbers, once the other client is on that node, too. It moves at the same time.
async fn arrived(command: &Command<Bytes>, streams: &Streams, node: &NodeKey) -> (Bytes, Option<Redirect>) {
    let until = Instant::now() + REDIRECT_TIMEOUT;
    loop {
        let translated = redirect::translate(command, streams, node);
        if translated.1.is_some() || Instant::now() >= until {
            return translated;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A node that does not take the session for what it was: not yet, or never again.
fn refused(reply: &[u8]) -> io::Error {
    let passes = matches!(
        refusal(reply),
        Some(Refusal::Loading | Refusal::MasterDown | Refusal::Readonly)
    );
    let kind = if passes {
        io::ErrorKind::ConnectionRefused
    } else {
        io::ErrorKind::PermissionDenied
    };
    kind.into()
}

/// Waits for the answer to what was just sent.
async fn answered(lease: &mut Lease, messages: &mut BytesMut) -> io::Result<()> {
    loop {
        match lease.conn().reply().await? {
            (ReplyKind::Push, frame) => messages.extend_from_slice(&frame),
            (kind, frame) if kind.is_error() => return Err(refused(&frame)),
            _ => return Ok(()),
        }
    }
}
