//! Commands that need a connection of their own, one at a time: WATCH and MULTI in several batches, whatever may
//! block, whatever is very large.
//!
//! ```text
//!   pinned --> attempt: lease (waits for a primary) --> replay an open MULTI --> send --> answer
//!     ^          | moved, or lost before it counted: again, on the new primary
//!     |          | lost when it counted: unknown outcome
//!     +-- next command, until the lease is proven clean
//! ```

mod rearm;
mod stay;

use bytes::Bytes;
use resp_codec::{Class, Command, Refusal, ReplyKind, refusal};
use sentinel_watcher::{Phase, Suspicion};
use tokio::time::Instant;

use super::clients::is_own;
use super::hold::Pause;
use super::stream::Begun;
use super::{Close, Session, shape_of};
use crate::backend::Link;
use crate::backend::conn::Arrival;
use crate::backend::lease::{Budget, Clean, LeaseError};
use crate::client::Shape;
use crate::client::face::Blocked;
use crate::error::{Error, Sent, may_resend};
use crate::limits;
use crate::metrics::{CloseReason, LeaseReason, Outcome};
use crate::roster::Way;
use crate::route;
use stay::{Abort, Call, HeldLease, Stay};

/// PUBLISH reaches the replicas and changes nothing.
const WAIT_MARK: &[u8] = b"*3\r\n$7\r\nPUBLISH\r\n$15\r\n__slipring:wait\r\n$0\r\n\r\n";

/// How a node that is demoted lets its blocked clients go. CLIENT UNBLOCK … ERROR has other words, and so has a stream
/// that is deleted.
const UNBLOCKED_BY_DEMOTION: &[u8] = b"-UNBLOCKED force unblock";

/// How one attempt ended.
enum Attempt {
    /// The client has its answer.
    Answered,
    /// Not executed for certain: again, once the topology allows it.
    Again,
    /// The connection was lost after the command was sent.
    Lost,
}

impl Session {
    /// Serves `first`, and all that follows until the lease is clean again.
    pub(super) async fn pinned(
        &mut self,
        first: Command<Bytes>,
        budget: Budget,
        reason: LeaseReason,
    ) -> Result<(), Close> {
        self.settled().await?;
        let mut stay = Stay::new(budget, reason);
        let mut next = first;
        loop {
            self.client.note(next.spec().id);
            self.serve(&mut stay, next).await?;
            stay.show(&mut self.client.face_mut());
            if let Some(clean) = Clean::prove(&stay.state) {
                if let Some(held) = stay.held.take() {
                    held.lease.release(clean);
                }
                // SELECT on the lease has changed the Profile.
                self.change(self.profile.clone());
                return Ok(());
            }
            self.room().await?;
            let mut applied = self.door.fleet.applied();
            next = loop {
                tokio::select! {
                    biased;
                    command = self.read_command(true) => break command?,
                    () = applied.changed() => self.leave_former(&mut stay),
                }
            };
        }
    }

