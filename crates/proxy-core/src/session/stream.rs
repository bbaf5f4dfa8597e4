//! Sessions whose node speaks unasked: subscriptions, MONITOR, CLIENT TRACKING. All of the session's commands travel
//! on the same lease, so that replies and pushes keep the order in which the node wrote them.
//!
//! ```text
//!   stream --> join a node (again and again) --> flow: lease ----bytes----> client
//!                 ^  standing orders repeated,          <---commands----
//!                 |  their confirmations swallowed |
//!                 +--------- lost, or moved -------+
//! ```

mod blocked;
mod held;
mod join;
mod note;
mod passage;
mod redirect;
mod refused;
mod relay;
mod roll;
mod send;
mod standing;
mod state;
mod transaction;
mod vouch;

use std::io;
use std::rc::Rc;

use bytes::Bytes;
use resp_codec::{Class, Command, ReplyKind, RequestError};
use tokio::time::Instant;

use super::own::{self, Hello};
use super::{Close, Session};
use crate::backend::conn::Arrival;
use crate::backend::lease::{Clean, Lease};
use crate::backend::{Backend, NodeKey};
use crate::backoff::Backoff;
use crate::client::Order;
use crate::client::face::Mark;
use crate::error::Error;
use crate::limits;
use crate::metrics::{CloseReason, LeaseReason};
use crate::push::{is_invalidation, is_published};
use crate::settings::ClientAuth;
use held::Hold;
use state::Stream;
use transaction::Transaction;

/// Why a stay on one node ended.
enum Flow {
    /// Nothing is subscribed, nothing pending: the session is an ordinary one again.
    Over,
    /// The connection is lost, or the node is no longer the primary.
    Lost,
}

/// What came of a command that the session sees to itself.
enum Own {
    Done,
    /// The node is to answer it.
    Forwarded,
    /// RESET.
    Reset,
}

/// A MULTI that was begun on a lease.
pub(super) struct Begun<'a> {
    /// The lease, and the node that it leads to; `None` if it has just been lost.
    pub(super) lease: Option<(Lease, Rc<Backend>)>,
    /// MULTI and what it has queued; nothing where there is only a WATCH.
    pub(super) frames: &'a [u8],
    /// Something is watched.
    pub(super) watching: bool,
    /// A node that watched is gone.
    pub(super) watch_broken: bool,
}

impl Session {
    /// Serves `first`, and all that follows until nothing is subscribed any more.
    pub(super) async fn stream(&mut self, first: Command<Bytes>, reason: LeaseReason) -> Result<(), Close> {
        let subscribes = reason == LeaseReason::Subscription;
        let expected = subscribes.then(|| self.door.census.expect());
        self.settled().await?;
        let mut stream = Stream::new(reason, Transaction::default());
        stream.expected = expected;
        stream.take(first, self.checks_here());
        self.stream_on(stream, None).await
    }

    /// Serves a client that another has invalidations sent to: from now on it has a connection of its own.
    pub(super) async fn listen(&mut self) -> Result<(), Close> {
        self.settled().await?;
        let mut stream = Stream::new(LeaseReason::Tracking, Transaction::default());
        stream.standing.last();
        self.stream_on(stream, None).await
    }

    /// Serves a subscriber that has shared a connection until now: `next` needs one of its own, or another client has
    /// invalidations sent to this one.
    pub(super) async fn stream_apart(
        &mut self,
        names: [Vec<Bytes>; 3],
        next: Option<Command<Bytes>>,
    ) -> Result<(), Close> {
        self.settled().await?;
        let mut stream = Stream::new(LeaseReason::Subscription, Transaction::default());
        stream.roll.resume(names);
        match next {
            Some(next) => self.take_streamed(&mut stream, next),
            None => stream.standing.last(),
        }
        self.stream_on(stream, None).await
    }

