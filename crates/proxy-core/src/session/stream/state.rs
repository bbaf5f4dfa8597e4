//! What a streaming session carries from node to node: its commands on their way, and what its connection is to be.

use std::collections::VecDeque;

use bytes::Bytes;
use resp_codec::{Class, Command, ReplyKind, RequestError};
use sentinel_watcher::HostPort;
use tokio::time::Instant;

use super::redirect::Redirect;
use super::roll::{Noted, Roll};
use super::standing::{Standing, is_monitors, is_our_own};
use super::transaction::{Step, Transaction};
use crate::backend::lease::LeaseState;
use crate::backend::profile::Resp;
use crate::census::Expected;
use crate::client::face::{Face, Mark};
use crate::door::Held;
use crate::error::{Sent, may_resend};
use crate::limits;
use crate::metrics::LeaseReason;
use crate::route;
use crate::session::clients;
use crate::session::shape_of;

/// What a streaming session carries from node to node.
pub(super) struct Stream {
    pub(super) reason: LeaseReason,
    /// Until the node has said something: whoever publishes meanwhile waits.
    pub(super) expected: Option<Expected>,
    pub(super) roll: Roll,
    pub(super) standing: Standing,
    pub(super) transaction: Transaction,
    /// The connection is not as it was, and will not be again.
    pub(super) altered: bool,
    /// Sent and not wholly answered.
    pub(super) pending: VecDeque<Pending>,
    /// To be sent next.
    pub(super) outbox: VecDeque<Pending>,
    /// Seen to by the session itself, once nothing is pending.
    pub(super) deferred: Option<Command<Bytes>>,
    /// The client broke the protocol: the last that it is answered, and it is told so behind all else.
    pub(super) malformed: Option<RequestError>,
    /// The command in front of `outbox` waits for a primary, until then.
    pub(super) held: Option<(Held, Instant)>,
    /// Where the node was told to send invalidations.
    pub(super) redirect: Option<Redirect>,
    /// DISCARD was sent in the place of EXEC, and this is what the client hears of it.
    pub(super) instead: Option<Bytes>,
    /// EXEC is being answered: what is still to come.
    executing: VecDeque<Step>,
    /// Frames still to come of an answer of several, once the first has come.
    left: Option<usize>,
    /// A large frame is being passed on.
    pub(super) passing: bool,
    /// The node that it left last.
    pub(super) former: Option<HostPort>,
    /// Commands that it was sent and that are not answered yet.
    carried: usize,
    /// The connection covers what the session has written: the WAIT in front may be sent.
    pub(super) vouched: bool,
    /// What was sent may have written.
    pub(super) wrote: bool,
    /// Bytes of commands for the connection so far, and those of them that it has taken.
    pub(super) gathered: u64,
    pub(super) written: u64,
}

/// A command on its way.
pub(super) struct Pending {
    pub(super) command: Command<Bytes>,
    pub(super) fate: Fate,
    /// Where it begins among the bytes of its connection.
    pub(super) begins: u64,
    /// When a blocking command was sent first.
    pub(super) since: Option<Instant>,
    /// How often it has travelled again.
    pub(super) resends: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Unsent,
    Sent,
    /// It is blocked, and the node was told to let go of it.
    LetGo,
    /// Its connection was lost after it was sent.
    Unknown,
}

/// How often a subscription may lose its connection before it is confirmed, or a command be refused, so that one that
/// its node does not survive is not carried on for ever.
pub(super) const LOSSES_BORNE: u8 = 16;

// === impl Stream ===

impl Stream {
    pub(super) fn new(reason: LeaseReason, transaction: Transaction) -> Self {
        Self {
            reason,
            expected: None,
            roll: Roll::default(),
            standing: Standing::default(),
            altered: !transaction.is_idle(),
            transaction,
            pending: VecDeque::new(),
            outbox: VecDeque::new(),
            deferred: None,
            malformed: None,
            held: None,
            redirect: None,
            instead: None,
            executing: VecDeque::new(),
            left: None,
            passing: false,
            former: None,
            carried: 0,
            vouched: false,
            wrote: false,
            gathered: 0,
            written: 0,
        }
    }

