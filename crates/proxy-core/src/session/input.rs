//! What the client sent and the session has not consumed yet.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use resp_codec::{Command, RequestError, RequestScan, RequestShape, write};
use tokio::io::ReadBuf;

use super::{Close, Session, Stop, Turn, own};
use crate::client::Order;
use crate::limits;
use crate::metrics::{CloseReason, Counter, Side};

/// How far the input has been looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// `input` may hold a complete request.
    Unscanned,
    /// More input is needed.
    Dry,
    /// The client sends no more, and `input` may hold a complete request.
    LastUnscanned,
    /// The client sends no more, and all it sent has been looked at.
    Ended,
}

impl Session {
    /// One read, and what can be consumed of it.
    pub(super) fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Result<Stop, CloseReason>> {
        if !self.input.is_empty() {
            let filled = ready!(self.poll_fill(cx));
            return Poll::Ready(filled.map(|()| self.consume_kept()));
        }
        let worker = Rc::clone(&self.door.worker);
        let scratch = &mut *worker.scratch.borrow_mut();
        let mut buf = ReadBuf::new(scratch);
        if ready!(self.client.poll_read(cx, &mut buf)).is_err() {
            return Poll::Ready(Err(CloseReason::Client));
        }
        let filled = buf.filled();
        if filled.is_empty() {
            self.reading = self.reading.at_end_of_input();
            return Poll::Ready(Ok(Stop::Dry));
        }
        self.received(filled.len());
        let (used, stop) = self.consume(filled);
        self.keep(filled.get(used..).unwrap_or_default(), &stop);
        if self.keeps_large(&stop) {
            return Poll::Ready(Ok(Stop::Turn(Turn::Large)));
        }
        Poll::Ready(Ok(stop))
    }