    /// The same inside a MULTI or behind a WATCH, on its lease: what comes next changes the connection.
    pub(super) async fn stream_begun(
        &mut self,
        begun: Begun<'_>,
        next: Command<Bytes>,
        reason: LeaseReason,
    ) -> Result<(), Close> {
        let transaction = Transaction::begun(begun.frames, begun.watching, begun.watch_broken);
        let is_open = transaction.is_open();
        let mut stream = Stream::new(reason, transaction);
        if is_open {
            stream.forward(next);
        } else {
            stream.take(next, self.checks_here());
        }
        self.stream_on(stream, begun.lease).await
    }

    /// From node to node, until the session is an ordinary one again.
    async fn stream_on(
        &mut self,
        mut stream: Stream,
        mut given: Option<(Lease, Rc<Backend>)>,
    ) -> Result<(), Close> {
        let mut backoff = Backoff::default();
        // Counted at the old term until it has arrived at the new one: held commands wait for that.
        let mut _counted = None;
        let mut _known = None;
        loop {
            let (mut lease, backend, is_made) = match given.take() {
                Some((lease, backend)) => (lease, backend, true),
                None => match self.join(&mut stream).await? {
                    Some((lease, backend)) => (lease, backend, false),
                    None => return Ok(()),
                },
            };
            let node = backend.link().node.clone();
            let id = lease.conn().id();
            _known = id.map(|id| self.door.streams.enter(self.id, &node, id));
            let made = if is_made {
                Ok(())
            } else {
                self.make_again(&mut stream, &mut lease, &node).await?
            };
            // What was carried along is in place before that, readers of what is new among it.
            if made.is_ok() && self.send_streamed(&mut stream, &mut lease, &node).await? {
                _counted = Some(self.door.census.count(node.term.unwrap_or_default()));
                if let Flow::Over = self.flow(&mut stream, &mut lease, &backend).await? {
                    if let Some(clean) = Clean::prove(&stream.state()) {
                        lease.release(clean);
                    }
                    self.client.face_mut().stop();
                    self.client.note_streamed();
                    self.change(self.profile.clone());
                    return Ok(());
                }
            }
            drop(lease);
            _known = None;
            self.client.face_mut().doing().blocked = None;
            if stream.is_within_answer() {
                self.client.break_off(CloseReason::Node);
            }
            stream.lose(&node.address);
            stream.carry();
            self.tell_unserved(&mut stream);
            if self.door.fleet.is_primary(&node) {
                let mut applied = self.door.fleet.applied();
                self.changed(&mut applied, Instant::now() + backoff.next())
                    .await?;
            } else {
                backoff = Backoff::default();
            }
        }
    }

    /// Both directions at once, until the stay ends.
    async fn flow(
        &mut self,
        stream: &mut Stream,
        lease: &mut Lease,
        backend: &Rc<Backend>,
    ) -> Result<Flow, Close> {
        let mut applied = self.door.fleet.applied();
        let node = &backend.link().node;
        loop {
            self.door.fleet.catch_up();
            if self.is_to_let_go(stream, backend) {
                self.let_go_streamed(stream, lease, backend).await?;
            }
            if !self.send_streamed(stream, lease, node).await? {
                return Ok(Flow::Lost);
            }
            self.show_blocked(stream, lease, backend);
            if stream.is_caught_up() && stream.has_own_affairs() {
                match self.own_affairs(stream, lease, node).await? {
                    Own::Forwarded => continue,
                    Own::Reset => return Ok(Flow::Over),
                    Own::Done => {}
                }
            }
            if stream.is_over() {
                return Ok(Flow::Over);
            }
            let held_until = match self.hold_stream(stream) {
                Hold::Free => None,
                Hold::Until(until) => Some(until),
                Hold::Refused => continue,
                Hold::Spoiled => return Ok(Flow::Lost),
            };
            let blocked = stream.waits_behind_blocked();
            let takes_more = held_until.is_none()
                && stream.outbox.is_empty()
                && !stream.has_own_affairs()
                && stream.has_room();
            let whole = stream.whole_bytes().max(self.whole_bytes());
            let (client, may_leave) = (Rc::clone(&self.client), stream.is_at_rest());
            tokio::select! {
                biased;
                request = self.request_or_gone(takes_more, blocked, stream.owes_answers()) => match request? {
                    Ok(command) => self.take_at_hand(stream, command),
                    Err(error) => stream.malformed = Some(error),
                },
                arrival = lease.conn().arrival(whole) => {
                    let passed = self.pass_on_at_hand(stream, lease, backend, arrival).await;
                    let _ = self.client.poll_flush();
                    if !passed? {
                        return Ok(Flow::Lost);
                    }
                }
                _ = applied.changed() => {}
                // Last: what the node has said already comes first.
                () = client.ordered(Order::Leave), if may_leave => self.leave_streaming(stream, node).await?,
                () = tokio::time::sleep_until(held_until.unwrap_or_else(Instant::now)), if held_until.is_some() => {}
            }
        }
    }