    /// The client's next command: to the node, but for what the session sees to itself.
    pub(super) fn take(&mut self, command: Command<Bytes>, checks_passwords: bool) {
        let proves = checks_passwords && matches!(command.spec().name, "auth" | "hello");
        if command.arity_ok() && (proves || is_own(&command)) {
            self.deferred = Some(command);
        } else {
            self.forward(command);
        }
    }

    /// To the node, behind all that waits.
    pub(super) fn forward(&mut self, command: Command<Bytes>) {
        self.outbox.push_back(Pending {
            command,
            fate: Fate::Unsent,
            begins: 0,
            since: None,
            resends: 0,
        });
    }

    /// Whether the node has to answer what the session would see to itself: it queues it, or words the refusal, since
    /// a RESP2 subscriber may not ask it.
    pub(super) fn node_answers(&self, command: &Command<Bytes>, resp: Resp) -> bool {
        let refused = resp == Resp::Two && !self.roll.is_empty();
        (refused || self.transaction.is_open()) && !matches!(command.spec().name, "quit" | "reset")
    }

    /// The session is to see to something itself, once it is caught up.
    pub(super) fn has_own_affairs(&self) -> bool {
        self.deferred.is_some() || self.malformed.is_some()
    }

    /// What waits to be sent.
    pub(super) fn unsent(&self) -> impl Iterator<Item = &Command<Bytes>> {
        self.outbox.iter().map(|pending| &pending.command)
    }

    /// What is sent or seen to next.
    pub(super) fn next(&self) -> Option<&Command<Bytes>> {
        self.outbox
            .front()
            .map(|pending| &pending.command)
            .or(self.deferred.as_ref())
    }

    /// Which command a frame of the node is the last of the answers to; none, if more follow, or if nobody asked.
    pub(super) fn hear(&mut self, kind: ReplyKind, frame: &[u8], resp: Resp) -> Option<Command<Bytes>> {
        let front = self.front();
        let subscribes = front.is_some_and(|front| front.spec().class == Class::Subscription);
        let may_be_pubsub = match resp {
            Resp::Three => kind == ReplyKind::Push,
            // Where EXEC's answers are known one by one, an array may be any command's.
            Resp::Two => subscribes || (self.executing.is_empty() && !self.roll.is_empty()),
        };
        let named = front.map_or(0, |front| front.argc() - 1);
        let noted = if may_be_pubsub {
            self.roll.note(frame)
        } else {
            Noted::Other
        };
        match noted {
            Noted::Message => return None,
            // EXEC names one answer for each command, and sends one for each channel.
            Noted::Confirmed { .. } if !subscribes => return None,
            Noted::Confirmed { frames } => {
                let left = self.left.unwrap_or(if named > 0 { named } else { frames });
                self.left = (left > 1).then(|| left - 1);
                if self.left.is_some() {
                    return None;
                }
            }
            Noted::Other if kind == ReplyKind::Push => return None,
            Noted::Other if self.standing.monitors() && is_monitors(frame) => return None,
            Noted::Other => {}
        }
        self.take_front()
    }

    /// It monitors, and is told of what slipring itself sends.
    pub(super) fn overhears_us(&self, frame: &[u8]) -> bool {
        self.standing.monitors() && is_our_own(frame)
    }

    /// The command that the next frame answers, where it is known.
    fn front(&self) -> Option<&Command<Bytes>> {
        match self.executing.front() {
            Some(Step::Command(command)) => Some(command),
            Some(Step::Others(_)) => None,
            None => self.pending.front().map(|pending| &pending.command),
        }
    }

    fn take_front(&mut self) -> Option<Command<Bytes>> {
        match self.executing.pop_front() {
            Some(Step::Command(command)) => return Some(command),
            Some(Step::Others(count)) => {
                if count > 1 {
                    self.executing.push_front(Step::Others(count - 1));
                }
                return None;
            }
            None => {}
        }
        self.take_pending().map(|answered| answered.command)
    }