    /// One read into `input`.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        let filled = self.poll_append(cx);
        self.client.keeps(self.input.len());
        filled
    }

    fn poll_append(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        let worker = Rc::clone(&self.door.worker);
        let scratch = &mut *worker.scratch.borrow_mut();
        let mut buf = ReadBuf::new(scratch);
        if ready!(self.client.poll_read(cx, &mut buf)).is_err() {
            return Poll::Ready(Err(CloseReason::Client));
        }
        if buf.filled().is_empty() {
            self.reading = self.reading.at_end_of_input();
            return Poll::Ready(Ok(()));
        }
        self.received(buf.filled().len());
        self.input.extend_from_slice(buf.filled());
        if self.input.len() > limits::REQUEST_SHARED_BYTES && worker.memory.is_scarce() {
            return Poll::Ready(Err(CloseReason::Memory));
        }
        self.reading = Reading::Unscanned;
        Poll::Ready(Ok(()))
    }

    /// A client that leaves replies unread is read on, up to a bound: it may be one that reads only once it has sent all.
    /// As much as is kept of it, it may leave unread, so that small replies make room for large requests. Ready if it is
    /// gone.
    #[cold]
    pub(super) fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        ready!(self.client.poll_room_or_excess(cx));
        for _ in 0..limits::READS_PER_TURN {
            if self.client.poll_room(cx).is_ready() {
                break;
            }
            if self.reading.has_ended() || self.input.len() >= self.most_kept() {
                return Poll::Pending;
            }
            if let Err(reason) = ready!(self.poll_fill(cx)) {
                return Poll::Ready(reason);
            }
            self.client.grant(self.input.len());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// How much is kept of a client that may be one which reads only once it has sent all.
    pub(super) fn most_kept(&self) -> usize {
        if self.is_nobody() {
            limits::STRANGER_INPUT_BYTES
        } else {
            limits::KEPT_INPUT_BYTES
        }
    }

    /// How much is kept of it while it waits for what does not depend on its reading, but where that is overdue.
    pub(super) fn kept_while_waiting(&self) -> usize {
        if self.client.has_read_up() {
            limits::WAITING_INPUT_BYTES
        } else {
            self.most_kept()
        }
    }

    /// `frame` is input again, before all other.
    pub(super) fn put_back(&mut self, frame: &[u8]) {
        let rest = std::mem::replace(&mut self.input, BytesMut::from(frame));
        self.input.extend_from_slice(&rest);
        self.scan = RequestScan::default();
        self.reading = if self.reading.has_ended() {
            Reading::LastUnscanned
        } else {
            Reading::Unscanned
        };
    }

    pub(super) fn received(&mut self, bytes: usize) {
        self.caught_up = false;
        self.client.hear(self.door.worker.now(), bytes);
        self.door
            .worker
            .cells
            .add(Counter::ReceivedBytes(Side::Client), bytes as u64);
    }

    /// The drain's deadline has passed.
    fn must_go(&self) -> bool {
        matches!(self.client.order(), Some(Order::Close(_)))
    }

    /// Consumes what `input` holds.
    pub(super) fn consume_kept(&mut self) -> Stop {
        let mut input = std::mem::take(&mut self.input);
        let (used, stop) = self.consume(&input);
        input.advance(used);
        if !input.is_empty() {
            self.input = input;
        }
        self.client.keeps(self.input.len());
        if matches!(stop, Stop::Dry) {
            self.reading = self.reading.scanned();
        }
        if self.keeps_large(&stop) {
            return Stop::Turn(Turn::Large);
        }
        stop
    }

    /// What has not come whole is too large to be kept.
    fn keeps_large(&self, stop: &Stop) -> bool {
        !self.input.is_empty() && matches!(stop, Stop::Dry) && self.is_large()
    }

    /// Keeps what was not consumed.
    fn keep(&mut self, rest: &[u8], stop: &Stop) {
        self.input.extend_from_slice(rest);
        self.reading = if matches!(stop, Stop::Dry) {
            Reading::Dry
        } else {
            Reading::Unscanned
        };
    }

    /// The client's next command. Cancel-safe: what was read stays. A drain ends it, unless the session is to be
    /// let finish what it has begun.
    pub(super) async fn read_command(&mut self, finishes: bool) -> Result<Command<Bytes>, Close> {
        match self.read_request(finishes).await? {
            Ok(command) => Ok(command),
            Err(error) => Err(self.malformed(error).await),
        }
    }

    /// The same; the inner error is the client's, to be answered behind all that is unanswered.
    pub(super) async fn read_request(
        &mut self,
        finishes: bool,
    ) -> Result<Result<Command<Bytes>, RequestError>, Close> {
        loop {
            if let Some(request) = self.request_at_hand() {
                if let Ok(command) = &request {
                    refuse_http(command)?;
                }
                return Ok(request);
            }
            poll_fn(|cx| {
                match self.look_up(cx) {
                    Some(Turn::Close(CloseReason::Drain)) if finishes && !self.must_go() => {}
                    Some(Turn::Close(reason)) => return Poll::Ready(Err(Close(reason))),
                    _ => {}
                }
                if self.reading.has_ended() {
                    return Poll::Ready(Err(Close(CloseReason::Client)));
                }
                self.poll_fill(cx).map_err(Close)
            })
            .await?;
        }
    }

    /// The first `len` bytes of the input. They share no memory with the rest, which would be copied whenever it grows.
    fn cut(&mut self, len: usize) -> Bytes {
        let rest = self.input.len().saturating_sub(len);
        if len > rest.max(limits::REQUEST_SHARED_BYTES) {
            let rest = BytesMut::from(self.input.get(len..).unwrap_or_default());
            let mut request = std::mem::replace(&mut self.input, rest);
            request.truncate(len);
            return request.freeze();
        }
        let request = Bytes::copy_from_slice(self.input.get(..len).unwrap_or_default());
        self.input.advance(len);
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        request
    }

    /// The client's next command, if it has come whole. The error is found again by whoever looks next.
    pub(super) fn request_at_hand(&mut self) -> Option<Result<Command<Bytes>, RequestError>> {
        while matches!(self.reading, Reading::Unscanned | Reading::LastUnscanned) {
            let limits = self.request_limits();
            match self.scan.advance(&self.input, &limits) {
                Ok(Some(frame)) => {
                    let bytes = self.cut(frame.len);
                    if frame.shape != RequestShape::Empty {
                        let command = Command::new(bytes, frame);
                        return Some(Ok(if frame.is_long_line() {
                            own::whole(spelled_out(&command))
                        } else {
                            command
                        }));
                    }
                    self.client.end_skip_with_a_blank();
                }
                Ok(None) => self.reading = self.reading.scanned(),
                Err(error) => return Some(Err(error)),
            }
        }
        None
    }
}

/// Somebody makes a browser speak to us: it is over, as on Redis. A node would end the connection that it comes over.
pub(super) fn refuse_http(command: &Command<Bytes>) -> Result<(), Close> {
    if command.is_http() {
        return Err(Close(CloseReason::Protocol));
    }
    Ok(())
}

/// An inline request as it would be with the lengths of its arguments. Past the limit a node may refuse the line, and that
/// ends the connection, which may be shared.
pub(super) fn spelled_out(command: &Command<Bytes>) -> Bytes {
    let mut out = BytesMut::new();
    write::command(&mut out, &command.args().collect::<Vec<_>>());
    out.freeze()
}

// === impl Reading ===

impl Reading {
    /// The client sends no more.
    pub(super) const fn has_ended(self) -> bool {
        matches!(self, Self::LastUnscanned | Self::Ended)
    }

    const fn at_end_of_input(self) -> Self {
        match self {
            Self::Unscanned | Self::LastUnscanned => Self::LastUnscanned,
            Self::Dry | Self::Ended => Self::Ended,
        }
    }

    /// The same, where the input is to be looked at again.
    pub(super) const fn again(self) -> Self {
        match self {
            Self::Unscanned | Self::Dry => Self::Unscanned,
            Self::LastUnscanned | Self::Ended => Self::LastUnscanned,
        }
    }

    /// The same, where the input has been looked at.
    pub(super) const fn scanned(self) -> Self {
        match self {
            Self::Unscanned | Self::Dry => Self::Dry,
            Self::LastUnscanned | Self::Ended => Self::Ended,
        }
    }
}