    /// Passwords are slipring's affair, and none of the node's.
    pub(super) fn checks_here(&self) -> bool {
        self.door.worker.settings.get().client_auth != ClientAuth::Passthrough
    }

    /// What the session sees to itself, now that all before it is answered.
    async fn own_affairs(
        &mut self,
        stream: &mut Stream,
        lease: &mut Lease,
        node: &NodeKey,
    ) -> Result<Own, Close> {
        // Valkey writes a RESP3 client's own messages behind the reply to its PUBLISH.
        while let Some(push) = lease.conn().push_at_hand() {
            if !self.leaves_before(stream, &push) {
                self.pass_on(stream, Arrival::Frame(ReplyKind::Push, push))
                    .await?;
            }
        }
        let Some(command) = stream.deferred.take() else {
            return match stream.malformed {
                Some(error) => Err(self.malformed(error).await),
                None => Ok(Own::Done),
            };
        };
        let denied = self.denies(&command);
        if !denied && stream.node_answers(&command, self.profile.resp) {
            stream.forward(command);
            return Ok(Own::Forwarded);
        }
        let reset = command.spec().name == "reset" && !denied;
        match command.spec().name {
            _ if denied => {
                stream.transaction.refuse();
                self.refuse(&command);
            }
            "sync" | "psync" => self.relay(lease, node, command).await?,
            _ if command.spec().class == Class::Own => self.proxy(command).await?,
            "hello" => self.prove_hello(stream, command).await?,
            "auth" if self.is_another_user(&own::credentials(&command)) => self.refuse_user(&command),
            _ => Box::pin(self.own(command)).await?,
        }
        self.settled().await?;
        Ok(if reset { Own::Reset } else { Own::Done })
    }

    /// What is broadcast leaves a node when all that has come with the write is done: QUIT and what is malformed, too.
    fn leaves_before(&self, stream: &Stream, push: &[u8]) -> bool {
        let leaves = match &stream.deferred {
            Some(command) => command.spec().name == "quit",
            None => stream.malformed.is_some(),
        };
        leaves && self.client.face().is(Mark::Broadcast) && is_invalidation(push)
    }

    /// HELLO with a password that slipring checks: the node hears the rest of it.
    async fn prove_hello(&mut self, stream: &mut Stream, command: Command<Bytes>) -> Result<(), Close> {
        let Ok(Hello {
            resp,
            credentials: Some(credentials),
            name,
        }) = own::hello(&command, self.profile.resp)
        else {
            stream.forward(command);
            return Ok(());
        };
        if self.is_another_user(&credentials) {
            self.refuse_user(&command);
            return Ok(());
        }
        match self.prove(&command, &credentials).await? {
            Ok(()) => stream.forward(own::hello_without_auth(resp, name.as_deref())),
            Err(refusal) => self.answer(&command, &refusal),
        }
        Ok(())
    }

    /// The connection that the session holds is another user's.
    fn refuse_user(&self, command: &Command<Bytes>) {
        let what = "AUTH as a user who is another one to the nodes while subscribed or tracking";
        self.answer(command, &Error::Unsupported(what).reply());
    }

