//! Sessions whose node speaks unasked: subscriptions, MONITOR, CLIENT TRACKING. All of the session's commands travel
//! on the same lease, so that replies and pushes keep the order in which the node wrote them.
//!
//! ```text
//!   stream --> join a node (again and again) --> flow: lease ----bytes----> client
//!                 ^  standing orders repeated,          <---commands----
//!                 |  their confirmations swallowed |
//!                 +--------- lost, or moved -------+
//! ```

mod roll;

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use resp_codec::{Class, Command, ReplyKind};
use sentinel_watcher::HostPort;
use tokio::time::Instant;

use super::hold::Pause;
use super::{Close, Session, shape_of};
use crate::backend::NodeKey;
use crate::backend::conn::Arrival;
use crate::backend::lease::{Budget, Clean, Lease, LeaseError, LeaseState};
use crate::backend::profile::{Profile, Resp};
use crate::door::Held;
use crate::error::{Error, Sent, may_resend};
use crate::limits;
use crate::metrics::{CloseReason, Counter, LeaseReason};
use crate::route;
use roll::Roll;

/// What a streaming session carries from node to node.
struct Stream {
    reason: LeaseReason,
    roll: Roll,
    /// Commands that are repeated on each new node: MONITOR, CLIENT TRACKING.
    standing: Vec<Bytes>,
    /// The connection is not as it was, and will not be again.
    altered: bool,
    /// Sent and not wholly answered.
    pending: VecDeque<Pending>,
    /// To be sent next.
    outbox: VecDeque<Pending>,
    /// Answered by the session itself, once nothing is pending.
    deferred: Option<Command<Bytes>>,
    /// The command in front of `outbox` waits for a primary, until then.
    held: Option<(Held, Instant)>,
    /// A large frame is being passed on.
    passing: bool,
    /// The node that it left last.
    former: Option<HostPort>,
}

struct Pending {
    command: Command<Bytes>,
    fate: Fate,
    resends: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Unsent,
    /// Frames still to come; `None`: not known before the first of them.
    Awaited(Option<usize>),
    /// Its connection was lost after it was sent.
    Unknown,
}

/// How long a new node may take to confirm what was subscribed on the old one.
const JOIN_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a subscription may lose its connection before it is confirmed, so that one that its node does not
/// survive is not carried on for ever.
const LOSSES_BORNE: u8 = 16;

/// Why a stay on one node ended.
enum Flow {
    /// Nothing is subscribed, nothing pending: the session is an ordinary one again.
    Over,
    /// The connection is lost, or the node is no longer the primary.
    Lost,
}

impl Session {
    /// Serves `first`, and all that follows until nothing is subscribed any more.
    pub(super) async fn stream(&mut self, first: Command<Bytes>, reason: LeaseReason) -> Result<(), Close> {
        self.settled().await?;
        let mut stream = Stream::new(reason, first);
        let mut pause = Pause::default();
        // Counted at the old term until it has arrived at the new one: held commands wait for that.
        let mut _counted = None;
        loop {
            let Some((mut lease, node)) = self.join(&stream).await? else {
                return Ok(());
            };
            if self.rejoin(&mut stream, &mut lease).await?.is_ok() {
                _counted = Some(self.door.census.count(node.term.unwrap_or_default()));
                if let Flow::Over = self.flow(&mut stream, &mut lease, &node).await? {
                    if let Some(clean) = Clean::prove(&stream.state()) {
                        lease.release(clean);
                    }
                    self.change(self.profile.clone());
                    return Ok(());
                }
            }
            drop(lease);
            self.lose_pending(&mut stream, &node.address);
            if self.door.fleet.is_primary(&node) {
                let mut applied = self.door.fleet.applied();
                self.changed(&mut applied, Instant::now() + pause.next()).await?;
            } else {
                pause = Pause::default();
            }
        }
    }

