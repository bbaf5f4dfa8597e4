//! One connection shared by many sessions of one worker under one Profile; replies are matched by order.
//!
//! ```text
//!   sessions --send()--> chunks [ sent | being filled ] ---one write per tick---> node
//!                        entries (FIFO)  <---- front ---- replies, in order <---- node
//!                           | deliver / give_back
//!                           v
//!                        Client (written to its socket at once, a run of replies in one write)
//! ```
//! A chunk is kept until all its commands are answered: a command that must travel again is copied out of it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use resp_codec::{Progress, Refusal, ReplyKind, ReplyScan, refusal};
use sentinel_watcher::{BoxIo, Suspicion};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::backend::Link;
use crate::backend::conn::ConnectError;
use crate::backend::profile::Profile;
use crate::client::{Shape, Ticket};
use crate::error::{Error, Sent, may_resend};
use crate::limits;
use crate::metrics::{ConnectionKind, Counter, Outcome, ResendReason, Side};

/// A shared connection. Commands may be sent from the moment it exists; they leave once it is open.
pub(crate) struct Mux {
    link: Rc<Link>,
    state: RefCell<State>,
}

struct State {
    phase: Phase,
    entries: VecDeque<InFlight>,
    /// Sent and not wholly answered, then unsent.
    chunks: VecDeque<Chunk>,
    /// Number of the first chunk, counted from the connection's start.
    first_chunk: u64,
    /// How many of `chunks` are wholly written.
    written: usize,
    /// Empty buffers for the next chunks.
    spare: Vec<Vec<u8>>,
    waker: Option<Waker>,
    /// Whoever waits for the handshake.
    openers: Vec<oneshot::Sender<Result<(), Bytes>>>,
    replies: Replies,
    /// Since when the node owes an answer without having sent anything.
    silent_since: Option<Instant>,
    /// The stalled client in front: bytes it had taken, and since when it has taken no more.
    stuck: Option<(u64, Instant)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Open,
    /// Takes no new commands: a slow client holds its reading up. Closes once all is answered.
    Retired,
    Closed,
}

struct Chunk {
    bytes: Vec<u8>,
    unanswered: usize,
    written: usize,
}

struct InFlight {
    addressee: Addressee,
    shape: Shape,
    /// Number of its chunk, and where the frame stands in it.
    chunk: u64,
    start: usize,
    len: usize,
    since: Instant,
}

enum Addressee {
    /// A client's command.
    Client(Ticket),
    /// A question of slipring's own.
    Asker(oneshot::Sender<Bytes>),
}

/// The reply being read.
#[derive(Default)]
struct Replies {
    scan: ReplyScan,
    /// What came so far of a reply in pieces; all frames so far, for a MULTI block.
    pieces: BytesMut,
    /// Where in `pieces` the frame being read starts.
    frame_start: usize,
    /// Frames of a MULTI block already in `pieces`.
    frames: u32,
    /// The node's entry check refused the command, or a command of the block.
    refused: bool,
    /// The first part of a large reply has been passed on.
    passing: bool,
}

/// Replies for one client that lie side by side in the read buffer.
struct Run {
    ticket: Ticket,
    start: usize,
    end: usize,
}

// === impl Mux ===

impl Mux {
    /// A mux that starts to connect at once, in a task of its own.
    pub(crate) fn open(link: Rc<Link>, profile: Profile) -> Rc<Self> {
        let mux = Rc::new(Self {
            link,
            state: RefCell::new(State {
                phase: Phase::Connecting,
                entries: VecDeque::new(),
                chunks: VecDeque::new(),
                first_chunk: 0,
                written: 0,
                spare: Vec::new(),
                waker: None,
                openers: Vec::new(),
                replies: Replies::default(),
                silent_since: None,
                stuck: None,
            }),
        });
        crate::task::spawn(Rc::clone(&mux).run(profile));
        mux
    }

