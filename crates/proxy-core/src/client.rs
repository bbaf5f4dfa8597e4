//! The downstream connection: its socket, its output, and the places its replies must come in.
//!
//! ```text
//!  session task                                  mux task (another task of the same worker)
//!    poll_read  <--- socket                        reads the node's replies
//!    ticket()   ---> Ticket(seq) --- travels --->  Ticket::deliver(bytes)
//!                                                     in order? written to the socket at once
//!    poll_flush <--- woken only when the socket       else: parked until its turn
//!                    would block                   Ticket::give_back(command): to be sent again
//! ```
//! A reply is written by the task that read it, so a request costs the session one wake-up, not two.

pub(crate) mod face;
mod hush;
mod order;
mod output;
mod passage;
mod rare;
mod ticket;

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use resp_codec::CommandId;
use sentinel_watcher::BoxIo;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use crate::limits;
use crate::metrics::{Cells, CloseReason};
use face::Face;
pub(crate) use hush::Hush;
pub(crate) use order::Order;
use rare::Rare;
pub(crate) use ticket::{Before, Returned, Shape, Ticket};

/// One client's connection. Shared by its session and the muxes that answer it.
pub(crate) struct Client {
    state: RefCell<State>,
    /// Its session waits for input, and for nothing else.
    resting: Cell<bool>,
    face: RefCell<Face>,
    /// The last command of the last batch.
    last: Cell<Option<CommandId>>,
    /// Batches of commands for which it counts as a reader of large replies.
    reads_large: Cell<u8>,
}

struct State {
    /// `None` once the session is over, or the socket failed.
    io: Option<BoxIo>,
    cells: Arc<Cells>,
    /// Bytes the socket has not taken yet, in order.
    output: BytesMut,
    /// The sequence number whose reply leaves next.
    head: u64,
    /// The sequence number that the next command gets.
    next: u64,
    /// All commands from here on have written nothing, as far as they are answered.
    wrote_before: u64,
    /// Commands handed to a mux and neither answered nor given back.
    in_flight: u64,
    /// Their bytes.
    in_flight_bytes: usize,
    /// `None` while there is nothing of it.
    rare: Option<Box<Rare>>,
    /// The session's task.
    waker: Option<Waker>,
    /// Bytes written to the socket so far; how a slow client is told from a stuck one.
    written: u64,
    /// Bytes read from it so far.
    received: u64,
    /// Bytes written, or waiting to be, when some were last read.
    answered: u64,
    /// When the client last said something; to the resolution of the worker's pulse.
    heard: Instant,
    /// CLIENT REPLY OFF or SKIP holds.
    hush: Option<Hush>,
    /// What ended `io`.
    broken_by: CloseReason,
    wants: Wants,
    order: Option<Order>,
}

/// What the session's task sleeps for, besides its socket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wants {
    Nothing,
    /// Less outstanding than the bounds.
    Room,
    /// The same, or more unread than the bound.
    RoomOrExcess,
    /// Nothing in flight: all answered, parked or given back.
    Landed,
    /// Everything answered.
    Settled,
}

// === impl Client ===

impl Client {
    /// A client on `io`, nothing sent, nothing waited for.
    #[must_use]
    pub(crate) fn new(io: BoxIo, cells: Arc<Cells>, face: Face) -> Rc<Self> {
        Rc::new(Self {
            state: RefCell::new(State {
                io: Some(io),
                cells,
                output: BytesMut::new(),
                head: 0,
                next: 0,
                wrote_before: 0,
                in_flight: 0,
                in_flight_bytes: 0,
                rare: None,
                waker: None,
                written: 0,
                received: 0,
                answered: 0,
                heard: face.since,
                hush: None,
                broken_by: CloseReason::Client,
                wants: Wants::Nothing,
                order: None,
            }),
            resting: Cell::new(true),
            face: RefCell::new(face),
            last: Cell::new(None),
            reads_large: Cell::new(0),
        })
    }

