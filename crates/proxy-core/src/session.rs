//! One client: read a batch, plan, send; replies come back in order. START HERE.
//!
//! ```text
//!   poll_turn:  read -> scan -> plan --One--> mux.send(ticket)            (stays in poll_turn)
//!                                 \--Hold--> hold: wait for a primary     session/hold.rs
//!                                  \-Aside-> which way: session/aside.rs
//!                                   \        own affairs                  session/own.rs
//!                                    \       a lease                      session/pinned.rs, session/stream.rs
//!               returned commands ---------> recover: send again          session/hold.rs
//! ```
//! The common way is a plain poll function without futures; whatever waits leaves it as a [`Turn`].

mod abort;
mod aside;
mod clients;
mod close;
mod hold;
mod input;
mod multi;
mod noted;
mod own;
mod passage;
mod pause;
mod pinned;
mod proxy;
mod rearm;
mod shared;
mod stream;

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use resp_codec::{
    Class, Command, CommandFlags, RequestError, RequestFrame, RequestLimits, RequestScan, RequestShape,
};
use sentinel_watcher::{Epoch, Sabotage, is_sabotaged};

use crate::backend::mux::Mux;
use crate::backend::profile::Profile;
use crate::client::{Client, Order, Shape};
use crate::door::{Door, Origin};
use crate::limits;
use crate::metrics::CloseReason;
use crate::passage::Subscriptions;
use crate::route::{self, Plan};
use crate::settings::ClientAuth;
use input::Reading;
use noted::Scans;

pub(crate) use close::Close;

/// The state machine that serves one client.
pub(crate) struct Session {
    id: u64,
    client: Rc<Client>,
    door: Rc<Door>,
    profile: Rc<Profile>,
    origin: Origin,
    /// Under `--client-auth proxy`: has presented the password.
    admitted: bool,
    /// Input that is not consumed yet. Empty, and without memory, while the session rests.
    input: BytesMut,
    scan: RequestScan,
    reading: Reading,
    /// It reads large replies: the shared connections that it takes are those of such readers.
    reads_large: bool,
    primary: Option<Cached>,
    /// Boxed, for most sessions read from the primary.
    replica: Option<Box<Cached>>,
    /// The primary's term at the session's last write: WAIT vouches for no other.
    wrote_at: Option<Epoch>,
    /// The topology when it began.
    born: Epoch,
    /// Whoever subscribed before the input was read is subscribed, or late.
    caught_up: bool,
    /// Its scans, whose cursors mean nothing to another node.
    scans: Option<Box<Scans>>,
}

/// A shared connection that the last command took, good while the topology is the same.
struct Cached {
    epoch: Epoch,
    plan: Plan,
    mux: Rc<Mux>,
}

/// Why a session left its common way.
enum Turn {
    /// A command that the session sees to itself, or on a lease.
    Aside(Command<Bytes>),
    /// A command that no node can take now.
    Held(Command<Bytes>),
    /// An inline request that no node may be sent as it is.
    LongLine(Command<Bytes>),
    /// The request in the input is large, and has not come whole.
    Large,
    /// Commands came back, to be sent again.
    Recover,
    /// Another client has invalidations sent to this one.
    Stream,
    /// Another process has left the session to this one, with what it is subscribed to.
    Resume(Box<Subscriptions>),
    /// The client broke the protocol.
    Malformed(RequestError),
    /// Another process is to take over.
    Leave,
    /// It is over.
    Close(CloseReason),
}

/// What a session does off its common way.
type Left<'a> = Pin<Box<dyn Future<Output = Result<(), Close>> + 'a>>;

/// Commands of one shape that stand side by side in the input and go the same way: they are sent as one.
struct Group {
    plan: Plan,
    shape: Shape,
    count: u64,
    start: usize,
    end: usize,
}

/// Commands in a [`Group`], so that bounds are looked at often enough.
const GROUP_COMMANDS: u64 = 64;

/// The longest command that joins a [`Group`].
const GROUP_BYTES: usize = 512;

/// Why the input was not consumed further.
enum Stop {
    Dry,
    Full,
    Turn(Turn),
}

// === impl Group ===