    /// One command on the lease, however many attempts it takes.
    async fn serve(&mut self, stay: &mut Stay, command: Command<Bytes>) -> Result<(), Close> {
        let name = command.spec().name;
        if self.denies(&command) {
            if stay.state.in_multi {
                stay.aborted = stay.aborted.or(Some(Abort::Refused));
            }
            self.refuse(&command);
            return Ok(());
        }
        match name {
            "quit" | "reset" if command.arity_ok() => {
                *stay = Stay::new(stay.budget, stay.reason);
                return Box::pin(self.own(command)).await;
            }
            name if is_own(name) && command.arity_ok() && !stay.state.in_multi => {
                return Box::pin(self.own(command)).await;
            }
            "auth" | "hello" if !stay.state.in_multi => {
                let before = self.profile.clone();
                let done = Box::pin(self.own(command)).await;
                if self.profile != before {
                    // Another Profile needs another connection, where nothing is watched.
                    stay.lose();
                }
                return done;
            }
            _ => {}
        }
        let alters = matches!(
            command.spec().class,
            Class::Subscription | Class::Stream | Class::Tracking | Class::Own
        ) || matches!(name, "auth" | "hello")
            || (is_own(name) && command.arity_ok());
        match command.spec().class {
            _ if stay.state.in_multi && alters && self.may_queue(stay, &command) => {
                return Box::pin(self.stream_on_stay(stay, command)).await;
            }
            _ if stay.state.in_multi && alters => {
                stay.aborted = stay.aborted.or(Some(Abort::Refused));
                self.answer(&command, &Error::Unsupported("this command inside MULTI").reply());
                return Ok(());
            }
            // What is watched stays watched, on its connection.
            Class::Subscription | Class::Stream | Class::Tracking
                if stay.state.watching && !matches!(name, "sync" | "psync") =>
            {
                return Box::pin(self.stream_on_stay(stay, command)).await;
            }
            Class::Subscription | Class::Stream | Class::Tracking => {
                stay.give_up();
                return Box::pin(self.aside(command)).await;
            }
            Class::Own => return Box::pin(self.aside(command)).await,
            _ => {}
        }
        let hold = self.door.fleet.hold_timeout();
        let mut deadline = Instant::now() + hold;
        let mut applied = self.door.fleet.applied();
        let mut call = Call::new(&command, stay);
        let mut pause = Pause::default();
        loop {
            let started = Instant::now();
            match self.attempt(stay, &command, &mut call).await? {
                Attempt::Answered => return Ok(()),
                Attempt::Lost if !may_resend(Sent::Maybe, call.shape.read, call.shape.resends) => {
                    let node = call.node.take();
                    return self.unknown_outcome(stay, &command, node.as_ref());
                }
                Attempt::Lost => call.shape.resends += 1,
                Attempt::Again => {}
            }
            if started.elapsed() >= hold {
                // It was blocked on a node for so long: the trouble has only begun.
                deadline = Instant::now() + hold;
            }
            if Instant::now() >= deadline {
                let reply = call.refused.take().unwrap_or_else(|| self.no_primary());
                self.leave_unserved(stay, &command, &reply);
                return Ok(());
            }
            self.changed(&mut applied, deadline.min(Instant::now() + pause.next()))
                .await?;
        }
    }

    /// Whether the node may queue what changes the connection when it is executed. Passwords that slipring checks are
    /// none of its business.
    fn may_queue(&self, stay: &Stay, command: &Command<Bytes>) -> bool {
        let proves = self.checks_here() && matches!(command.spec().name, "auth" | "hello");
        let own = proves || command.spec().class == Class::Own;
        stay.aborted.is_none() && !stay.journal.over && !own
    }

    /// The open MULTI, or what watches, is going to change its connection: the rest of it is a stream's affair.
    async fn stream_on_stay(&mut self, stay: &mut Stay, command: Command<Bytes>) -> Result<(), Close> {
        let stay = std::mem::replace(stay, Stay::new(stay.budget, stay.reason));
        let begun = Begun {
            lease: stay
                .held
                .map(|held| (held.lease, held.backend.link().node.clone())),
            frames: &stay.journal.frames,
            watching: stay.state.watching,
            watch_broken: stay.watch_broken,
        };
        self.stream_begun(begun, command, stay.reason).await
    }

    /// `command` was not executed.
    fn leave_unserved(&mut self, stay: &mut Stay, command: &Command<Bytes>, reply: &[u8]) {
        let granted = stay.fail(command);
        self.answer(command, granted.unwrap_or(reply));
    }

    fn unknown_outcome(
        &mut self,
        stay: &mut Stay,
        command: &Command<Bytes>,
        link: Option<&std::rc::Rc<Link>>,
    ) -> Result<(), Close> {
        if let Some(granted) = stay.fail(command) {
            self.answer(command, granted);
        } else if let Some(link) = link {
            link.account_unknown(shape_of(command));
            self.client
                .reply(&Error::UnknownOutcome(&link.node.address).reply());
        }
        Ok(())
    }

