//! One connection shared by many sessions of one worker under one Profile; replies are matched by order.
//!
//! ```text
//!   sessions --send()--> chunks [ sent | being filled ] ---one write per tick---> node
//!                        entries (FIFO)  <---- front ---- replies, in order <---- node
//!                           | deliver / give_back
//!                           v
//!                        Client (written to its socket at once, a run of replies in one write)
//! ```
//! `outbox` is the way there, `replies` the way back, `slow` what happens where somebody does not take his.

mod bare;
mod outbox;
mod replies;
mod slow;

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use sentinel_watcher::{BoxIo, Suspicion};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::backend::Link;
use crate::backend::conn::{Conn, ConnectError};
use crate::backend::profile::Profile;
use crate::client::{Before, Shape, Ticket};
use crate::error::{Error, Sent, may_resend};
use crate::limits;
use crate::metrics::{CloseReason, ConnectionKind, Counter, ResendReason, Side};
use outbox::{Outbox, Place};
use replies::Replies;

/// A shared connection. Commands may be sent from the moment it exists; they leave once it is open.
pub(crate) struct Mux {
    link: Rc<Link>,
    state: RefCell<State>,
}

struct State {
    phase: Phase,
    entries: VecDeque<InFlight>,
    outbox: Outbox,
    waker: Option<Waker>,
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
    /// Takes no new commands: a slow client holds its reading up, or a script its node. Closes once all is answered.
    Retired,
    Closed,
}

/// A command that is not answered yet; or several of one client that stand side by side and are all of one shape.
struct InFlight {
    addressee: Addressee,
    shape: Shape,
    place: Place,
    /// How many of them have been answered. (The ticket stands for the others alone.)
    done: usize,
}

enum Addressee {
    /// A client's command.
    Client(Ticket),
    /// A question of slipring's own.
    Asker(oneshot::Sender<Bytes>),
    /// So many replies are dropped: of reads that were asked again elsewhere, or of an order of slipring's own.
    Nobody(u64),
}

// === impl Mux ===

impl Mux {
    /// A mux that starts to connect at once, in a task of its own.
    pub(crate) fn open(link: Rc<Link>, profile: Profile) -> Rc<Self> {
        let mux = Rc::new(Self::in_phase(link, Phase::Connecting));
        crate::task::spawn(Rc::clone(&mux).run(profile));
        mux
    }

    fn in_phase(link: Rc<Link>, phase: Phase) -> Self {
        Self {
            link,
            state: RefCell::new(State {
                phase,
                entries: VecDeque::new(),
                outbox: Outbox::default(),
                waker: None,
                replies: Replies::default(),
                silent_since: None,
                stuck: None,
            }),
        }
    }

    /// Where it leads.
    pub(crate) fn link(&self) -> &Rc<Link> {
        &self.link
    }