    fn take_streamed(&self, stream: &mut Stream, command: Command<Bytes>) {
        self.client.note(command.spec().id);
        if self.denies(&command) {
            stream.deferred = Some(command);
        } else {
            stream.take(command, self.checks_here());
        }
    }

    /// The client's next request. Who sends no more gets what it is owed first.
    async fn request_or_gone(
        &mut self,
        takes_more: bool,
        blocked: bool,
        owes_answers: bool,
    ) -> Result<Result<Command<Bytes>, RequestError>, Close> {
        let ended = if takes_more {
            match self.read_request(false).await {
                Err(Close(CloseReason::Client)) if self.client.broken().is_none() => CloseReason::Client,
                other => return other,
            }
        } else if blocked {
            return Err(self.gone_while_blocked().await);
        } else {
            self.gone().await.0
        };
        if ended == CloseReason::Client && owes_answers {
            return Err(self.broken().await);
        }
        Err(Close(ended))
    }

    /// Up to which size replies come whole. Whether the client is to have it, only the whole tells.
    fn whole_bytes(&self) -> usize {
        if self.client.misses_replies() {
            limits::OUTPUT_PUSH_BYTES
        } else {
            limits::REPLY_WHOLE_BYTES
        }
    }

    /// Passes on `arrival` and all that came with it, for the client to be written to once. False: the connection is
    /// lost, or serves no longer.
    async fn pass_on_at_hand(
        &mut self,
        stream: &mut Stream,
        lease: &mut Lease,
        backend: &Backend,
        mut arrival: io::Result<Arrival>,
    ) -> Result<bool, Close> {
        loop {
            match arrival {
                Ok(arrival) if self.was_refused(stream, backend, &arrival) => return Ok(false),
                Ok(arrival) if self.believes(stream, backend, &arrival) => {
                    self.pass_on_later(stream, arrival).await?;
                }
                _ => return Ok(false),
            }
            if stream.has_turned() {
                return Ok(true);
            }
            self.door.fleet.catch_up();
            let whole = stream.whole_bytes().max(self.whole_bytes());
            match lease.conn().arrival_at_hand(whole).transpose() {
                Some(next) => arrival = next,
                None => return Ok(true),
            }
        }
    }

    async fn pass_on(&mut self, stream: &mut Stream, arrival: Arrival) -> Result<(), Close> {
        let passed = self.pass_on_later(stream, arrival).await;
        let _ = self.client.poll_flush();
        passed
    }

    /// Has the client written to with what comes next.
    async fn pass_on_later(&mut self, stream: &mut Stream, arrival: Arrival) -> Result<(), Close> {
        let catching_up = stream.is_catching_up();
        stream.expected = None;
        match arrival {
            Arrival::Part(part) => {
                stream.passing = true;
                self.client.push_later(&part);
            }
            Arrival::Frame(kind, frame) if std::mem::take(&mut stream.passing) => {
                self.client.push_later(&frame);
                self.note(stream, kind, Bytes::new()).await?;
            }
            Arrival::Frame(_, frame) if stream.overhears_us(&frame) || stream.arms_again(&frame) => {}
            Arrival::Frame(kind, frame) => {
                let hushed = self.client.misses_replies();
                let frame = self.note(stream, kind, frame).await?;
                // What EXEC has just turned off is turned off behind it.
                if !hushed || kind == ReplyKind::Push || is_published(&frame) {
                    self.client.push_later_past_hush(&frame);
                } else {
                    self.client.push_later(&frame);
                }
            }
        }
        self.tell_unknown(stream);
        if catching_up && !stream.is_catching_up() {
            // An answer that began at a former node's time may be what the client has just cached.
            self.push_flush(stream);
        }
        if self.client.output_bytes() > limits::OUTPUT_PUSH_BYTES {
            return Err(Close(CloseReason::Output));
        }
        Ok(())
    }
}
