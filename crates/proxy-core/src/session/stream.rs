//! Sessions whose node speaks unasked: subscriptions, MONITOR, CLIENT TRACKING. All of the session's commands travel
//! on the same lease, so that replies and pushes keep the order in which the node wrote them.
//!
//! ```text
//!   stream --> join a node (again and again) --> flow: lease ----bytes----> client
//!                 ^  standing orders repeated,          <---commands----
//!                 |  their confirmations swallowed |
//!                 +--------- lost, or moved -------+
//! ```

mod join;
mod roll;
mod state;

use bytes::Bytes;
use resp_codec::{Class, Command, ReplyKind};
use sentinel_watcher::HostPort;
use tokio::time::Instant;

use super::hold::Pause;
use super::{Close, Session, shape_of};
use crate::backend::NodeKey;
use crate::backend::conn::Arrival;
use crate::backend::lease::{Clean, Lease};
use crate::backend::profile::{Profile, Resp};
use crate::error::{Error, Sent, may_resend};
use crate::limits;
use crate::metrics::{CloseReason, Counter, LeaseReason};
use state::{Fate, Pending, Stream};

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
                    self.client.face_mut().stop();
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
                command = self.command_or_gone(takes_more) => {
                    let command = command?;
                    self.client.note(command.spec().id);
                    stream.take_command(command);
                }
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
                    if !kind.is_error() {
                        stream.show(&answered, &mut self.client.face_mut());
                    }
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