    /// New commands may be sent.
    #[must_use]
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state.borrow().phase, Phase::Connecting | Phase::Open)
    }

    /// The node has not answered on it yet.
    pub(crate) fn is_connecting(&self) -> bool {
        self.state.borrow().phase == Phase::Connecting
    }

    /// Nothing is or will be sent here any more.
    #[must_use]
    pub(crate) fn is_closed(&self) -> bool {
        self.state.borrow().phase == Phase::Closed
    }

    /// Sends a command (or a MULTI block); its replies come to `ticket`.
    pub(crate) fn send(&self, ticket: Ticket, frame: &[u8], shape: Shape) {
        self.append(Addressee::Client(ticket), frame, shape);
    }

    /// Sends an order of slipring's own, whose answer nobody needs.
    pub(crate) fn tell(&self, frame: &[u8], shape: Shape) {
        self.append(Addressee::Nobody(1), frame, shape);
    }

    /// Sends a question of slipring's own. `None`: the connection was lost before the answer.
    pub(crate) async fn ask(&self, frame: &[u8], shape: Shape) -> Option<Bytes> {
        let (sender, answer) = oneshot::channel();
        self.append(Addressee::Asker(sender), frame, shape);
        answer.await.ok()
    }

    /// A session holds it, or it owes an answer. (Its backend and its own task hold it, too.)
    pub(crate) fn is_used(self: &Rc<Self>) -> bool {
        Rc::strong_count(self) > 2 || !self.state.borrow().entries.is_empty()
    }

    /// It owes answers to reads at most.
    pub(crate) fn is_quiet(&self) -> bool {
        self.state.borrow().entries.iter().all(|entry| entry.shape.read)
    }

    /// Some command is not answered yet.
    pub(crate) fn owes_answers(&self) -> bool {
        !self.state.borrow().entries.is_empty()
    }

    /// Takes nothing new, and closes once all is answered.
    pub(crate) fn retire(&self) {
        let state = &mut *self.state.borrow_mut();
        if state.phase == Phase::Open {
            state.phase = Phase::Retired;
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
        }
    }

    /// Cuts the connection: what the node has not answered is given back or is an unknown outcome.
    pub(crate) fn cut(&self) {
        if self.state.borrow_mut().lose(&self.link, None) && self.link.node.term.is_some() {
            self.link.cells.add(
                Counter::FencedConnections {
                    upstream: self.link.upstream,
                },
                1,
            );
        }
    }

    fn append(&self, addressee: Addressee, frame: &[u8], shape: Shape) {
        let state = &mut *self.state.borrow_mut();
        if state.phase == Phase::Closed {
            addressee.give_back(Bytes::copy_from_slice(frame), shape, Before::Unanswered);
            return;
        }
        let place = state.outbox.push(frame);
        state.expect(addressee, shape, place);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    async fn run(self: Rc<Self>, profile: Profile) {
        let (mut io, _counted) = match self.connect(&profile).await {
            Ok(conn) => conn.into_parts(),
            Err(error) => return self.refuse(&error, &profile),
        };
        {
            let state = &mut *self.state.borrow_mut();
            if state.phase == Phase::Closed {
                return;
            }
            state.phase = Phase::Open;
        }
        let turns = std::future::poll_fn(|cx| self.poll(cx, &mut io));
        if tokio::task::coop::unconstrained(turns).await.is_err()
            && self.state.borrow_mut().lose(&self.link, None)
        {
            self.link.hint(Suspicion::ConnectionLost);
            // A node cuts the connections of a user that it has deleted: whoever was that user is so no longer.
            if profile.credentials.is_some()
                && let Err(ConnectError::Refused(reply)) =
                    self.link.connect(&profile, ConnectionKind::Control).await
            {
                self.link.revoke(&profile, &reply);
            }
        }
    }

    /// A connection to a node that answers: what it would not have taken in is not sent.
    async fn connect(&self, profile: &Profile) -> Result<Conn, ConnectError> {
        let mut conn = self.link.connect(profile, ConnectionKind::Mux).await?;
        let patience = self.link.settings.get().connect_timeout;
        match tokio::time::timeout(patience, conn.hear()).await {
            Ok(heard) => heard.map(|()| conn),
            Err(_) => Err(ConnectError::Io(io::ErrorKind::TimedOut.into())),
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
            _ => {
                let sent = |n| self.link.cells.add(Counter::SentBytes(Side::Node), n as u64);
                state.outbox.poll_write(cx, io, sent).map(Err)
            }
        }
    }

    /// Ready when the connection is lost.
    fn poll_replies(&self, cx: &mut Context<'_>, io: &mut BoxIo) -> Poll<io::Error> {
        for _ in 0..limits::READS_PER_TURN {
            if self.state.borrow_mut().is_stalled(cx, &self.link) {
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
            if state.replies.is_passing() {
                break;
            }
        }
        crate::task::wake_behind_others(cx);
        Poll::Pending
    }

    fn refuse(&self, error: &ConnectError, profile: &Profile) {
        match error {
            ConnectError::Io(error) => {
                tracing::debug!(node = %self.link.node.address, %error, "cannot connect");
                self.link.hint(Suspicion::DialFailed);
                self.state.borrow_mut().lose(&self.link, None);
            }
            ConnectError::Refused(reply) => {
                self.state.borrow_mut().lose(&self.link, Some(reply));
                self.link.revoke(profile, reply);
            }
        }
    }
}

// === impl State ===

impl State {
    /// The answer of what stands at `place` is for `addressee`, behind all others.
    fn expect(&mut self, addressee: Addressee, shape: Shape, place: Place) {
        let addressee = match self.entries.back_mut() {
            Some(last) => match last.absorb(addressee, shape, place) {
                Ok(()) => return,
                Err(addressee) => addressee,
            },
            None => addressee,
        };
        self.outbox.keep(place);
        self.entries.push_back(InFlight {
            addressee,
            shape,
            place,
            done: 0,
        });
    }

    /// A command here may keep this connection busy while the node serves others: a node neither reads nor writes
    /// the connection whose script it runs, so even what was answered before the script is silent.
    fn runs_code(&self) -> bool {
        let mut shapes = self.entries.iter().map(|entry| entry.shape);
        shapes.any(|shape| !shape.refusable || shape.replies > 1)
    }

    /// For each entry: a later one of the same client was sent and may not be sent again. A read before it, asked
    /// again, would answer from its own future.
    fn overtaken(&mut self, entries: &VecDeque<InFlight>) -> Vec<bool> {
        let mut writers = BTreeSet::new();
        let mut overtaken: Vec<_> = entries
            .iter()
            .rev()
            .map(|entry| {
                let Addressee::Client(ticket) = &entry.addressee else {
                    return false;
                };
                let overtaken = writers.contains(&ticket.client_address());
                if entry.shape.writes && self.outbox.sent(entry.place) == Sent::Maybe {
                    writers.insert(ticket.client_address());
                }
                overtaken
            })
            .collect();
        overtaken.reverse();
        overtaken
    }

    /// The connection is gone, or the node refused it with `refusal`: every unanswered command gets its end.
    /// False if it was gone already.
    fn lose(&mut self, link: &Link, refusal: Option<&Bytes>) -> bool {
        if std::mem::replace(&mut self.phase, Phase::Closed) == Phase::Closed {
            return false;
        }
        let mut passing = std::mem::take(&mut self.replies).is_passing();
        let entries = std::mem::take(&mut self.entries);
        let overtaken = self.overtaken(&entries);
        for (entry, overtaken) in entries.into_iter().zip(overtaken) {
            if matches!(entry.addressee, Addressee::Nobody(_)) {
                passing = false;
                continue;
            }
            let frames = if entry.shape.replies > 1 {
                vec![(self.outbox.copy(entry.place), self.outbox.sent(entry.place))]
            } else {
                self.outbox.frames(entry.place)
            };
            let unanswered = entry.unanswered() as usize;
            let (shape, mut rest) = (entry.shape, Some(entry.addressee));
            for (frame, sent) in frames.into_iter().skip(entry.done).take(unanswered) {
                let mut shape = shape;
                let addressee = Addressee::next_of(&mut rest);
                if std::mem::take(&mut passing) {
                    addressee.break_off();
                } else if let Some(refusal) = refusal {
                    addressee.deliver(refusal.repeat(shape.replies as usize).into(), shape);
                } else if may_resend(sent, shape.read && !overtaken, shape.resends) {
                    shape.resends += u8::from(sent == Sent::Maybe);
                    let (upstream, reason) = (link.upstream, reason_of(sent));
                    link.cells.add(Counter::Resends { upstream, reason }, 1);
                    addressee.give_back(frame, shape, Before::Unanswered);
                } else {
                    link.account_unknown(shape);
                    addressee.deliver(unknown_outcome(link, shape), shape);
                }
            }
        }
        self.outbox = Outbox::default();
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        true
    }
}

fn reason_of(sent: Sent) -> ResendReason {
    if sent == Sent::Maybe {
        ResendReason::Read
    } else {
        ResendReason::Unwritten
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

// === impl InFlight ===

impl InFlight {
    /// How many of its commands are not answered yet.
    fn unanswered(&self) -> u64 {
        match &self.addressee {
            Addressee::Client(ticket) => ticket.count(),
            Addressee::Asker(_) => 1,
            Addressee::Nobody(count) => *count,
        }
    }

    /// Takes in another command of the same client and shape that stands right behind.
    fn absorb(&mut self, addressee: Addressee, shape: Shape, place: Place) -> Result<(), Addressee> {
        let alike = self.shape == shape && shape.replies == 1 && self.done == 0;
        match (&mut self.addressee, addressee) {
            (Addressee::Client(own), Addressee::Client(next))
                if alike && own.is_followed_by(&next) && self.place.absorb(place) =>
            {
                own.absorb(next);
                Ok(())
            }
            (_, addressee) => Err(addressee),
        }
    }
}

// === impl Addressee ===

impl Addressee {
    /// The addressee of the first command of those that `rest` is the addressee of.
    fn next_of(rest: &mut Option<Self>) -> Self {
        match rest {
            Some(Self::Client(ticket)) if ticket.count() > 1 => Self::Client(ticket.split(1)),
            _ => rest.take().expect("as many places as frames"),
        }
    }

    fn deliver(self, reply: Bytes, shape: Shape) {
        match self {
            Self::Client(mut ticket) => {
                if shape.writes {
                    ticket.note_write();
                }
                ticket.deliver(&reply);
            }
            // An asker that no longer waits has no use for the answer.
            Self::Asker(asker) => drop(asker.send(reply)),
            Self::Nobody(_) => {}
        }
    }

    fn give_back(self, frame: Bytes, shape: Shape, before: Before) {
        if let Self::Client(ticket) = self {
            ticket.give_back(frame, shape, before);
        }
    }

    /// Half a reply has been passed on and the rest will not come: the client cannot be told anything any more.
    fn break_off(self) {
        if let Self::Client(ticket) = self {
            ticket.break_off(CloseReason::Node);
            ticket.deliver(b"");
        }
    }

    fn is_behind_returned(&self) -> bool {
        matches!(self, Self::Client(ticket) if ticket.is_behind_returned())
    }
}