    /// The command in front is off its way.
    pub(super) fn take_pending(&mut self) -> Option<Pending> {
        let front = self.pending.pop_front()?;
        self.carried = self.carried.saturating_sub(1);
        Some(front)
    }

    /// The command that waits in front is not going to be sent.
    pub(super) fn pop_unsent(&mut self) -> Option<Command<Bytes>> {
        let front = self.outbox.pop_front()?;
        self.carried = self.carried.saturating_sub(1);
        Some(front.command)
    }

    /// Nothing travels behind what was sent last.
    pub(super) fn waits_for_answer(&self) -> bool {
        self.instead.is_some() || self.waits_behind_blocked()
    }

    /// What has no answer any more waits for its turn among what has.
    pub(super) fn reach_lost(&mut self) {
        while !self.waits_for_answer()
            && let Some(lost) = self.outbox.pop_front_if(|next| next.fate != Fate::Unsent)
        {
            self.pending.push_back(lost);
        }
    }

    /// EXEC's array has come: each of its elements answers one of these. False, if none of them matters.
    pub(super) fn execute(&mut self) -> bool {
        let matters = self.transaction.concerns_connection();
        let steps = self.transaction.take_steps();
        if matters {
            self.executing = steps;
        }
        matters
    }

    /// Answers up to this length must come whole.
    pub(super) fn whole_bytes(&self) -> usize {
        if self.transaction.concerns_connection() {
            limits::OUTPUT_PUSH_BYTES
        } else {
            limits::REPLY_WHOLE_BYTES
        }
    }

    /// Half an answer has been passed on.
    pub(super) fn is_within_answer(&self) -> bool {
        self.passing || !self.executing.is_empty()
    }

    /// The node is going to answer something, whatever others do. What may block has nothing behind it.
    pub(super) fn owes_answers(&self) -> bool {
        let last = self.pending.back();
        last.is_some_and(|last| !last.command.may_block())
    }

    /// All is answered, and something else comes before what the node says next.
    pub(super) fn has_turned(&self) -> bool {
        let waits = self.has_own_affairs() || !self.outbox.is_empty();
        self.pending.is_empty() && (waits || self.is_over())
    }

    /// Some command that a former node was sent is not answered yet.
    pub(super) fn is_catching_up(&self) -> bool {
        self.carried > 0
    }

    /// The node is gone: what may travel again will; what was sent and may not is an unknown outcome.
    pub(super) fn lose(&mut self, node: &HostPort) {
        self.former = Some(node.clone());
        self.left = None;
        self.executing.clear();
        self.passing = false;
        self.vouched = false;
        if self.instead.take().is_some()
            && let Some(exec) = self.pending.back_mut()
        {
            exec.fate = Fate::Unsent;
        }
        self.take_back_unwritten();
        self.lose_pending();
        self.transaction.lose();
    }

    /// What is not answered goes to the next node first; an unknown outcome keeps its place among it.
    pub(super) fn carry(&mut self) {
        self.carried = self.pending.len();
        for pending in std::mem::take(&mut self.pending).into_iter().rev() {
            self.outbox.push_front(pending);
        }
    }

    fn lose_pending(&mut self) {
        let mut open = self.transaction.is_open();
        let mut queues = Vec::with_capacity(self.pending.len());
        for pending in &self.pending {
            match pending.command.spec().name {
                "multi" => open = true,
                "exec" | "discard" => open = false,
                _ => {}
            }
            queues.push(open);
        }
        // Seen from behind: an EXEC that was sent takes with it all that it would have executed.
        let (mut executed, mut unwatched, mut wrote) = (false, false, false);
        for (pending, queues) in self.pending.iter_mut().zip(queues).rev() {
            let name = pending.command.spec().name;
            executed = match name {
                "exec" => {
                    unwatched |= pending.fate != Fate::Unsent;
                    pending.fate != Fate::Unsent
                }
                _ => executed && queues,
            };
            let unsent =
                pending.fate == Fate::Unsent || (!executed && (queues || may_travel(pending, wrote)));
            pending.fate = if unsent { Fate::Unsent } else { Fate::Unknown };
            wrote |= !unsent && may_write(&pending.command);
            pending.resends += u8::from(unsent);
            executed &= name != "multi";
        }
        if executed {
            self.transaction.forget();
        } else if unwatched {
            self.transaction.unwatch();
        }
    }

