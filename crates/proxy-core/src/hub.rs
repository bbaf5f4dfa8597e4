//! One connection to the node, in RESP2, for all subscribers of a worker and Profile.
//!
//! ```text
//!   session ---- join, leave ----> seats ----> task ---- SUBSCRIBE ----> node
//!   clients <---------------- messages ------- task <------------------- node
//! ```
//! A client hears a channel from the moment that its session has told it so, and the node has confirmed before that.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use resp_codec::write;
use tokio::sync::{Notify, oneshot};

use crate::backend::NodeKey;
use crate::backend::fleet::Fleet;
use crate::backend::lease::{Budget, Lease, LeaseError};
use crate::backend::profile::{Profile, Resp};
use crate::backoff::Backoff;
use crate::census::{Census, Counted};
use crate::client::Client;
use crate::limits;
use crate::metrics::{CloseReason, LeaseReason};
use crate::push::words;

/// The hubs of one worker: by master and Profile.
pub(crate) type Hubs = RefCell<BTreeMap<(usize, Profile), Rc<Hub>>>;

/// What is subscribed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Channel,
    Pattern,
    Shard,
}

/// A channel, pattern or shard channel.
pub(crate) type Name = (Kind, Bytes);

/// The node's word on one of them: its refusal, if it refuses.
pub(crate) type Word = oneshot::Receiver<Result<(), Bytes>>;

/// One connection to the node for many subscribers.
pub(crate) struct Hub {
    fleet: Rc<Fleet>,
    census: Arc<Census>,
    profile: Profile,
    channels: RefCell<BTreeMap<Name, Seats>>,
    /// Names that nobody hears any more, to be told to the node.
    left: RefCell<Vec<Name>>,
    /// The node is to be told something.
    has_orders: Cell<bool>,
    /// Its task runs.
    running: Cell<bool>,
    changed: Notify,
}

/// Who hears one name.
#[derive(Default)]
struct Seats {
    stage: Stage,
    clients: BTreeMap<u64, Seat>,
    /// Sessions that wait for the node's word.
    waiting: Vec<oneshot::Sender<Result<(), Bytes>>>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    /// The node is to be asked.
    #[default]
    Wished,
    /// It has been asked.
    Asked,
    /// It has confirmed.
    Confirmed,
}

struct Seat {
    ear: Rc<Ear>,
    /// The client has been told that it is subscribed.
    hears: Cell<bool>,
}

/// A client as its hub reaches it.
pub(crate) struct Ear {
    client: Rc<Client>,
    /// It speaks RESP3.
    takes_pushes: Cell<bool>,
    /// What it is to hear once a command of its own has been answered; `None` while there is no such command.
    waiting: RefCell<Option<BytesMut>>,
}

/// Clients that are served before other tasks have their turn.
const CLIENTS_PER_TURN: usize = 64;

// === impl Kind ===

impl Kind {
    /// By the name of the command that joins or leaves.
    pub(crate) fn of(command: &str) -> Self {
        match command.as_bytes().first() {
            Some(b'p') => Self::Pattern,
            _ if command.starts_with("ss") || command.starts_with("sun") => Self::Shard,
            _ => Self::Channel,
        }
    }

    fn verbs(self) -> (&'static [u8], &'static [u8]) {
        match self {
            Self::Channel => (b"SUBSCRIBE", b"UNSUBSCRIBE"),
            Self::Pattern => (b"PSUBSCRIBE", b"PUNSUBSCRIBE"),
            Self::Shard => (b"SSUBSCRIBE", b"SUNSUBSCRIBE"),
        }
    }
}

// === impl Hub ===

impl Hub {
    /// A hub that nobody has joined: it needs a task for its [`Self::run`] once somebody has.
    pub(crate) fn new(fleet: Rc<Fleet>, census: Arc<Census>, profile: Profile) -> Rc<Self> {
        Rc::new(Self {
            fleet,
            census,
            profile,
            channels: RefCell::default(),
            left: RefCell::default(),
            has_orders: Cell::new(false),
            running: Cell::new(false),
            changed: Notify::new(),
        })
    }

    /// True, once: its task is to be started.
    pub(crate) fn wakes(&self) -> bool {
        !self.running.replace(true)
    }