    /// What others may see of it.
    pub(crate) fn face(&self) -> Ref<'_, Face> {
        self.face.borrow()
    }

    /// The same, to be changed.
    pub(crate) fn face_mut(&self) -> RefMut<'_, Face> {
        self.face.borrow_mut()
    }

    /// The client's last command is this.
    pub(crate) fn note(&self, command: CommandId) {
        self.last.set(Some(command));
    }

    /// Whether it got a large reply not many batches ago. Asked once a batch.
    pub(crate) fn reads_large(&self) -> bool {
        let left = self.reads_large.get();
        self.reads_large.set(left.saturating_sub(1));
        left > 0
    }

    /// Remembers whom to wake.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        let state = &mut *self.state.borrow_mut();
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => state.waker = Some(cx.waker().clone()),
        }
    }

    /// The places of the next `count` commands, together `bytes` long; and whether there is room for more behind.
    pub(crate) fn ticket(self: &Rc<Self>, count: u64, bytes: usize) -> (Ticket, bool) {
        let state = &mut *self.state.borrow_mut();
        let seq = state.next;
        state.next += count;
        (self.issue(state, seq, count, bytes), state.has(Wants::Room))
    }

    /// The old place of a command that is sent again.
    pub(crate) fn ticket_again(self: &Rc<Self>, seq: u64, bytes: usize) -> Ticket {
        self.issue(&mut self.state.borrow_mut(), seq, 1, bytes)
    }

    fn issue(self: &Rc<Self>, state: &mut State, seq: u64, count: u64, bytes: usize) -> Ticket {
        state.in_flight += count;
        state.in_flight_bytes += bytes;
        Ticket {
            client: Rc::clone(self),
            seq,
            count,
            bytes,
            wrote: false,
        }
    }

    /// Answers a returned command in its old place.
    pub(crate) fn answer(self: &Rc<Self>, seq: u64, reply: &[u8]) {
        self.ticket_again(seq, 0).deliver(reply);
    }

    /// Answers the newest command from here, behind all replies still outstanding.
    pub(crate) fn reply(self: &Rc<Self>, reply: &[u8]) {
        self.ticket(1, 0).0.deliver(reply);
    }

    /// Passes on bytes that answer no ticket: a part of a reply, a push. Only while nothing is outstanding.
    pub(crate) fn push(&self, bytes: &[u8]) {
        let state = &mut *self.state.borrow_mut();
        debug_assert_eq!(state.head, state.next, "a push between replies");
        state.put(bytes);
    }

    /// The same, written with what comes next: somebody flushes soon.
    pub(crate) fn push_later(&self, bytes: &[u8]) {
        let state = &mut *self.state.borrow_mut();
        debug_assert_eq!(state.head, state.next, "a push between replies");
        state.put_later(bytes);
    }

    /// The same as [`Self::push`] for what the client gets although it has turned replies off: pushes, and what is
    /// published.
    pub(crate) fn push_past_hush(&self, bytes: &[u8]) {
        self.past_hush(bytes, State::put);
    }

    /// The same, written with what comes next.
    pub(crate) fn push_later_past_hush(&self, bytes: &[u8]) {
        self.past_hush(bytes, State::put_later);
    }

    fn past_hush(&self, bytes: &[u8], put: fn(&mut State, &[u8])) {
        let state = &mut *self.state.borrow_mut();
        let hush = state.hush.take();
        put(state, bytes);
        state.hush = hush;
    }

    /// From here on these replies are kept from the client. Only while nothing is outstanding.
    pub(crate) fn hush(&self, hush: Option<Hush>) {
        self.state.borrow_mut().hush = hush;
    }

    /// What the next reply was to be has been something else. False: it was to be a reply like others.
    pub(crate) fn end_skip(&self) -> bool {
        let hush = &mut self.state.borrow_mut().hush;
        hush.take_if(|hush| matches!(hush, Hush::Next(_))).is_some()
    }

    /// A blank line, or an empty array, counts as the command whose reply was to be kept back: as on Redis.
    pub(crate) fn end_skip_with_a_blank(&self) {
        if self.state.borrow().has(Wants::Settled) {
            self.end_skip();
        }
    }

    /// All replies are kept from the client.
    #[must_use]
    pub(crate) fn is_hushed(&self) -> bool {
        matches!(self.state.borrow().hush, Some(Hush::All))
    }

    /// Some reply is kept from the client.
    #[must_use]
    pub(crate) fn misses_replies(&self) -> bool {
        self.state.borrow().hush.is_some()
    }

    /// Reads from the socket.
    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.state.borrow_mut().io {
            Some(io) => Pin::new(io).poll_read(cx, buf),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Writes what waits. Ready once nothing does.
    pub(crate) fn poll_flush(&self) -> Poll<()> {
        if self.state.borrow_mut().flush() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Ready once nothing is in flight: every command is answered, parked, or to be sent again.
    pub(crate) fn poll_landed(&self, cx: &Context<'_>) -> Poll<()> {
        self.poll_wanted(cx, Wants::Landed)
    }

    /// Ready once every command has been answered.
    pub(crate) fn poll_settled(&self, cx: &Context<'_>) -> Poll<()> {
        self.poll_wanted(cx, Wants::Settled)
    }

    /// Ready while no more is unanswered or unread than one client may have.
    pub(crate) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        self.poll_wanted(cx, Wants::Room)
    }

    /// Ready as soon as there is room, or more is unread than one client may have.
    pub(crate) fn poll_room_or_excess(&self, cx: &Context<'_>) -> Poll<()> {
        self.poll_wanted(cx, Wants::RoomOrExcess)
    }

    fn poll_wanted(&self, cx: &Context<'_>, wants: Wants) -> Poll<()> {
        self.register(cx);
        let state = &mut *self.state.borrow_mut();
        if state.has(wants) {
            if state.wants == wants {
                state.wants = Wants::Nothing;
            }
            Poll::Ready(())
        } else {
            state.wants = wants;
            Poll::Pending
        }
    }

    /// Commands handed on that are neither answered nor given back.
    #[must_use]
    pub(crate) fn in_flight(&self) -> u64 {
        self.state.borrow().in_flight
    }

    /// The client has said something.
    pub(crate) fn hear(&self, now: Instant, bytes: usize) {
        let state = &mut *self.state.borrow_mut();
        state.heard = now;
        state.received += bytes as u64;
        state.answered = state.written + state.output.len() as u64;
    }

    /// Something has been written to it since it last said something, or still waits to be.
    pub(crate) fn has_answered_since_heard(&self) -> bool {
        let state = self.state.borrow();
        state.written > state.answered || !state.output.is_empty()
    }

    /// When it last said something.
    pub(crate) fn heard(&self) -> Instant {
        self.state.borrow().heard
    }

    /// Its session waits for input and for nothing else, or has left that.
    pub(crate) fn rest(&self, resting: bool) {
        self.resting.set(resting);
    }

    /// It has said nothing for `idle`, and waits for nothing: no reply, no blocked command, no message.
    #[must_use]
    pub(crate) fn is_idle_since(&self, now: Instant, idle: Duration) -> bool {
        let state = self.state.borrow();
        self.resting.get() && state.has(Wants::Settled) && now.duration_since(state.heard) >= idle
    }

    /// Bytes that the socket has taken so far.
    #[must_use]
    pub(crate) fn taken(&self) -> u64 {
        self.state.borrow().written
    }

    /// Some command has to be sent again.
    #[must_use]
    pub(crate) fn has_returned(&self) -> bool {
        self.state.borrow().first_returned().is_some()
    }

    /// A command behind `seq` may have been executed: the one at `seq` comes too late.
    #[must_use]
    pub(crate) fn has_overtaken(&self, seq: u64) -> bool {
        self.state.borrow().wrote_before > seq
    }

    /// Why nothing can be written any more, if so.
    #[must_use]
    pub(crate) fn broken(&self) -> Option<CloseReason> {
        let state = self.state.borrow();
        state.io.is_none().then_some(state.broken_by)
    }

    /// Nothing more can or shall be written; the session ends.
    pub(crate) fn break_off(&self, reason: CloseReason) {
        let state = &mut *self.state.borrow_mut();
        if state.io.is_some() {
            state.broken_by = reason;
            state.fail();
        }
    }
}