    /// New commands may be sent.
    #[must_use]
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state.borrow().phase, Phase::Connecting | Phase::Open)
    }

    /// Nothing is or will be sent here any more.
    #[must_use]
    pub(crate) fn is_closed(&self) -> bool {
        self.state.borrow().phase == Phase::Closed
    }

    /// Sends a command (or a MULTI block); its replies come to `ticket`.
    pub(crate) fn send(&self, ticket: Ticket, frame: &[u8], shape: Shape, now: Instant) {
        self.append(Addressee::Client(ticket), frame, shape, now);
    }

    /// Sends a question of slipring's own. `None`: the connection was lost before the answer.
    pub(crate) async fn ask(&self, frame: &[u8], shape: Shape) -> Option<Bytes> {
        let (sender, answer) = oneshot::channel();
        self.append(Addressee::Asker(sender), frame, shape, Instant::now());
        answer.await.ok()
    }

    /// Waits for the handshake.
    ///
    /// # Errors
    /// The node's refusal of the Profile; `None` if the node cannot be reached.
    pub(crate) async fn opened(&self) -> Result<(), Option<Bytes>> {
        let opening = {
            let state = &mut *self.state.borrow_mut();
            match state.phase {
                Phase::Open | Phase::Retired => return Ok(()),
                Phase::Closed => return Err(None),
                Phase::Connecting => {
                    let (sender, opening) = oneshot::channel();
                    state.openers.push(sender);
                    opening
                }
            }
        };
        opening.await.map_err(|_| None)?.map_err(Some)
    }

    /// Cuts the connection: what the node has not answered is given back or is an unknown outcome.
    pub(crate) fn fence(&self) {
        if self.state.borrow_mut().lose(&self.link, None) {
            self.link.cells.add(
                Counter::FencedConnections {
                    upstream: self.link.upstream,
                },
                1,
            );
        }
    }

    /// Looks for silence and for clients that take nothing. True: the node has been silent past `timeout`.
    pub(crate) fn pulse(&self, now: Instant, timeout: Duration) -> bool {
        let state = &mut *self.state.borrow_mut();
        state.break_off_stuck(now);
        if state.entries.is_empty() || !matches!(state.phase, Phase::Open | Phase::Retired) {
            state.silent_since = None;
            return false;
        }
        if state.stuck.is_some() {
            return false;
        }
        let since = *state.silent_since.get_or_insert(now);
        now.duration_since(since) >= timeout
    }

    fn append(&self, addressee: Addressee, frame: &[u8], shape: Shape, since: Instant) {
        let state = &mut *self.state.borrow_mut();
        if state.phase == Phase::Closed {
            addressee.give_back(Bytes::copy_from_slice(frame), shape, None);
            return;
        }
        let (chunk, start) = state.fill(frame);
        state.entries.push_back(InFlight {
            addressee,
            shape,
            chunk,
            start,
            len: frame.len(),
            since,
        });
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    async fn run(self: Rc<Self>, profile: Profile) {
        let (mut io, _counted) = match self.link.connect(&profile, ConnectionKind::Mux).await {
            Ok(conn) => conn.into_parts(),
            Err(error) => return self.refuse(&error),
        };
        {
            let state = &mut *self.state.borrow_mut();
            if state.phase == Phase::Closed {
                return;
            }
            state.phase = Phase::Open;
            for opener in state.openers.drain(..) {
                let _ = opener.send(Ok(()));
            }
        }
        let turns = std::future::poll_fn(|cx| self.poll(cx, &mut io));
        if tokio::task::coop::unconstrained(turns).await.is_err()
            && self.state.borrow_mut().lose(&self.link, None)
        {
            self.link.hint(Suspicion::ConnectionLost);
        }
    }

    /// Runs until the connection is lost (an error), fenced, or retired and done.
    fn poll(&self, cx: &mut Context<'_>, io: &mut BoxIo) -> Poll<io::Result<()>> {
        if let Poll::Ready(lost) = self.poll_replies(cx, io) {
            return Poll::Ready(Err(lost));
        }
        let state = &mut *self.state.borrow_mut();
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => state.waker = Some(cx.waker().clone()),
        }
        match state.phase {
            Phase::Closed => Poll::Ready(Ok(())),
            Phase::Retired if state.entries.is_empty() => {
                state.phase = Phase::Closed;
                Poll::Ready(Ok(()))
            }
            _ => state.poll_write(cx, io, &self.link).map(Err),
        }
    }

    /// Ready when the connection is lost.
    fn poll_replies(&self, cx: &mut Context<'_>, io: &mut BoxIo) -> Poll<io::Error> {
        for _ in 0..limits::READS_PER_TURN {
            if self.state.borrow_mut().is_stalled(cx) {
                return Poll::Pending;
            }
            let scratch = &mut *self.link.scratch.borrow_mut();
            let mut buf = ReadBuf::new(scratch);
            if let Err(error) = ready!(Pin::new(&mut *io).poll_read(cx, &mut buf)) {
                return Poll::Ready(error);
            }
            if buf.filled().is_empty() {
                return Poll::Ready(io::ErrorKind::UnexpectedEof.into());
            }
            self.link
                .cells
                .add(Counter::ReceivedBytes(Side::Node), buf.filled().len() as u64);
            let state = &mut *self.state.borrow_mut();
            state.silent_since = None;
            if let Err(error) = state.read(&self.link, buf.filled()) {
                tracing::error!(node = %self.link.node.address, %error, "the node's bytes make no sense; connection closed");
                return Poll::Ready(error);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn refuse(&self, error: &ConnectError) {
        match error {
            ConnectError::Io(error) => {
                tracing::debug!(node = %self.link.node.address, %error, "cannot connect");
                self.link.hint(Suspicion::DialFailed);
                self.state.borrow_mut().lose(&self.link, None);
            }
            ConnectError::Refused(reply) => {
                self.state.borrow_mut().lose(&self.link, Some(reply));
            }
        }
    }
}

// === impl State ===

impl State {
    /// Appends `frame` to the chunk that leaves next. Returns that chunk's number and the frame's place in it.
    fn fill(&mut self, frame: &[u8]) -> (u64, usize) {
        let open = match self.chunks.back() {
            Some(chunk) if self.written < self.chunks.len() => {
                chunk.written == 0 && chunk.bytes.len() + frame.len() <= limits::SCRATCH_BYTES
            }
            _ => false,
        };
        if !open {
            let bytes = self.spare.pop().unwrap_or_default();
            self.chunks.push_back(Chunk {
                bytes,
                unanswered: 0,
                written: 0,
            });
        }
        let number = self.first_chunk + self.chunks.len() as u64 - 1;
        let chunk = self.chunks.back_mut().expect("just pushed");
        let start = chunk.bytes.len();
        chunk.bytes.extend_from_slice(frame);
        chunk.unanswered += 1;
        (number, start)
    }

    /// Ready when the connection is lost.
    fn poll_write(&mut self, cx: &mut Context<'_>, io: &mut BoxIo, link: &Link) -> Poll<io::Error> {
        while let Some(chunk) = self.chunks.get_mut(self.written) {
            let rest = chunk.bytes.get(chunk.written..).unwrap_or_default();
            match ready!(Pin::new(&mut *io).poll_write(cx, rest)) {
                Ok(0) => return Poll::Ready(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    chunk.written += n;
                    link.cells.add(Counter::SentBytes(Side::Node), n as u64);
                    if chunk.written == chunk.bytes.len() {
                        self.written += 1;
                    }
                }
                Err(error) => return Poll::Ready(error),
            }
        }
        Poll::Pending
    }

    /// The client in front takes its replies too slowly to read on: no new work comes here.
    fn is_stalled(&mut self, cx: &Context<'_>) -> bool {
        let front = self.entries.front().map(|entry| &entry.addressee);
        let Some(Addressee::Client(ticket)) = front.filter(|front| front.is_stalled(cx)) else {
            self.stuck = None;
            return false;
        };
        if self.phase == Phase::Open {
            self.phase = Phase::Retired;
        }
        if self.stuck.is_none() {
            self.stuck = Some((ticket.taken(), Instant::now()));
        }
        true
    }

    /// Ends the client in front if it takes nothing while others wait behind its reply.
    fn break_off_stuck(&mut self, now: Instant) {
        let Some((taken, since)) = &mut self.stuck else {
            return;
        };
        let Some(Addressee::Client(ticket)) = self.entries.front().map(|entry| &entry.addressee) else {
            return;
        };
        if ticket.taken() != *taken {
            (*taken, *since) = (ticket.taken(), now);
        } else if self.entries.len() > 1 && now.duration_since(*since).as_secs() >= limits::SLOW_CLIENT_SECS {
            ticket.break_off();
        }
    }

    /// Splits what came into replies and hands them out.
    fn read(&mut self, link: &Link, bytes: &[u8]) -> io::Result<()> {
        let now = Instant::now();
        let mut run: Option<Run> = None;
        let mut at = 0;
        while at < bytes.len() {
            let rest = bytes.get(at..).unwrap_or_default();
            let progress = self.replies.scan.feed(rest).map_err(io::Error::other)?;
            let Progress::Complete { used, kind } = progress else {
                Run::finish(run.take(), bytes);
                self.keep_part(rest);
                break;
            };
            let start = at;
            at += used;
            if kind == ReplyKind::Push {
                // Nobody on a shared connection asked for a push (`CLIENT TRACKING` holds a lease).
                self.replies.pieces.truncate(self.replies.frame_start);
                continue;
            }
            let front = self
                .entries
                .front()
                .ok_or_else(|| io::Error::other("a reply that nobody asked for"))?;
            let whole = self.replies.pieces.is_empty() && !self.replies.passing && front.shape.replies == 1;
            if whole && !kind.is_error() {
                run = self.answer_in_run(link, run, bytes, start..at, now);
            } else {
                Run::finish(run.take(), bytes);
                self.take_piece(link, rest.get(..used).unwrap_or_default(), kind, now);
            }
        }
        Run::finish(run, bytes);
        Ok(())
    }

    /// The common case: the reply in front lies whole in `bytes` and joins the replies before it.
    fn answer_in_run(
        &mut self,
        link: &Link,
        mut run: Option<Run>,
        bytes: &[u8],
        at: std::ops::Range<usize>,
        now: Instant,
    ) -> Option<Run> {
        let entry = self.entries.pop_front().expect("the caller saw it");
        match entry.addressee {
            Addressee::Client(ticket) if entry.shape.read && ticket.is_behind_returned() => {
                Run::finish(run.take(), bytes);
                ticket.give_back(self.frame(entry.chunk, entry.start, entry.len), entry.shape, None);
            }
            Addressee::Client(ticket) => {
                link.account(entry.shape, Outcome::Ok, now.duration_since(entry.since));
                run = Some(Run::join(run, ticket, bytes, at));
            }
            Addressee::Asker(asker) => {
                let _ = asker.send(Bytes::copy_from_slice(bytes.get(at).unwrap_or_default()));
            }
        }
        self.answered(entry.chunk);
        run
    }

    /// One frame of a reply that came in pieces, has several frames, or is an error.
    fn take_piece(&mut self, link: &Link, frame: &[u8], kind: ReplyKind, now: Instant) {
        let shape = self.entries.front().expect("the caller saw it").shape;
        let replies = &mut self.replies;
        replies.pieces.extend_from_slice(frame);
        let frame = replies.pieces.get(replies.frame_start..).unwrap_or_default();
        let refusal = if kind == ReplyKind::Error {
            refusal(frame)
        } else {
            None
        };
        replies.refused |= refusal.is_some_and(|refusal| link.may_wait_out(refusal, frame));
        replies.frame_start = replies.pieces.len();
        replies.frames += 1;
        if replies.frames < shape.replies {
            return;
        }
        let reply = replies.pieces.split().freeze();
        let refused = replies.refused
            && shape.refusable
            && kind == ReplyKind::Error
            && may_resend(Sent::Refused, shape.read, shape.resends);
        let passing = replies.passing;
        *replies = Replies {
            scan: std::mem::take(&mut replies.scan),
            ..Replies::default()
        };

        let entry = self.entries.pop_front().expect("the caller saw it");
        if refused || (shape.read && !passing && entry.addressee.is_behind_returned()) {
            if refusal == Some(Refusal::Readonly) {
                link.hint(Suspicion::Demoted);
            }
            let frame = self.frame(entry.chunk, entry.start, entry.len);
            entry.addressee.give_back(frame, shape, refused.then_some(reply));
        } else {
            let outcome = if kind.is_error() {
                Outcome::Error
            } else {
                Outcome::Ok
            };
            link.account(shape, outcome, now.duration_since(entry.since));
            entry.addressee.deliver(reply);
        }
        self.answered(entry.chunk);
    }

    /// A reply that goes on: kept, or passed on where it is large and its client's turn has come.
    fn keep_part(&mut self, part: &[u8]) {
        let replies = &mut self.replies;
        let Some(InFlight {
            addressee: Addressee::Client(ticket),
            shape,
            ..
        }) = self.entries.front()
        else {
            replies.pieces.extend_from_slice(part);
            return;
        };
        if replies.passing {
            ticket.part(part);
            return;
        }
        replies.pieces.extend_from_slice(part);
        let large = replies.pieces.len() > limits::REPLY_WHOLE_BYTES
            && shape.replies == 1
            && !matches!(replies.pieces.first(), Some(b'-' | b'!' | b'>'));
        if large && ticket.is_next() && !ticket.is_behind_returned() {
            ticket.part(&replies.pieces);
            replies.pieces = BytesMut::new();
            replies.passing = true;
        }
    }

    /// A command of this chunk is answered; chunks that are done with make room.
    fn answered(&mut self, chunk: u64) {
        if let Some(chunk) = self.chunk_mut(chunk) {
            chunk.unanswered -= 1;
        }
        while self.written > 0 && self.chunks.front().is_some_and(|chunk| chunk.unanswered == 0) {
            let mut bytes = self.chunks.pop_front().expect("just seen").bytes;
            self.written -= 1;
            self.first_chunk += 1;
            if self.spare.is_empty() && bytes.capacity() <= limits::BUFFER_KEEP_BYTES {
                bytes.clear();
                self.spare.push(bytes);
            }
        }
    }

    fn chunk_mut(&mut self, number: u64) -> Option<&mut Chunk> {
        self.chunks
            .get_mut(usize::try_from(number - self.first_chunk).ok()?)
    }

    /// A copy of the frame that stands there.
    fn frame(&mut self, chunk: u64, start: usize, len: usize) -> Bytes {
        let bytes = self
            .chunk_mut(chunk)
            .and_then(|chunk| chunk.bytes.get(start..start + len));
        Bytes::copy_from_slice(bytes.expect("a chunk outlives its unanswered commands"))
    }

    /// Whether any byte of the frame that stands there was written.
    fn sent(&mut self, chunk: u64, start: usize) -> Sent {
        match self.chunk_mut(chunk) {
            Some(chunk) if chunk.written > start => Sent::Maybe,
            _ => Sent::Never,
        }
    }

    /// The connection is gone, or the node refused it with `refusal`: every unanswered command gets its end.
    /// False if it was gone already.
    fn lose(&mut self, link: &Link, refusal: Option<&Bytes>) -> bool {
        if std::mem::replace(&mut self.phase, Phase::Closed) == Phase::Closed {
            return false;
        }
        for opener in self.openers.drain(..) {
            // Without a refusal the sender is dropped: the node cannot be reached.
            if let Some(refusal) = refusal {
                let _ = opener.send(Err(refusal.clone()));
            }
        }
        let mut passing = std::mem::take(&mut self.replies).passing;
        for entry in std::mem::take(&mut self.entries) {
            let sent = self.sent(entry.chunk, entry.start);
            let InFlight {
                addressee, mut shape, ..
            } = entry;
            if std::mem::take(&mut passing) {
                addressee.break_off();
            } else if let Some(refusal) = refusal {
                addressee.deliver(refusal.repeat(shape.replies as usize).into());
            } else if may_resend(sent, shape.read, shape.resends) {
                shape.resends += u8::from(sent == Sent::Maybe);
                let reason = if sent == Sent::Maybe {
                    ResendReason::Read
                } else {
                    ResendReason::Unwritten
                };
                link.cells.add(Counter::Resends(reason), 1);
                addressee.give_back(self.frame(entry.chunk, entry.start, entry.len), shape, None);
            } else {
                link.account_unknown(shape);
                addressee.deliver(unknown_outcome(link, shape));
            }
        }
        self.chunks.clear();
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        true
    }
}

/// What a command (or a MULTI block, whose other replies are of no consequence then) is answered.
fn unknown_outcome(link: &Link, shape: Shape) -> Bytes {
    let error = Error::UnknownOutcome(&link.node.address).reply();
    if shape.replies == 1 {
        return error;
    }
    let mut replies = BytesMut::from(&b"+OK\r\n"[..]);
    for _ in 2..shape.replies {
        replies.extend_from_slice(b"+QUEUED\r\n");
    }
    replies.extend_from_slice(&error);
    replies.freeze()
}

// === impl Addressee ===

impl Addressee {
    fn deliver(self, reply: Bytes) {
        match self {
            Self::Client(ticket) => ticket.deliver(&reply),
            // An asker that no longer waits has no use for the answer.
            Self::Asker(asker) => drop(asker.send(reply)),
        }
    }

    fn give_back(self, frame: Bytes, shape: Shape, refusal: Option<Bytes>) {
        if let Self::Client(ticket) = self {
            ticket.give_back(frame, shape, refusal);
        }
    }

    /// Half a reply has been passed on and the rest will not come: the client cannot be told anything any more.
    fn break_off(self) {
        if let Self::Client(ticket) = self {
            ticket.break_off();
            ticket.deliver(b"");
        }
    }

    fn is_behind_returned(&self) -> bool {
        matches!(self, Self::Client(ticket) if ticket.is_behind_returned())
    }

    fn is_stalled(&self, cx: &Context<'_>) -> bool {
        matches!(self, Self::Client(ticket) if ticket.is_stalled(cx))
    }
}

// === impl Run ===

impl Run {
    /// Adds the reply at `at` to `run`, or finishes that and starts a new one.
    fn join(run: Option<Self>, ticket: Ticket, bytes: &[u8], at: std::ops::Range<usize>) -> Self {
        let Some(mut run) = run else {
            return Self {
                ticket,
                start: at.start,
                end: at.end,
            };
        };
        match run.ticket.absorb(ticket) {
            Ok(()) => {
                run.end = at.end;
                run
            }
            Err(ticket) => {
                Self::finish(Some(run), bytes);
                Self {
                    ticket,
                    start: at.start,
                    end: at.end,
                }
            }
        }
    }

    fn finish(run: Option<Self>, bytes: &[u8]) {
        if let Some(run) = run {
            run.ticket
                .deliver(bytes.get(run.start..run.end).unwrap_or_default());
        }
    }
}