    async fn attempt(
        &mut self,
        stay: &mut Stay,
        command: &Command<Bytes>,
        call: &mut Call,
    ) -> Result<Attempt, Close> {
        self.leave_former(stay);
        // What only queues in an open MULTI needs no serving primary; what is broken needs none either.
        let queues = stay.state.in_multi && call.queues;
        let waits = !queues && !route::is_for_the_node(command.spec());
        if waits && stay.instead_of(command, self.profile.resp).is_none() {
            let shape = Shape {
                read: false,
                ..call.shape
            };
            let bytes = command.frame().len();
            // A blocked reader is one of those whom held writes wait for.
            let waited = match call.counted {
                Some(_) => self.release_for(shape, bytes).await?,
                None => self.primary_for(shape, bytes).await?,
            };
            if let Err(refusal) = waited {
                self.leave_unserved(stay, command, &call.refused.take().unwrap_or(refusal));
                return Ok(Attempt::Answered);
            }
            // It may have changed while the command waited.
            self.leave_former(stay);
        }
        if let Some(reply) = stay.instead_of(command, self.profile.resp) {
            if matches!(command.spec().name, "exec" | "discard") {
                // A lease may have the replayed MULTI open: closing it is the shortest DISCARD.
                stay.give_up();
            }
            self.answer(command, &reply);
            return Ok(Attempt::Answered);
        }
        if stay.held.is_none() {
            let epoch = self.door.fleet.topology().epoch;
            match self.take_lease(stay).await? {
                // The world may have changed while the lease was being made: start over, with what is true now.
                Ok(true) if epoch != self.door.fleet.topology().epoch => return Ok(Attempt::Again),
                Ok(true) => {}
                Ok(false) => return Ok(Attempt::Again),
                Err(reply) => {
                    self.leave_unserved(stay, command, &reply);
                    return Ok(Attempt::Answered);
                }
            }
        }
        let backend = std::rc::Rc::clone(&stay.held.as_ref().expect("taken above").backend);
        if stay.state.in_multi && command.spec().name == "exec" {
            self.provide_scripts(&backend, &stay.journal.frames).await?;
        } else if command.spec().class == Class::Script {
            self.note_script(command);
            self.provide_scripts(&backend, command.frame()).await?;
        }
        let mut sent = call.frame_now(command);
        if command.spec().class == Class::Scan
            && let Some(again) = self.scan_again(&backend.link().node, &sent)
        {
            sent = again;
        }
        let held = stay.held.as_mut().expect("taken above");
        let link = std::rc::Rc::clone(held.backend.link());
        call.node = Some(std::rc::Rc::clone(&link));
        let waits = command.spec().class == Class::Wait && !stay.state.in_multi;
        if waits && self.wrote_at.is_some_and(|term| Some(term) != link.node.term) {
            // The primary that took this session's writes is gone: nobody can vouch for them.
            let none = if command.spec().name == "wait" {
                &b":0\r\n"[..]
            } else {
                b"*2\r\n:0\r\n:0\r\n"
            };
            self.answer(command, none);
            return Ok(Attempt::Answered);
        }
        if call.unblocks && call.shape.read {
            // Held writes wait until it is in place again, as they do for subscribers.
            call.counted = link.node.term.map(|term| self.door.census.count(term));
        }
        // Who has written nothing has nothing to wait for.
        let marks = waits && self.wrote_at.is_some();
        let conn = held.lease.conn();
        let sending = async {
            if marks {
                // A fresh connection's replication offset is 0, and WAIT would lie: a propagated no-op makes it
                // cover all that this session has written.
                conn.send(WAIT_MARK).await?;
                let (kind, reply) = conn.reply().await?;
                if kind.is_error() {
                    return Ok(Some(reply));
                }
            }
            conn.send(&sent).await.map(|()| None)
        };
        let sent = self.while_primary(&link.node, sending).await?;
        if let Some(Ok(Some(refusal))) = &sent {
            self.answer(command, refusal);
            return Ok(Attempt::Answered);
        }
        if !matches!(sent, Some(Ok(None))) {
            return Ok(Self::lost(stay, call));
        }
        self.await_answer(stay, command, call).await
    }

    /// Lets go of a lease on a node that is the primary no longer, or that has hung up meanwhile.
    fn leave_former(&self, stay: &mut Stay) {
        let Some(held) = &mut stay.held else { return };
        let leads = self.door.fleet.is_primary(&held.backend.link().node);
        if !leads || !held.lease.conn().is_undisturbed() {
            stay.lose();
        }
    }