impl Group {
    /// Whether the next command, of this plan and shape, goes with these.
    fn takes(&self, plan: Plan, shape: Shape, command: &Command<&[u8]>) -> bool {
        self.plan == plan
            && self.shape == shape
            && self.count < GROUP_COMMANDS
            && command.frame().len() <= GROUP_BYTES
            && !command.is_http()
    }

    /// How many commands at the head of `rest` read as `first` does, and how long they are.
    fn alike(first: &Command<&[u8]>, rest: &[u8]) -> (u64, usize) {
        if rest.is_empty() {
            return (0, 0);
        }
        match first.opening() {
            Some(opening) if first.spec().class == Class::Data => opening.run(rest, GROUP_COMMANDS - 1),
            _ => (0, 0),
        }
    }
}

// === impl Session ===

impl Session {
    pub(crate) fn new(client: Rc<Client>, door: Rc<Door>, origin: Origin) -> Self {
        let (id, profile) = {
            let face = client.face();
            (face.id, face.profile())
        };
        let born = door.fleet.topology().epoch;
        Self {
            id,
            client,
            profile,
            origin,
            admitted: false,
            input: BytesMut::new(),
            scan: RequestScan::default(),
            reading: Reading::Dry,
            reads_large: false,
            primary: None,
            replica: None,
            wrote_at: None,
            born,
            caught_up: false,
            scans: None,
            door,
        }
    }

    /// Which listener the client came through.
    pub(crate) fn listener(&self) -> usize {
        self.door.number
    }

