//! A request too large to be kept: passed on over a lease as it comes, and forgotten.
//!
//! ```text
//!   settled -> a primary, a lease -> head -> … bytes, as fast as the node takes them … -> end -> the answer
//!                     |                             | the node is lost: not executed, for it has not seen the end
//!                     | none                        v
//!                     +-----------> the rest is read and dropped, the error answered
//! ```
//! The end leaves only once the whole request was found to be well-formed. A slow sender holds its own lease, nobody
//! else's.

use std::future::{Future, poll_fn};
use std::io;
use std::ops::ControlFlow;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use resp_codec::{Class, Command, RequestError};
use tokio::io::ReadBuf;
use tokio::time::Instant;

use super::stay::{Call, Stay};
use super::{Attempt, Close, Session};
use crate::backend::conn::{Arrival, Conn};
use crate::backend::lease::{Budget, Clean};
use crate::backoff::Backoff;
use crate::client::{Order, Shape};
use crate::error::Error;
use crate::limits;
use crate::metrics::{CloseReason, LeaseReason, Outcome};

/// A large request on its way.
#[derive(Default)]
struct Way {
    /// What the node has not taken yet: no more than was read at once.
    waiting: BytesMut,
    /// Its end is in `waiting`, or sent.
    ended: bool,
    /// Bytes of it that have gone so far, those that wait included.
    len: usize,
}

/// How the passing of a request ended.
enum Passed {
    /// All of it was sent.
    Whole,
    /// The node has answered before it had all: it will not take it.
    Answered(Bytes),
    /// The connection is gone.
    Lost,
    /// The client broke the protocol.
    Malformed(RequestError),
}

/// So much of a large request is looked at to know what it is.
const HEAD_BYTES: usize = 256;

impl Session {
    /// What stands in the input is the beginning of a request that shall not be kept.
    pub(in crate::session) fn is_large(&self) -> bool {
        let announced = self
            .scan
            .announced()
            .is_some_and(|found| found.len.max(self.input.len()) > limits::REQUEST_SHARED_BYTES);
        announced
            && (self.door.worker.memory.is_scarce()
                || self.head().is_some_and(|head| self.is_passable(&head)))
    }

    /// It can be passed on without being kept. Of scripts and of what the node must be asked about, more is looked at
    /// than the head.
    fn is_passable(&self, head: &Command<Bytes>) -> bool {
        self.door.fleet.paused().is_none()
            && matches!(head.spec().class, Class::Data | Class::Audience)
            && !head.is_http()
    }

    /// As much of the request as tells what it is. Its last arguments are missing or cut short.
    fn head(&self) -> Option<Command<Bytes>> {
        let found = self.scan.announced()?;
        let bytes = self.input.get(..HEAD_BYTES.min(self.input.len()))?;
        Some(Command::new(Bytes::copy_from_slice(bytes), found))
    }

    /// Passes the request in the input on as it comes.
    pub(in crate::session) async fn large(&mut self) -> Result<(), Close> {
        let head = self
            .head()
            .expect("it is large, so something of it was announced");
        self.reading = self.reading.again();
        self.client.note(head.spec().id);
        if self.denies(&head) {
            self.skip(&mut Way::default()).await?;
            self.refuse(&head);
            return Ok(());
        }
        // Where it cannot be passed on, memory was short a moment ago.
        if self.door.worker.memory.is_scarce() || !self.is_passable(&head) {
            self.skip(&mut Way::default()).await?;
            self.answer(&head, &Error::Memory.reply());
            return Ok(());
        }
        self.catch_up_with_subscribers(head.spec().class).await?;
        self.settled().await?;
        let mut stay = Stay::new(Budget::Blocking, LeaseReason::Large);
        let mut call = Call::new(&head, &stay);
        let mut way = Way::default();
        if let Err(refusal) = self.lease_for(&mut stay, call.shape).await? {
            self.skip(&mut way).await?;
            self.door
                .worker
                .cells
                .command(call.shape.command, Outcome::Refused);
            self.client.reply(&refusal);
            return Ok(());
        }
        match self.pass(&mut stay, &mut call, &mut way).await? {
            Passed::Whole => {
                call.unseen = way.len.saturating_sub(head.frame().len());
                self.end(stay, call, &head).await
            }
            Passed::Answered(reply) => {
                stay.lose();
                self.skip(&mut way).await?;
                self.client.reply(&reply);
                Ok(())
            }
            Passed::Lost => {
                stay.lose();
                self.skip(&mut way).await?;
                let link = call.node.expect("it was being sent to it");
                link.account(call.shape, Class::Data, Outcome::Error, call.since.elapsed());
                self.client.reply(&Error::CutShort(&link.node.address).reply());
                Ok(())
            }
            Passed::Malformed(error) => Err(self.malformed(error).await),
        }
    }