    /// Makes a fresh connection into what the last one was; the client sees nothing of it but messages.
    async fn rejoin(&mut self, stream: &mut Stream, lease: &mut Lease) -> Result<io::Result<()>, Close> {
        if stream.former.is_none() {
            return Ok(Ok(()));
        }
        let joining = async {
            for order in &stream.standing {
                lease.conn().send(order).await?;
                lease.conn().reply().await?;
            }
            let again = stream.roll.subscribe_again();
            lease.conn().send(&again).await?;
            let mut messages = Vec::new();
            while stream.roll.is_repeating() {
                let (_, frame) = lease.conn().reply().await?;
                if !stream.roll.swallows(&frame) {
                    messages.push(frame);
                }
            }
            Ok::<_, io::Error>(messages)
        };
        let joined = tokio::select! {
            biased;
            close = self.gone() => return Err(close),
            joined = tokio::time::timeout(JOIN_TIMEOUT, joining) => joined,
        };
        Ok(joined.map_err(io::Error::from).flatten().map(|messages| {
            for message in messages {
                self.client.push(&message);
            }
            if stream.reason == LeaseReason::Tracking && self.profile.resp == Resp::Three {
                // The node that knew what the client has cached is gone: all of it may be stale.
                self.client.push(b">2\r\n$10\r\ninvalidate\r\n_\r\n");
            }
        }))
    }