    /// A seat for `client`; it hears nothing before [`Self::hear`]. The answer comes with the node's word.
    pub(crate) fn join(&self, name: &Name, id: u64, ear: &Rc<Ear>) -> Option<Word> {
        let mut channels = self.channels.borrow_mut();
        let seats = channels.entry(name.clone()).or_default();
        seats.clients.entry(id).or_insert_with(|| Seat {
            ear: Rc::clone(ear),
            hears: Cell::new(false),
        });
        if seats.stage == Stage::Confirmed {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        seats.waiting.push(sender);
        self.order();
        Some(receiver)
    }

    /// The client has been told: messages may follow.
    pub(crate) fn hear(&self, name: &Name, id: u64) {
        let channels = self.channels.borrow();
        if let Some(seat) = channels.get(name).and_then(|seats| seats.clients.get(&id)) {
            seat.hears.set(true);
        }
    }

    pub(crate) fn leave(&self, name: &Name, id: u64) {
        if let Some(seats) = self.channels.borrow_mut().get_mut(name) {
            seats.clients.remove(&id);
        }
        self.abandon(name);
    }

    /// Nobody hears it any more: the node need not send it. Not while the node still owes its word on it.
    fn abandon(&self, name: &Name) {
        let channels = &mut *self.channels.borrow_mut();
        let Some(seats) = channels.get(name) else { return };
        if seats.clients.is_empty() && seats.stage != Stage::Asked {
            if seats.stage == Stage::Confirmed {
                self.left.borrow_mut().push(name.clone());
            }
            channels.remove(name);
            self.order();
        }
    }

    fn order(&self) {
        self.has_orders.set(true);
        self.changed.notify_one();
    }

    /// Serves the clients, from node to node, until none is left.
    pub(crate) async fn run(self: Rc<Self>, hubs: Rc<Hubs>) {
        let mut applied = self.fleet.applied();
        let mut backoff = Backoff::default();
        // Counted at the old term until all has arrived at the new one: held commands wait for that.
        let mut counted = None;
        while !self.channels.borrow().is_empty() {
            if let Some(backend) = self.fleet.primary(&self.profile) {
                let node = backend.link().node.clone();
                match backend.lease(Budget::Streaming, LeaseReason::Subscription).await {
                    Ok(mut lease) => {
                        let _ = self.serve(&mut lease, &node, &mut counted).await;
                        backoff = Backoff::default();
                    }
                    Err(LeaseError::Refused(refusal)) => self.send_away(&refusal),
                    Err(LeaseError::Lost | LeaseError::Exhausted) => {}
                }
                if self.fleet.is_primary(&node) && !self.channels.borrow().is_empty() {
                    tokio::time::sleep(backoff.next()).await;
                }
                continue;
            }
            applied.changed().await;
        }
        self.running.set(false);
        hubs.borrow_mut().retain(|_, hub| !Rc::ptr_eq(hub, &self));
    }

    /// One stay on one node.
    async fn serve(
        &self,
        lease: &mut Lease,
        node: &NodeKey,
        counted: &mut Option<Counted>,
    ) -> io::Result<()> {
        let mut applied = self.fleet.applied();
        let mut asked = VecDeque::new();
        let mut arrived = false;
        self.start_over();
        while self.fleet.is_primary(node) && !self.channels.borrow().is_empty() {
            if self.has_orders.take() {
                let orders = self.orders(&mut asked);
                lease.conn().send(&orders).await?;
            }
            if !arrived && asked.is_empty() {
                arrived = true;
                *counted = Some(self.census.count(node.term.unwrap_or_default()));
            }
            tokio::select! {
                biased;
                () = applied.changed() => {}
                () = self.changed.notified() => {}
                arrival = lease.conn().reply() => {
                    let (kind, frame) = arrival?;
                    if kind.is_error() {
                        self.refuse(asked.pop_front(), &frame);
                    } else {
                        self.take(&mut asked, &frame).await;
                    }
                }
            }
        }
        Ok(())
    }

    /// On a new connection nothing is subscribed.
    fn start_over(&self) {
        self.left.borrow_mut().clear();
        self.has_orders.set(true);
        let channels = &mut *self.channels.borrow_mut();
        channels.retain(|_, seats| !seats.clients.is_empty());
        channels
            .values_mut()
            .for_each(|seats| seats.stage = Stage::Wished);
    }

    /// What the node is to be told.
    fn orders(&self, asked: &mut VecDeque<Name>) -> BytesMut {
        let mut out = BytesMut::new();
        for (kind, name) in self.left.borrow_mut().drain(..) {
            write::command(&mut out, &[kind.verbs().1, &name]);
        }
        for (name, seats) in self.channels.borrow_mut().iter_mut() {
            if seats.stage == Stage::Wished {
                seats.stage = Stage::Asked;
                write::command(&mut out, &[name.0.verbs().0, &name.1]);
                asked.push_back(name.clone());
            }
        }
        out
    }

    async fn take(&self, asked: &mut VecDeque<Name>, frame: &Bytes) {
        let Some((word, Some(name))) = words(frame) else {
            return;
        };
        let named = |kind| (kind, Bytes::copy_from_slice(name));
        match word {
            b"message" => self.pass_on(&named(Kind::Channel), frame).await,
            b"pmessage" => self.pass_on(&named(Kind::Pattern), frame).await,
            b"smessage" => self.pass_on(&named(Kind::Shard), frame).await,
            b"subscribe" | b"psubscribe" | b"ssubscribe" => {
                if let Some(name) = asked.pop_front() {
                    self.confirm(&name);
                }
            }
            _ => {}
        }
    }

    fn confirm(&self, name: &Name) {
        if let Some(seats) = self.channels.borrow_mut().get_mut(name) {
            seats.stage = Stage::Confirmed;
            for waiting in seats.waiting.drain(..) {
                let _ = waiting.send(Ok(()));
            }
        }
        self.abandon(name);
    }

    /// The node refuses a name: nobody has it then, and whoever had it on another node is closed.
    fn refuse(&self, name: Option<Name>, refusal: &Bytes) {
        let seats = name.and_then(|name| self.channels.borrow_mut().remove(&name));
        if let Some(seats) = seats {
            seats.dismiss(refusal);
        }
    }

    /// The node refuses the Profile.
    fn send_away(&self, refusal: &Bytes) {
        let all = std::mem::take(&mut *self.channels.borrow_mut());
        all.into_values().for_each(|seats| seats.dismiss(refusal));
    }

    /// A message for all who hear `name`.
    async fn pass_on(&self, name: &Name, message: &Bytes) {
        let ids: Vec<u64> = match self.channels.borrow().get(name) {
            Some(seats) => seats.clients.keys().copied().collect(),
            None => return,
        };
        for chunk in ids.chunks(CLIENTS_PER_TURN) {
            self.pass_to(name, chunk, message);
            if ids.len() > CLIENTS_PER_TURN {
                tokio::task::yield_now().await;
            }
        }
    }

    fn pass_to(&self, name: &Name, ids: &[u64], message: &Bytes) {
        let channels = self.channels.borrow();
        let Some(seats) = channels.get(name) else { return };
        // Whoever has left meanwhile hears nothing more.
        let hearing = ids.iter().filter_map(|id| seats.clients.get(id));
        let mut push = None;
        for seat in hearing.filter(|seat| seat.hears.get()) {
            if seat.ear.takes_pushes.get() {
                seat.ear.hear(push.get_or_insert_with(|| as_push(message)));
            } else {
                seat.ear.hear(message);
            }
        }
    }
}

/// A message of RESP2 in RESP3.
fn as_push(message: &[u8]) -> BytesMut {
    let mut push = BytesMut::from(message);
    if let Some(kind) = push.first_mut() {
        *kind = b'>';
    }
    push
}

// === impl Ear ===

impl Ear {
    pub(crate) fn new(client: &Rc<Client>) -> Rc<Self> {
        Rc::new(Self {
            client: Rc::clone(client),
            takes_pushes: Cell::new(false),
            waiting: RefCell::new(None),
        })
    }