    /// A lease on a serving primary. The error is for the client.
    async fn lease_for(&mut self, stay: &mut Stay, shape: Shape) -> Result<Result<(), Bytes>, Close> {
        let shape = Shape { read: false, ..shape };
        let deadline = Instant::now() + self.door.fleet.hold_timeout();
        let mut applied = self.door.fleet.applied();
        let mut backoff = Backoff::default();
        loop {
            if let Err(refusal) = self.primary_for(shape, 0).await? {
                return Ok(Err(refusal));
            }
            let epoch = self.door.fleet.topology().epoch;
            match self.take_lease(stay).await? {
                Ok(true) if epoch == self.door.fleet.topology().epoch => return Ok(Ok(())),
                // The world may have changed while the lease was being made.
                Ok(true) => stay.lose(),
                Ok(false) => {}
                Err(refusal) => return Ok(Err(refusal)),
            }
            if Instant::now() >= deadline {
                return Ok(Err(self.no_primary()));
            }
            self.changed(&mut applied, deadline.min(Instant::now() + backoff.next()))
                .await?;
        }
    }

    /// Sends the request as it comes, for as long as its node is the primary.
    async fn pass(&mut self, stay: &mut Stay, call: &mut Call, way: &mut Way) -> Result<Passed, Close> {
        let held = stay.held.as_mut().expect("the caller has taken it");
        let link = Rc::clone(held.backend.link());
        call.node = Some(Rc::clone(&link));
        let conn = held.lease.conn();
        let mut applied = self.door.fleet.applied();
        loop {
            if !self.door.fleet.is_primary(&link.node) {
                return Ok(Passed::Lost);
            }
            tokio::select! {
                biased;
                () = applied.changed() => {}
                passed = poll_fn(|cx| self.poll_pass(cx, Some(&mut *conn), way)) => return passed,
            }
        }
    }

    /// Reads the rest of the request and drops it.
    async fn skip(&mut self, way: &mut Way) -> Result<(), Close> {
        way.waiting = BytesMut::new();
        match poll_fn(|cx| self.poll_pass(cx, None, way)).await? {
            Passed::Malformed(error) => Err(self.malformed(error).await),
            Passed::Whole | Passed::Answered(_) | Passed::Lost => Ok(()),
        }
    }

    /// All of it was sent: the answer, or what became of it.
    async fn end(&mut self, mut stay: Stay, mut call: Call, head: &Command<Bytes>) -> Result<(), Close> {
        match self.await_answer(&mut stay, head, &mut call).await? {
            Attempt::Answered => {
                if let (Some(clean), Some(held)) = (Clean::prove(&stay.state), stay.held.take()) {
                    held.lease.release(clean);
                }
                Ok(())
            }
            // What the node refused cannot be sent again: the refusal is the answer.
            Attempt::Again => {
                self.client.reply(&call.refused.take().expect("it was refused"));
                Ok(())
            }
            Attempt::Lost => self.unknown_outcome(&mut stay, head, call.node.as_ref()),
        }
    }