    /// A lease on the primary, as soon as there is one. `None`: the client has been told why not.
    async fn join(&mut self, stream: &Stream) -> Result<Option<(Lease, NodeKey)>, Close> {
        let first = match stream.outbox.front() {
            Some(first) if stream.former.is_none() => &first.command,
            // Its subscriptions come first; what else it has waits in `flow`.
            _ => return self.join_silently(stream).await.map(Some),
        };
        let mut shape = shape_of(first);
        shape.read = false;
        let bytes = first.frame().len();
        let deadline = Instant::now() + self.door.fleet.hold_timeout();
        let mut pause = Pause::default();
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
                        self.changed(&mut applied, Instant::now() + pause.next()).await?;
                        continue;
                    }
                },
            };
            self.client.reply(&refusal);
            return Ok(None);
        }
    }

    /// The same for a subscriber that asks nothing: it waits for as long as it takes.
    async fn join_silently(&mut self, stream: &Stream) -> Result<(Lease, NodeKey), Close> {
        let mut applied = self.door.fleet.applied();
        let mut pause = Pause::default();
        loop {
            match self.lease_now(stream).await? {
                Ok(joined) => return Ok(joined),
                Err(LeaseError::Refused(_)) => return Err(Close(CloseReason::Node)),
                Err(_) => drop(self.changed(&mut applied, Instant::now() + pause.next()).await?),
            }
        }
    }

    async fn lease_now(&mut self, stream: &Stream) -> Result<Result<(Lease, NodeKey), LeaseError>, Close> {
        let Some(backend) = self.door.fleet.primary(&self.profile) else {
            return Ok(Err(LeaseError::Lost));
        };
        let node = backend.link().node.clone();
        tokio::select! {
            biased;
            close = self.gone() => Err(close),
            leased = backend.lease(Budget::Streaming, stream.reason) => Ok(leased.map(|lease| (lease, node))),
        }
    }

    /// Both directions at once, until the stay ends.
    async fn flow(&mut self, stream: &mut Stream, lease: &mut Lease, node: &NodeKey) -> Result<Flow, Close> {
        let mut applied = self.door.fleet.applied();
        loop {
            let fleet = std::rc::Rc::clone(&self.door.fleet);
            let sending = stream.send(lease, || fleet.is_serving());
            if !matches!(self.while_primary(node, sending).await?, Some(Ok(()))) {
                return Ok(Flow::Lost);
            }
            if stream.pending.is_empty()
                && let Some(command) = stream.deferred.take()
            {
                if stream.forwards(&command, self.profile.resp) {
                    stream.outbox.push_back(Pending {
                        command,
                        fate: Fate::Unsent,
                        resends: 0,
                    });
                    continue;
                }
                let reset = command.spec().name == "reset";
                stream.altered |= reset;
                Box::pin(self.own(command)).await?;
                if reset {
                    return Ok(Flow::Over);
                }
            }
            if stream.is_over() {
                return Ok(Flow::Over);
            }
            let held_until = self.hold_stream(stream);
            let takes_more = held_until.is_none()
                && stream.deferred.is_none()
                && (stream.pending.len() as u64) < limits::PIPELINE_DEPTH;
            tokio::select! {
                biased;
                command = self.command_or_gone(takes_more) => stream.take_command(command?),
                arrival = lease.conn().arrival(limits::REPLY_WHOLE_BYTES) => match arrival {
                    Ok(arrival) => self.pass_on(stream, arrival)?,
                    Err(_) => return Ok(Flow::Lost),
                },
                () = applied.changed() => {}
                () = tokio::time::sleep_until(held_until.unwrap_or_else(Instant::now)), if held_until.is_some() => {}
            }
        }
    }

    /// Until when the command in front may wait for a primary; none waits, or it has just been refused, if `None`.
    fn hold_stream(&mut self, stream: &mut Stream) -> Option<Instant> {
        let Some(waiting) = stream.outbox.front() else {
            stream.held = None;
            return None;
        };
        let timeout = self.door.fleet.hold_timeout();
        let held = || {
            self.door
                .worker
                .hold(self.door.fleet.upstream(), waiting.command.frame().len())
        };
        if stream.held.is_none() {
            stream.held = held().map(|held| (held, Instant::now() + timeout));
        }
        let refusal = match &stream.held {
            Some((_, until)) if Instant::now() < *until => return Some(*until),
            Some(_) => self.no_primary(),
            None => Error::HoldFull.reply(),
        };
        if stream.pending.is_empty() {
            stream.outbox.pop_front();
            stream.held = None;
            self.client.push(&refusal);
        }
        None
    }

    async fn command_or_gone(&mut self, takes_more: bool) -> Result<Command<Bytes>, Close> {
        if takes_more {
            self.read_command(false).await
        } else {
            Err(self.gone().await)
        }
    }

    fn pass_on(&mut self, stream: &mut Stream, arrival: Arrival) -> Result<(), Close> {
        match arrival {
            Arrival::Part(part) => {
                stream.passing = true;
                self.client.push(&part);
            }
            Arrival::Frame(kind, frame) => {
                self.client.push(&frame);
                let whole = !std::mem::take(&mut stream.passing);
                if let Some(answered) = stream.note(kind, if whole { &frame } else { b"" }) {
                    self.note_profile(&answered, kind);
                }
                self.tell_unknown(stream);
            }
        }
        if self.client.output_bytes() > limits::OUTPUT_PUSH_BYTES {
            return Err(Close(CloseReason::Output));
        }
        Ok(())
    }

    /// A Profile that changes on a lease changes for the session.
    fn note_profile(&mut self, command: &Command<Bytes>, kind: ReplyKind) {
        if kind.is_error() {
            return;
        }
        let number = |at| std::str::from_utf8(command.arg(at)?).ok()?.parse::<u32>().ok();
        match (command.spec().name, number(1)) {
            ("select", Some(db)) => {
                self.profile = Profile {
                    db,
                    ..self.profile.clone()
                }
            }
            ("hello", Some(3)) => self.profile.resp = Resp::Three,
            ("hello", Some(2)) => self.profile.resp = Resp::Two,
            _ => {}
        }
    }

    /// The node is gone: what may travel again will, what was sent and may not is an unknown outcome, in its turn.
    fn lose_pending(&mut self, stream: &mut Stream, node: &HostPort) {
        if std::mem::take(&mut stream.passing) {
            self.client.break_off(CloseReason::Node);
        }
        for pending in &mut stream.pending {
            let shape = shape_of(&pending.command);
            let harmless = pending.resends < LOSSES_BORNE
                && !matches!(
                    pending.command.spec().class,
                    Class::Data | Class::Blocking | Class::Transaction
                );
            if pending.fate == Fate::Unsent
                || harmless
                || may_resend(Sent::Maybe, shape.read, pending.resends)
            {
                pending.fate = Fate::Unsent;
                pending.resends += 1;
            } else {
                pending.fate = Fate::Unknown;
            }
        }
        stream.former = Some(node.clone());
        self.tell_unknown(stream);
        // What stands behind an unknown outcome waits in its place; the rest is sent again.
        let pending = std::mem::take(&mut stream.pending);
        for pending in pending.into_iter().rev() {
            stream.outbox.push_front(pending);
        }
    }

    /// Unknown outcomes whose turn has come.
    fn tell_unknown(&mut self, stream: &mut Stream) {
        while stream
            .pending
            .front()
            .is_some_and(|pending| pending.fate == Fate::Unknown)
        {
            stream.pending.pop_front();
            let former = stream
                .former
                .as_ref()
                .expect("a command is lost with the node it was sent to");
            self.client.push(&Error::UnknownOutcome(former).reply());
            let upstream = self.door.fleet.upstream();
            self.door
                .worker
                .cells
                .add(Counter::UnknownOutcomes { upstream }, 1);
        }
    }
}