    /// Serves the client until one side ends it. What it is subscribed to comes first.
    #[expect(
        clippy::manual_async_fn,
        reason = "it would keep its arguments twice, in every idle session"
    )]
    pub(crate) fn run(
        &mut self,
        mut subscriptions: Option<Box<Subscriptions>>,
    ) -> impl Future<Output = CloseReason> {
        async move {
            loop {
                let turn = match subscriptions.take() {
                    Some(subscriptions) => Turn::Resume(subscriptions),
                    None => {
                        self.client.rest(true);
                        let turn = std::future::poll_fn(|cx| self.poll_turn(cx)).await;
                        self.client.rest(false);
                        turn
                    }
                };
                if let Err(close) = self.off_the_common_way(turn).await {
                    return self.part(close).await;
                }
            }
        }
    }

    /// What the session does off its common way. Boxed, and made here: what is rare must not make the future of every
    /// idle session large.
    fn off_the_common_way(&mut self, turn: Turn) -> Left<'_> {
        match turn {
            Turn::Aside(command) => Box::pin(self.aside(command)),
            Turn::Held(command) => Box::pin(self.hold(command)),
            Turn::LongLine(command) => match self.consume(&input::spelled_out(&command)) {
                (_, Stop::Turn(turn)) => self.off_the_common_way(turn),
                _ => Box::pin(std::future::ready(Ok(()))),
            },
            Turn::Large => Box::pin(self.large()),
            Turn::Recover => Box::pin(self.recover()),
            Turn::Leave => Box::pin(self.leave()),
            Turn::Stream => Box::pin(self.listen()),
            Turn::Resume(subscriptions) if self.may_share_again(&subscriptions) => {
                Box::pin(self.share_again(*subscriptions))
            }
            Turn::Resume(subscriptions) => Box::pin(self.stream_again(*subscriptions)),
            Turn::Malformed(error) => Box::pin(async move { Err(self.malformed(error).await) }),
            Turn::Close(reason) => Box::pin(std::future::ready(Err(Close(reason)))),
        }
    }

    /// The common way: pending while there is nothing to do but to forward.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        if let Some(turn) = self.look_up(cx) {
            return Poll::Ready(turn);
        }
        for _ in 0..limits::READS_PER_TURN {
            if self.client.poll_room(cx).is_pending() {
                return self.poll_ahead(cx).map(Turn::Close);
            }
            let stop = match self.reading {
                Reading::Unscanned | Reading::LastUnscanned => self.consume_kept(),
                Reading::Dry => match ready!(self.poll_input(cx)) {
                    Ok(stop) => stop,
                    Err(reason) => return Poll::Ready(Turn::Close(reason)),
                },
                Reading::Ended => {
                    ready!(self.client.poll_settled(cx));
                    ready!(self.client.poll_flush());
                    return Poll::Ready(Turn::Close(CloseReason::Client));
                }
            };
            match stop {
                Stop::Turn(turn) => return Poll::Ready(turn),
                Stop::Dry | Stop::Full => {}
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// What matters before new input does.
    fn look_up(&mut self, cx: &Context<'_>) -> Option<Turn> {
        self.door.fleet.catch_up();
        self.client.register(cx);
        let _ = self.client.poll_flush();
        if let Some(reason) = self.client.broken() {
            return Some(Turn::Close(reason));
        }
        if self.client.has_returned() {
            return Some(Turn::Recover);
        }
        match self.client.order()? {
            Order::Close(reason) => Some(Turn::Close(reason)),
            Order::Stream => Some(Turn::Stream),
            Order::Leave => Some(Turn::Leave),
            // Asked so that the last reply wakes this session.
            Order::Drain => {
                let settled = self.client.poll_settled(cx).is_ready() && self.input.is_empty();
                settled.then_some(Turn::Close(CloseReason::Drain))
            }
        }
    }

    /// Plans and sends each complete request in `input`. Returns how many bytes are done with, and why it stopped.
    fn consume(&mut self, input: &[u8]) -> (usize, Stop) {
        let limits = self.request_limits();
        self.choose_company();
        let fleet = Rc::clone(&self.door.fleet);
        let may_share = self.may_enter() && fleet.paused().is_none();
        let settings = self.door.worker.settings.get();
        let reads = self.door.reads.get();
        let topology = fleet.topology();
        let mut used = 0;
        let mut group: Option<Group> = None;
        while used < input.len() {
            let rest = input.get(used..).unwrap_or_default();
            let frame = match self.scan.advance(rest, &limits) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => {
                    self.send_group(topology.epoch, group.take(), input);
                    return (used, Stop::Turn(Turn::Malformed(error)));
                }
            };
            let start = used;
            used += frame.len;
            if frame.shape == RequestShape::Empty {
                self.send_group(topology.epoch, group.take(), input);
                self.client.end_skip_with_a_blank();
                continue;
            }
            let command = Command::new(rest.get(..frame.len).unwrap_or_default(), frame);
            let may_share = may_share && !settings.denies(&command);
            let plan = if may_share {
                route::plan(topology.shard(0), reads, command.spec(), self.id)
            } else {
                Plan::Aside
            };
            let shape = shape_of(&command);
            if let Some(group) = &mut group
                && group.takes(plan, shape, &command)
            {
                group.count += 1;
                group.end = used;
                continue;
            }
            if !self.send_group(topology.epoch, group.take(), input) {
                return (start, Stop::Full);
            }
            if command.is_http() {
                // As Redis does: somebody makes a browser speak to us.
                return (used, Stop::Turn(Turn::Close(CloseReason::Protocol)));
            }
            let (plan, shape) = match command.spec().class {
                Class::Script | Class::Scan | Class::Audience | Class::Unknown if may_share => {
                    self.noted(topology.shard(0), topology.epoch, &command, shape)
                }
                _ => (plan, shape),
            };
            if plan == Plan::Pong {
                self.pong(&command);
                continue;
            }
            if let Some(turn) = self.turn(plan, &frame) {
                let command = Command::new(Bytes::copy_from_slice(command.frame()), frame);
                return (used, Stop::Turn(turn(command)));
            }
            let (count, len) = Group::alike(&command, input.get(used..).unwrap_or_default());
            used += len;
            group = Some(Group {
                plan,
                shape,
                count: 1 + count,
                start,
                end: used,
            });
        }
        if let Some(group) = &group {
            self.client.note(group.shape.command);
        }
        let room = self.send_group(topology.epoch, group, input);
        (used, if room { Stop::Dry } else { Stop::Full })
    }

    /// How a command leaves the common way, if it does.
    fn turn(&self, plan: Plan, frame: &RequestFrame) -> Option<fn(Command<Bytes>) -> Turn> {
        let len = frame.len;
        match plan {
            _ if frame.is_long_line() => Some(Turn::LongLine),
            Plan::Primary | Plan::Replica(_) | Plan::Hold if len > limits::REQUEST_SHARED_BYTES => {
                Some(Turn::Aside)
            }
            Plan::Hold => Some(Turn::Held),
            Plan::Aside => Some(Turn::Aside),
            Plan::Pong => None,
            // The connection that the session used takes nothing new, and still owes it answers.
            _ if !self.is_open(plan) && self.is_overtaking() => Some(Turn::Held),
            Plan::Primary | Plan::Replica(_) => None,
        }
    }

    /// Sends like commands that stand side by side in `input`. False: there is no room for more behind them.
    fn send_group(&mut self, epoch: Epoch, group: Option<Group>, input: &[u8]) -> bool {
        let Some(Group {
            plan,
            shape,
            count,
            start,
            end,
        }) = group
        else {
            return true;
        };
        let frames = input.get(start..end).unwrap_or_default();
        let (ticket, room) = self.client.ticket(count, frames.len());
        self.route(epoch, plan, shape).send(ticket, frames, shape);
        room
    }

    /// Shares connections with readers of large replies from when it is one of them until it is no longer. Not while some
    /// command of it is on its way: it would overtake itself.
    fn choose_company(&mut self) {
        let reads_large = self.client.reads_large();
        if reads_large != self.reads_large && self.client.in_flight() == 0 && !self.client.has_returned() {
            self.reads_large = reads_large;
            self.primary = None;
            self.replica = None;
        }
    }

    /// The shared connection that the last command of such a plan took takes more.
    fn is_open(&self, plan: Plan) -> bool {
        self.cached(plan).is_some_and(|cached| cached.mux.is_open())
    }

    /// The shared connection of `plan`, for a command of `shape`.
    fn route(&mut self, epoch: Epoch, plan: Plan, shape: Shape) -> &Mux {
        let fits = |cached: &Cached| cached.epoch == epoch && cached.plan == plan && cached.mux.is_open();
        if !self.cached(plan).is_some_and(fits) {
            let backend = self.door.fleet.backend_of(plan, &self.profile);
            let mux = if self.reads_large {
                backend.mux_for_large()
            } else {
                backend.mux(self.id)
            };
            let fresh = Cached { epoch, plan, mux };
            match plan {
                Plan::Primary => self.primary = Some(fresh),
                _ => self.replica = Some(Box::new(fresh)),
            }
        }
        if !shape.read {
            let cached = self.cached(plan).expect("just filled");
            self.wrote_at = cached.mux.link().node.term;
        }
        &self.cached(plan).expect("just filled").mux
    }

    /// The shared connection that the last command of such a plan took.
    fn cached(&self, plan: Plan) -> Option<&Cached> {
        match plan {
            Plan::Primary => self.primary.as_ref(),
            _ => self.replica.as_deref(),
        }
    }

    fn request_limits(&self) -> RequestLimits {
        if self.is_nobody() {
            RequestLimits::UNAUTHENTICATED
        } else {
            RequestLimits::AUTHENTICATED
        }
    }

    /// Has not authenticated where that is asked: AUTH, HELLO, QUIT and RESET are all it may.
    fn is_nobody(&self) -> bool {
        match self.door.worker.settings.client_auth() {
            ClientAuth::Passthrough => self.door.fleet.grants_nothing_to(&self.profile),
            ClientAuth::Proxy => !self.admitted,
            ClientAuth::None => false,
        }
    }

    /// The client may have its commands looked at: slipring itself asks no password, or has seen it.
    fn may_enter(&self) -> bool {
        self.admitted || self.door.worker.settings.client_auth() != ClientAuth::Proxy
    }
}

/// What a mux must know of `command`.
pub(crate) fn shape_of<B: AsRef<[u8]>>(command: &Command<B>) -> Shape {
    let spec = command.spec();
    Shape {
        command: spec.id,
        replies: 1,
        read: route::is_read(spec),
        writes: !route::is_read(spec) && !route::is_inert(spec),
        refusable: (!spec.flags.contains(CommandFlags::SCRIPT) && spec.class != Class::Control)
            || is_sabotaged(Sabotage::RetryScripts),
        resends: 0,
    }
}