    /// Reads from the client, and sends to the node (or nowhere) what was read.
    fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        mut node: Option<&mut Conn>,
        way: &mut Way,
    ) -> Poll<Result<Passed, Close>> {
        self.client.register(cx);
        if let Some(reason) = self.client.broken() {
            return Poll::Ready(Err(Close(reason)));
        }
        if let Some(Order::Close(reason)) = self.client.order() {
            return Poll::Ready(Err(Close(reason)));
        }
        if let Some(conn) = &mut node
            && let Poll::Ready(arrival) = pin!(conn.arrival(usize::MAX)).poll(cx)
        {
            return Poll::Ready(Ok(told_early(arrival)));
        }
        for _ in 0..limits::READS_PER_TURN {
            if let Some(conn) = &mut node {
                match ready!(poll_send(cx, conn, way)) {
                    Ok(()) => {}
                    Err(_) => {
                        // Why it hung up may have come before.
                        let Poll::Ready(arrival) = pin!(conn.arrival(usize::MAX)).poll(cx) else {
                            return Poll::Ready(Ok(Passed::Lost));
                        };
                        return Poll::Ready(Ok(told_early(arrival)));
                    }
                }
            }
            if way.ended {
                return Poll::Ready(Ok(Passed::Whole));
            }
            if let ControlFlow::Break(ended) = ready!(self.poll_more(cx, node.as_deref_mut(), way)) {
                return Poll::Ready(ended);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// More of the request: from the input, else from the client's socket.
    fn poll_more(
        &mut self,
        cx: &mut Context<'_>,
        mut node: Option<&mut Conn>,
        way: &mut Way,
    ) -> Poll<ControlFlow<Result<Passed, Close>>> {
        if self.reading == self.reading.again() {
            let mut input = std::mem::take(&mut self.input);
            return Poll::Ready(match self.find(&input, way) {
                Ok(passed) => {
                    let passed = input.split_to(passed);
                    self.input = input;
                    if node.is_some() {
                        way.waiting = passed;
                    }
                    ControlFlow::Continue(())
                }
                Err(error) => ControlFlow::Break(Ok(Passed::Malformed(error))),
            });
        }
        if self.reading.has_ended() {
            return Poll::Ready(ControlFlow::Break(Err(Close(CloseReason::Client))));
        }
        let worker = Rc::clone(&self.door.worker);
        let scratch = &mut *worker.scratch.borrow_mut();
        // What the scan must see again stands in front of what comes.
        let kept = self.input.len();
        scratch
            .get_mut(..kept)
            .expect("an open line is shorter than the scratch")
            .copy_from_slice(&self.input);
        let mut buf = ReadBuf::new(scratch);
        buf.set_filled(kept);
        if ready!(self.client.poll_read(cx, &mut buf)).is_err() || buf.filled().len() == kept {
            return Poll::Ready(ControlFlow::Break(Err(Close(CloseReason::Client))));
        }
        self.received(buf.filled().len() - kept);
        let passed = match self.find(buf.filled(), way) {
            Ok(passed) => passed,
            Err(error) => return Poll::Ready(ControlFlow::Break(Ok(Passed::Malformed(error)))),
        };
        let (mut passed, rest) = buf.filled().split_at(passed);
        self.input.clear();
        self.input.extend_from_slice(rest);
        if let Some(conn) = &mut node {
            // Straight out of the scratch; what the node does not take now is kept.
            while !passed.is_empty() {
                match conn.poll_send(cx, passed) {
                    Poll::Ready(Ok(sent)) => passed.advance(sent),
                    // It fails again when what waits is sent.
                    Poll::Ready(Err(_)) | Poll::Pending => break,
                }
            }
            way.waiting.extend_from_slice(passed);
        }
        Poll::Ready(ControlFlow::Continue(()))
    }

    /// How many of `bytes` may leave, and whether the request ends there.
    fn find(&mut self, bytes: &[u8], way: &mut Way) -> Result<usize, RequestError> {
        let limits = self.request_limits();
        let passed = match self.scan.advance(bytes, &limits)? {
            Some(frame) => {
                way.ended = true;
                self.reading = self.reading.again();
                frame.len
            }
            None => {
                self.reading = self.reading.scanned();
                self.scan.forget(bytes.len())
            }
        };
        way.len += passed;
        Ok(passed)
    }
}

/// Sends what waits. Ready once nothing does.
fn poll_send(cx: &mut Context<'_>, conn: &mut Conn, way: &mut Way) -> Poll<io::Result<()>> {
    while !way.waiting.is_empty() {
        let sent = ready!(conn.poll_send(cx, &way.waiting))?;
        way.waiting.advance(sent);
    }
    way.waiting = BytesMut::new();
    if way.ended {
        return conn.poll_flush(cx);
    }
    Poll::Ready(Ok(()))
}

/// What the node has said before it had all.
fn told_early(arrival: io::Result<Arrival>) -> Passed {
    match arrival {
        Ok(Arrival::Frame(_, reply) | Arrival::Part(reply)) => Passed::Answered(reply),
        Err(_) => Passed::Lost,
    }
}