    /// Lets others see what is subscribed, and what `answered` has made of the connection.
    pub(super) fn show(&self, answered: &Command<Bytes>, face: &mut Face) {
        self.show_counts(face);
        let doing = face.doing();
        let says = |word: &[u8]| answered.args().skip(2).any(|arg| arg.eq_ignore_ascii_case(word));
        match answered.spec().name {
            "monitor" => doing.mark(Mark::Monitor, true),
            "client|tracking" => {
                doing.mark(Mark::Tracking, says(b"on"));
                doing.mark(Mark::Broadcast, says(b"on") && says(b"bcast"));
            }
            "client|no-evict" => doing.mark(Mark::NoEvict, says(b"on")),
            "client|no-touch" => doing.mark(Mark::NoTouch, says(b"on")),
            "client|import-source" => doing.mark(Mark::ImportSource, says(b"on")),
            _ => {}
        }
    }

    /// Lets others see how much is subscribed.
    pub(super) fn show_counts(&self, face: &mut Face) {
        let doing = face.doing();
        [doing.channels, doing.patterns, doing.shard_channels] = self.roll.counts();
    }

    pub(super) fn is_over(&self) -> bool {
        self.roll.is_empty() && self.standing.is_empty() && self.is_at_rest()
    }

    /// The client waits for nothing but what is published.
    pub(super) fn is_at_rest(&self) -> bool {
        let within = self.is_within_answer() || !self.transaction.is_idle();
        self.is_caught_up() && !within && !self.has_own_affairs()
    }

    /// All that was taken is answered, but for what is deferred.
    pub(super) fn is_caught_up(&self) -> bool {
        self.pending.is_empty() && self.outbox.is_empty()
    }

    pub(super) fn state(&self) -> LeaseState {
        LeaseState {
            outstanding: self.pending.len() + self.executing.len(),
            in_multi: self.transaction.is_open(),
            watching: self.transaction.watches(),
            subscriptions: self.roll.len(),
            altered: self.altered || !self.standing.is_empty(),
        }
    }
}

/// Whether a command that was sent may be sent again. Where the client `wrote` behind it, a read would answer from its own
/// future.
fn may_travel(pending: &Pending, wrote: bool) -> bool {
    let spec = pending.command.spec();
    let concerns_data =
        spec.class.is_shared() || matches!(spec.class, Class::Blocking | Class::Wait | Class::Control);
    let harmless = !concerns_data && spec.name != "exec" && pending.resends < LOSSES_BORNE;
    harmless || (!wrote && may_resend(Sent::Maybe, shape_of(&pending.command).read, pending.resends))
}

/// Whether the node does nothing for it and says nothing to it, since no replica has sent it: that is past SYNC.
pub(super) fn is_silent(command: &Command<Bytes>) -> bool {
    let silent = |word: &[u8]| word.eq_ignore_ascii_case(b"ack") || word.eq_ignore_ascii_case(b"getack");
    let in_pairs = command.args().count() % 2 == 1;
    command.spec().name == "replconf" && in_pairs && command.arg(1).is_some_and(silent)
}

/// Whether the session sees to it, once all before it is answered.
fn is_own(command: &Command<Bytes>) -> bool {
    let name = command.spec().name;
    match command.spec().class {
        Class::Stream => name != "monitor",
        Class::Own => true,
        Class::Session => matches!(name, "quit" | "reset") || clients::is_own(name),
        _ => false,
    }
}

/// Whether a command waits while there is no primary that serves.
pub(super) fn waits_for_primary(command: &Command<Bytes>) -> bool {
    command.may_block() || may_write(command)
}

/// Whether a command may write, for what the table knows.
pub(super) fn may_write(command: &Command<Bytes>) -> bool {
    let class = command.spec().class;
    let may = class.is_shared()
        || matches!(
            class,
            Class::Blocking | Class::Transaction | Class::Control | Class::Wait
        );
    may && !route::is_read(command.spec()) && command.spec().name != "ping"
}