    /// A lease on the primary, with the open MULTI replayed. `Ok(false)`: not now. The error is for the client.
    async fn take_lease(&mut self, stay: &mut Stay) -> Result<Result<bool, Bytes>, Close> {
        let Some(backend) = self.door.fleet.primary(&stay.profile(&self.profile)) else {
            return Ok(Ok(false));
        };
        let leased = tokio::select! {
            biased;
            close = self.broken() => return Err(close),
            leased = backend.lease(stay.budget, stay.reason) => leased,
        };
        let mut lease = match leased {
            Ok(lease) => lease,
            Err(LeaseError::Exhausted) => {
                return Ok(Err(Error::NoLease {
                    budget: stay.budget.name(),
                }
                .reply()));
            }
            Err(LeaseError::Lost) => return Ok(Ok(false)),
            Err(LeaseError::Refused(reply)) => return Ok(Err(reply)),
        };
        let name = Bytes::copy_from_slice(&self.client.face().name);
        let introduced = self.while_primary(&backend.link().node, lease.conn().introduce(name));
        if !matches!(introduced.await?, Some(Ok(()))) {
            return Ok(Ok(false));
        }
        if stay.state.in_multi && !stay.journal.over {
            let replayed = async {
                let mut taken = true;
                lease.conn().send(&stay.journal.frames).await?;
                for _ in 0..stay.journal.commands {
                    let (_, reply) = lease.conn().reply().await?;
                    taken &= !refusal(&reply).is_some_and(|why| backend.link().may_wait_out(why, &reply));
                }
                Ok::<bool, std::io::Error>(taken)
            };
            if !matches!(
                self.while_primary(&backend.link().node, replayed).await?,
                Some(Ok(true))
            ) {
                return Ok(Ok(false));
            }
        }
        stay.held = Some(HeldLease { lease, backend });
        Ok(Ok(true))
    }

    /// The reply, passed on; or what became of the command instead.
    async fn await_answer(
        &mut self,
        stay: &mut Stay,
        command: &Command<Bytes>,
        call: &mut Call,
    ) -> Result<Attempt, Close> {
        let mut applied = self.door.fleet.applied();
        let mut passing = false;
        // Of a module's command it is only known that it may block.
        let module = command.spec().class == Class::Unknown && stay.reason == LeaseReason::Blocking;
        let waits = call.unblocks || module || stay.reason == LeaseReason::Paused;
        if waits || command.spec().class == Class::Wait {
            self.client.face_mut().doing().blocked = stay.blocked();
        }
        loop {
            let Some(held) = &mut stay.held else {
                return Ok(Self::lost(stay, call));
            };
            let arrival = tokio::select! {
                biased;
                arrival = held.lease.conn().arrival(limits::REPLY_WHOLE_BYTES) => arrival,
                close = self.gone_or_broken(waits) => return Err(close),
                () = applied.changed() => {
                    self.follow_topology(stay, call).await?;
                    continue;
                }
            };
            match arrival {
                Ok(Arrival::Part(_))
                    if call
                        .node
                        .as_ref()
                        .is_some_and(|link| !self.door.fleet.is_primary(&link.node)) =>
                {
                    stay.lose();
                }
                Ok(Arrival::Part(part)) => {
                    passing = true;
                    self.client.push(&part);
                    self.room().await?;
                }
                Ok(Arrival::Frame(kind, frame)) if passing => {
                    self.client.push(&frame);
                    stay.note(command, kind, &frame, &mut self.profile);
                    return Ok(Attempt::Answered);
                }
                Ok(Arrival::Frame(ReplyKind::Push, frame)) => self.client.push(&frame),
                Ok(Arrival::Frame(kind, frame)) => {
                    let pushes: Vec<_> = std::iter::from_fn(|| held.lease.conn().push_at_hand()).collect();
                    let attempt = self.take_answer(stay, command, call, kind, frame);
                    // DEBUG PROTOCOL push: Valkey writes it behind its reply.
                    pushes.iter().for_each(|push| self.client.push(push));
                    return Ok(attempt);
                }
                Err(_) => {
                    if passing {
                        self.client.break_off(CloseReason::Node);
                    }
                    return Ok(Self::lost(stay, call));
                }
            }
        }
    }