// === impl State ===

impl State {
    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    fn has(&self, wants: Wants) -> bool {
        match wants {
            Wants::Nothing => false,
            Wants::Room => {
                self.next - self.head < limits::PIPELINE_DEPTH
                    && self.in_flight_bytes < limits::PIPELINE_BYTES
                    && !self.is_unread()
                    && !self.has_feeders()
            }
            Wants::RoomOrExcess => self.is_unread() || self.has(Wants::Room),
            Wants::Landed => self.in_flight == 0,
            Wants::Settled => self.head == self.next,
        }
    }

    /// The client takes its replies more slowly than they come.
    fn is_unread(&self) -> bool {
        self.output.len() >= limits::OUTPUT_SOFT_BYTES + self.granted_bytes()
    }

    fn wake_if_wanted(&mut self) {
        if self.has(self.wants) {
            self.wants = Wants::Nothing;
            self.wake();
        }
    }

    /// `count` commands of together `bytes` are no longer in flight.
    fn landed(&mut self, count: u64, bytes: usize) {
        self.in_flight -= count;
        self.in_flight_bytes -= bytes;
    }

    fn fail(&mut self) {
        self.io = None;
        self.output = BytesMut::new();
        self.forget_parked();
        self.wake();
        self.wake_feeders();
    }

    /// The commands `first..first + count` are answered by `bytes`.
    fn deliver(&mut self, first: u64, count: u64, bytes: &[u8]) {
        if first == self.head {
            self.head += count;
            self.put(bytes);
            if self.rare.is_some() {
                self.unpark();
            }
        } else if self.io.is_some() {
            self.park(first, count, bytes);
        } else {
            self.head += count;
        }
        self.wake_if_wanted();
    }
}
