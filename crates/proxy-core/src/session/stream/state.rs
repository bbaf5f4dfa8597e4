//! What a streaming session carries from node to node: its subscriptions, and its commands on their way.

use std::collections::VecDeque;
use std::io;

use bytes::Bytes;
use resp_codec::{Class, Command, ReplyKind};
use sentinel_watcher::HostPort;
use tokio::time::Instant;

use super::roll::{Noted, Roll};
use crate::backend::lease::{Lease, LeaseState};
use crate::backend::profile::Resp;
use crate::client::face::{Face, Mark};
use crate::door::Held;
use crate::metrics::LeaseReason;
use crate::route;
use crate::session::clients::is_own;

/// What a streaming session carries from node to node.
pub(super) struct Stream {
    pub(super) reason: LeaseReason,
    pub(super) roll: Roll,
    /// Commands that are repeated on each new node: MONITOR, CLIENT TRACKING.
    pub(super) standing: Vec<Bytes>,
    /// The connection is not as it was, and will not be again.
    pub(super) altered: bool,
    /// Sent and not wholly answered.
    pub(super) pending: VecDeque<Pending>,
    /// To be sent next.
    pub(super) outbox: VecDeque<Pending>,
    /// Answered by the session itself, once nothing is pending.
    pub(super) deferred: Option<Command<Bytes>>,
    /// The command in front of `outbox` waits for a primary, until then.
    pub(super) held: Option<(Held, Instant)>,
    /// A large frame is being passed on.
    pub(super) passing: bool,
    /// The node that it left last.
    pub(super) former: Option<HostPort>,
}

pub(super) struct Pending {
    pub(super) command: Command<Bytes>,
    pub(super) fate: Fate,
    pub(super) resends: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Unsent,
    /// Frames still to come; `None`: not known before the first of them.
    Awaited(Option<usize>),
    /// Its connection was lost after it was sent.
    Unknown,
}

// === impl Stream ===

impl Stream {
    pub(super) fn new(reason: LeaseReason, first: Command<Bytes>) -> Self {
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
    pub(super) async fn send(&mut self, lease: &mut Lease, serving: impl Fn() -> bool) -> io::Result<()> {
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
    pub(super) fn take_command(&mut self, command: Command<Bytes>) {
        let name = command.spec().name;
        let own = matches!(name, "quit" | "reset") || is_own(name);
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
    pub(super) fn forwards(&self, command: &Command<Bytes>, resp: Resp) -> bool {
        resp == Resp::Two && !self.roll.is_empty() && !matches!(command.spec().name, "quit" | "reset")
    }

    /// What a frame from the node means. Returns the command that it was the last answer of.
    pub(super) fn note(&mut self, kind: ReplyKind, frame: &[u8]) -> Option<Command<Bytes>> {
        let confirmed = match self.roll.note(frame) {
            Noted::Message => return None,
            Noted::Confirmed { frames } => Some(frames),
            Noted::Other if kind == ReplyKind::Push => return None,
            Noted::Other => None,
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

    /// Lets others see what is subscribed, and what `answered` has made of the connection.
    pub(super) fn show(&self, answered: &Command<Bytes>, face: &mut Face) {
        let doing = face.doing();
        [doing.channels, doing.patterns, doing.shard_channels] = self.roll.counts();
        let says = |word: &[u8]| answered.args().skip(2).any(|arg| arg.eq_ignore_ascii_case(word));
        match answered.spec().name {
            "monitor" => doing.mark(Mark::Monitor, true),
            "client|tracking" => {
                doing.mark(Mark::Tracking, says(b"on"));
                doing.mark(Mark::Broadcast, says(b"on") && says(b"bcast"));
            }
            "client|no-evict" => doing.mark(Mark::NoEvict, says(b"on")),
            "client|no-touch" => doing.mark(Mark::NoTouch, says(b"on")),
            _ => {}
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.roll.is_empty() && !self.altered && self.pending.is_empty() && self.deferred.is_none()
    }

    pub(super) fn state(&self) -> LeaseState {
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