    /// The lease is lost, with a command sent on it.
    fn lost(stay: &mut Stay, call: &Call) -> Attempt {
        stay.lose();
        // What MULTI only queues is replayed with it.
        if call.queues && stay.state.in_multi {
            Attempt::Again
        } else {
            Attempt::Lost
        }
    }

    /// A blocked client that hangs up is gone; one that only half-closes behind other commands gets its answers.
    async fn gone_or_broken(&mut self, blocks: bool) -> Close {
        if blocks {
            self.gone().await
        } else {
            self.broken().await
        }
    }

    fn take_answer(
        &mut self,
        stay: &mut Stay,
        command: &Command<Bytes>,
        call: &mut Call,
        kind: ReplyKind,
        reply: Bytes,
    ) -> Attempt {
        let refusal = if kind == ReplyKind::Error {
            refusal(&reply)
        } else {
            None
        };
        let link = call.node.clone().expect("the command was sent to it");
        // What another client's CLIENT UNBLOCK does, or a key that goes, is an answer like others.
        let ours = call.disarmed || reply.starts_with(UNBLOCKED_BY_DEMOTION);
        let unblocked = refusal == Some(Refusal::Unblocked) && call.unblocks && ours;
        if !unblocked && !self.door.fleet.is_primary(&link.node) {
            // A former primary may have acted after the switch, on data that nobody keeps: only that it did nothing
            // is believed of it.
            return Self::lost(stay, call);
        }
        let passing =
            refusal.is_some_and(|refusal| link.may_wait_out(refusal, &reply)) && call.shape.refusable;
        if unblocked || (passing && !stay.state.watching) {
            if refusal == Some(Refusal::Readonly) {
                link.hint(Suspicion::Demoted);
            }
            call.refused = Some(reply);
            // A transaction that EXEC has dropped is replayed, on whatever lease comes next.
            stay.held = None;
            return Attempt::Again;
        }
        // A transaction that was refused and replayed is told why at first.
        let reply = match (refusal, call.refused.take()) {
            (Some(Refusal::ExecAbort), Some(first)) => first,
            _ => reply,
        };
        let outcome = if kind.is_error() {
            Outcome::Error
        } else {
            Outcome::Ok
        };
        link.account(call.shape, command.spec().class, outcome, call.since.elapsed());
        stay.note(command, kind, &reply, &mut self.profile);
        if !call.shape.read && !stay.state.in_multi {
            self.wrote_at = link.node.term;
        }
        self.client.reply(&reply);
        Attempt::Answered
    }

    /// The topology changed while a command waits for its answer: cut off from a former primary; a blocked command
    /// is unblocked on the node, whose word is the proof that nothing was popped.
    async fn follow_topology(&mut self, stay: &mut Stay, call: &mut Call) -> Result<(), Close> {
        let Some(held) = &mut stay.held else { return Ok(()) };
        if !self.door.fleet.is_primary(&held.backend.link().node) {
            // The former primary may still live: its own word decides whether something was popped.
            if !(call.unblocks && self.disarm(stay, call).await?) {
                stay.lose();
            }
        } else if call.unblocks && self.door.fleet.topology().shard(0).phase == Phase::Moving {
            self.disarm(stay, call).await?;
        }
        Ok(())
    }

    /// CLIENT UNBLOCK over a connection of its own. True: the node heard it; the blocked command's answer follows.
    async fn disarm(&mut self, stay: &mut Stay, call: &mut Call) -> Result<bool, Close> {
        let Some(Blocked { backend, id }) = stay.blocked() else {
            return Ok(false);
        };
        call.disarmed = true;
        let profile = self.profile.clone();
        let unblocking = backend.unblock(id, &profile, Way::Error);
        tokio::select! {
            biased;
            close = self.broken() => Err(close),
            heard = unblocking => Ok(heard.is_some()),
        }
    }
}