// === impl Stream ===

impl Stream {
    fn new(reason: LeaseReason, first: Command<Bytes>) -> Self {
        let first = Pending {
            command: first,
            fate: Fate::Unsent,
            resends: 0,
        };
        Self {
            reason,
            roll: Roll::default(),
            standing: Vec::new(),
            altered: false,
            pending: VecDeque::new(),
            outbox: VecDeque::from([first]),
            deferred: None,
            held: None,
            passing: false,
            former: None,
        }
    }

    /// Sends what waits. While the shard moves, what may write waits on, and all behind it.
    async fn send(&mut self, lease: &mut Lease, serving: impl Fn() -> bool) -> io::Result<()> {
        let may_leave =
            |next: &mut Pending| serving() || next.fate != Fate::Unsent || !may_write(&next.command);
        while let Some(mut next) = self.outbox.pop_front_if(may_leave) {
            if next.fate == Fate::Unsent {
                let frame = next.command.frame().clone();
                next.fate = Fate::Awaited(None);
                self.altered |= !matches!(next.command.spec().class, Class::Subscription | Class::Data);
                self.pending.push_back(next);
                lease.conn().send(&frame).await?;
            } else {
                self.pending.push_back(next);
            }
        }
        Ok(())
    }

    /// The client's next command: to the node, but for what only the session knows, once all before it is answered.
    fn take_command(&mut self, command: Command<Bytes>) {
        let name = command.spec().name;
        let own = matches!(
            name,
            "quit"
                | "reset"
                | "client|id"
                | "client|getname"
                | "client|setname"
                | "client|setinfo"
                | "client|reply"
                | "client|kill"
                | "client|unblock"
        );
        if own && command.arity_ok() {
            self.deferred = Some(command);
        } else {
            self.outbox.push_back(Pending {
                command,
                fate: Fate::Unsent,
                resends: 0,
            });
        }
    }

    /// A RESP2 subscriber may not ask this: the node words the refusal.
    fn forwards(&self, command: &Command<Bytes>, resp: Resp) -> bool {
        resp == Resp::Two && !self.roll.is_empty() && !matches!(command.spec().name, "quit" | "reset")
    }

    /// What a frame from the node means. Returns the command that it was the last answer of.
    fn note(&mut self, kind: ReplyKind, frame: &[u8]) -> Option<Command<Bytes>> {
        let confirmed = match self.roll.note(frame) {
            roll::Noted::Message => return None,
            roll::Noted::Confirmed { frames } => Some(frames),
            roll::Noted::Other if kind == ReplyKind::Push => return None,
            roll::Noted::Other => None,
        };
        let front = self.pending.front_mut()?;
        let mut left = 1;
        if let (Fate::Awaited(awaited), Some(frames)) = (front.fate, confirmed) {
            let named = front.command.argc() - 1;
            left = awaited.unwrap_or(if named > 0 { named } else { frames });
        }
        if left > 1 {
            front.fate = Fate::Awaited(Some(left - 1));
            return None;
        }
        let answered = self.pending.pop_front()?.command;
        let stands = matches!(
            answered.spec().name,
            "monitor" | "client|tracking" | "client|no-evict" | "client|no-touch"
        );
        if stands && !kind.is_error() {
            self.standing.push(answered.frame().clone());
        }
        Some(answered)
    }

    fn is_over(&self) -> bool {
        self.roll.is_empty() && !self.altered && self.pending.is_empty() && self.deferred.is_none()
    }

    fn state(&self) -> LeaseState {
        LeaseState {
            outstanding: self.pending.len(),
            subscriptions: self.roll.len(),
            altered: self.altered,
            ..LeaseState::default()
        }
    }
}

/// Whether a command may write, for what the table knows.
fn may_write(command: &Command<Bytes>) -> bool {
    let class = command.spec().class;
    matches!(
        class,
        Class::Data | Class::Blocking | Class::Transaction | Class::Control | Class::Wait
    ) && !route::is_read(command.spec())
        && command.spec().name != "ping"
}