    /// In which version messages come from here on.
    pub(crate) fn speak(&self, resp: Resp) {
        self.takes_pushes.set(resp == Resp::Three);
    }

    /// A command of the client's is about to be answered: no message comes in the middle of that.
    pub(crate) fn close(&self) {
        self.waiting.borrow_mut().get_or_insert_default();
    }

    /// It has been answered.
    pub(crate) fn open(&self) {
        if let Some(waiting) = self.waiting.take() {
            self.client.push_past_hush(&waiting);
        }
    }

    fn hear(&self, message: &[u8]) {
        let waiting = &mut *self.waiting.borrow_mut();
        let waits = match waiting {
            Some(waiting) => {
                waiting.extend_from_slice(message);
                waiting.len()
            }
            None => {
                self.client.push_past_hush(message);
                0
            }
        };
        if waits + self.client.output_bytes() > limits::OUTPUT_PUSH_BYTES {
            self.client.break_off(CloseReason::Output);
            *waiting = None;
        }
    }
}

// === impl Seats ===

impl Seats {
    fn dismiss(self, refusal: &Bytes) {
        for waiting in self.waiting {
            let _ = waiting.send(Err(refusal.clone()));
        }
        for seat in self.clients.into_values().filter(|seat| seat.hears.get()) {
            seat.ear.client.break_off(CloseReason::Node);
        }
    }
}
