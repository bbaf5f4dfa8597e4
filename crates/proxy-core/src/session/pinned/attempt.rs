//! One attempt at one command: wait for the primary, take a lease, send, see to the answer.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use resp_codec::{Class, Command, Refusal, ReplyKind, refusal};
use tokio::time::Instant;

use super::stay::{Call, HeldLease, Stay};
use crate::backend::conn::Arrival;
use crate::backend::lease::{Clean, LeaseError};
use crate::backend::told::Told;
use crate::backend::{Backend, Link};
use crate::client::face::Blocked;
use crate::client::{Order, Shape};
use crate::error::Error;
use crate::limits;
use crate::lookout::{Answered, Sight};
use crate::metrics::{CloseReason, LeaseReason, Outcome};
use crate::route;
use crate::session::{Close, Session, rearm};

/// How one attempt ended.
pub(super) enum Attempt {
    /// The client has its answer.
    Answered,
    /// Not executed for certain: again, once the topology allows it.
    Again,
    /// The connection was lost after the command was sent.
    Lost,
}

impl Session {
    pub(super) async fn attempt(
        &mut self,
        stay: &mut Stay,
        command: &Command<Bytes>,
        call: &mut Call,
    ) -> Result<Attempt, Close> {
        self.door.fleet.catch_up();
        self.leave_former(stay);
        if let Some(refusal) = self.await_turn(stay, command, call).await? {
            self.leave_unserved(stay, command, &refusal);
            return Ok(Attempt::Answered);
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
        self.send_on_lease(stay, command, call).await
    }

    /// Waits until the primary may be asked. The refusal is for the client, which has waited long enough.
    async fn await_turn(
        &mut self,
        stay: &mut Stay,
        command: &Command<Bytes>,
        call: &mut Call,
    ) -> Result<Option<Bytes>, Close> {
        // What only queues in an open MULTI needs no serving primary, unless it was refused; what is broken needs none
        // either. MULTI itself is tried once: a node that is demoted grants it, and what is to promote it may stand behind.
        let opens =
            !stay.state.in_multi && command.spec().name == "multi" && std::mem::take(&mut call.queues);
        let queues = stay.state.in_multi && call.queues && call.refused.is_none();
        let waits = !queues && !opens && !route::is_for_the_node(command.spec());
        if !waits || stay.instead_of(command, self.profile.resp).is_some() {
            return Ok(None);
        }
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
            return Ok(Some(call.refused.take().unwrap_or(refusal)));
        }
        // It may have changed while the command waited.
        self.leave_former(stay);
        Ok(None)
    }

    /// Sends `command` on the lease, and sees to its answer.
    async fn send_on_lease(
        &mut self,
        stay: &mut Stay,
        command: &Command<Bytes>,
        call: &mut Call,
    ) -> Result<Attempt, Close> {
        let backend = Rc::clone(&stay.held.as_ref().expect("a lease was taken").backend);
        let frame = self.prepare(stay, command, call, &backend).await?;
        let held = stay.held.as_mut().expect("a lease was taken");
        let link = Rc::clone(held.backend.link());
        call.node = Some(Rc::clone(&link));
        let waits = command.spec().class == Class::Wait && !stay.state.in_multi;
        if waits && self.wrote_at.is_some_and(|term| Some(term) != link.node.term) {
            // The primary that took this session's writes is gone: nobody can vouch for them.
            self.answer(command, rearm::nobody(command));
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
                conn.send(rearm::WAIT_MARK).await?;
                let (kind, reply) = conn.reply().await?;
                if kind.is_error() {
                    return Ok(Some(reply));
                }
            }
            conn.send(&frame).await.map(|()| None)
        };
        match self.while_primary(&link.node, sending).await? {
            Some(Ok(None)) => self.await_answer(stay, command, call).await,
            Some(Ok(Some(refusal))) => {
                self.answer(command, &refusal);
                Ok(Attempt::Answered)
            }
            _ => Ok(Self::lost(stay, call)),
        }
    }

    /// Gives the node the scripts that `command` names, and says what to send it.
    async fn prepare(
        &mut self,
        stay: &Stay,
        command: &Command<Bytes>,
        call: &mut Call,
        backend: &Rc<Backend>,
    ) -> Result<Bytes, Close> {
        if stay.state.in_multi && command.spec().name == "exec" {
            self.provide_scripts(backend, &stay.journal.frames).await?;
        } else if command.spec().class == Class::Script {
            self.note_script(command);
            self.provide_scripts(backend, command.frame()).await?;
        }
        if Told::by(command).access {
            // The session keeps what it has been granted: on a connection that is there before the password changes.
            self.settle_in().await?;
        }
        let frame = call.frame_now(command);
        let again = match command.spec().class {
            Class::Scan => self.scan_again(&backend.link().node, &frame),
            _ => None,
        };
        Ok(again.unwrap_or(frame))
    }

    /// A lease on the primary, with the open MULTI replayed. `Ok(false)`: not now. The error is for the client.
    pub(super) async fn take_lease(&mut self, stay: &mut Stay) -> Result<Result<bool, Bytes>, Close> {
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
    pub(super) async fn await_answer(
        &mut self,
        stay: &mut Stay,
        command: &Command<Bytes>,
        call: &mut Call,
    ) -> Result<Attempt, Close> {
        let mut applied = self.door.fleet.applied();
        let mut passing = false;
        let waits = self.begin_to_wait(stay, command, call);
        let client = Rc::clone(&self.client);
        let may_leave = call.unblocks && stay.lets_go_of(command);
        loop {
            let Some(held) = &mut stay.held else {
                return Ok(Self::lost(stay, call));
            };
            let arrival = tokio::select! {
                biased;
                arrival = held.lease.conn().arrival(limits::REPLY_WHOLE_BYTES) => arrival,
                close = self.gone_or_broken(waits && !passing) => {
                    // A drain that has run out waits for nobody.
                    if call.unblocks && !passing && close.0 != CloseReason::Drain
                        && let Some((kind, reply)) = self.cancel(stay, &close).await
                    {
                        return Ok(self.take_answer(stay, command, call, kind, reply));
                    }
                    return Err(close);
                }
                () = applied.changed() => {
                    self.follow_topology(stay, call).await?;
                    continue;
                }
                () = client.ordered(Order::Leave), if may_leave && !call.disarmed => {
                    self.let_go(stay, call).await?;
                    continue;
                }
            };
            match arrival {
                Ok(Arrival::Part(_)) if self.has_moved_on(call) => stay.lose(),
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
                Ok(Arrival::Frame(ReplyKind::Push, frame)) => self.client.push_past_hush(&frame),
                Ok(Arrival::Frame(kind, frame)) => {
                    let pushes: Vec<_> = std::iter::from_fn(|| held.lease.conn().push_at_hand()).collect();
                    let attempt = self.take_answer(stay, command, call, kind, frame);
                    // DEBUG PROTOCOL push: Valkey writes it behind its reply.
                    pushes.iter().for_each(|push| self.client.push_past_hush(push));
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

    /// Whether the node may let the client wait for the answer as long as it likes: others can see it then, and unblock it.
    fn begin_to_wait(&self, stay: &mut Stay, command: &Command<Bytes>, call: &Call) -> bool {
        let class = command.spec().class;
        // Of a module's command it is only known that it may block.
        let module = class == Class::Unknown && stay.reason == LeaseReason::Blocking;
        let waits = call.unblocks || module || stay.reason == LeaseReason::Paused;
        if waits || class == Class::Wait {
            self.client.face_mut().doing().blocked = stay.blocked();
        }
        waits
    }

    /// The node that was asked is the primary no longer.
    fn has_moved_on(&self, call: &Call) -> bool {
        let node = call.node.as_ref();
        node.is_some_and(|link| !self.door.fleet.is_primary(&link.node))
    }

    /// The blocked client is gone, and the node is told so in front of all that others push from here on: over their
    /// connection. A node that does not hear it in time, or not from this user, learns it as the lease closes.
    ///
    /// A client that has only said that it sends no more still gets what was popped for it before.
    async fn cancel(&mut self, stay: &mut Stay, close: &Close) -> Option<(ReplyKind, Bytes)> {
        let Blocked { backend, id } = stay.blocked()?;
        let mut held = stay.held.take()?;
        let listens = close.0 == CloseReason::Client && self.client.broken().is_none();
        if !listens {
            self.client.break_off(close.0);
        }
        let timeout = self.door.worker.settings.get().node_timeout;
        let answered = async {
            backend.cancel(id, self.id).await?;
            held.lease.conn().reply().await.ok()
        };
        let (kind, reply) = tokio::time::timeout(timeout, answered).await.ok()??;
        if refusal(&reply) != Some(Refusal::Unblocked) {
            stay.held = Some(held);
            return listens.then_some((kind, reply));
        }
        if let Some(clean) = Clean::prove(&stay.state) {
            held.lease.release(clean);
        }
        None
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
            self.gone_while_blocked().await
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
        let ours = call.disarmed || reply.starts_with(rearm::UNBLOCKED_BY_DEMOTION);
        let unblocked = refusal == Some(Refusal::Unblocked) && call.unblocks && ours;
        if !unblocked && !self.door.fleet.is_primary(&link.node) {
            // A former primary may have acted after the switch, on data that nobody keeps: only that it did nothing
            // is believed of it.
            return Self::lost(stay, call);
        }
        let passing =
            refusal.is_some_and(|refusal| link.may_wait_out(refusal, &reply)) && call.shape.refusable;
        if unblocked || passing {
            link.heed(refusal);
            // That slipring itself has let the command go is no answer.
            call.refused = (!unblocked).then_some(reply);
            if stay.state.watching {
                // The next lease does not watch.
                stay.lose();
            }
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
        let took = call.since.elapsed();
        link.account(call.shape, command.spec().class, outcome, took);
        self.point_out(&link, (command, call.unseen), &reply, took);
        if !kind.is_error() {
            self.door.fleet.heed(stay.told(command, &reply));
        }
        stay.note(command, kind, &reply, &mut self.profile);
        if !call.shape.read && !stay.state.in_multi {
            self.wrote_at = link.node.term;
        }
        self.client.reply(&reply);
        Attempt::Answered
    }
    /// Shows an answered command, of which so many bytes were not kept, to whoever looks for slow and hot ones. What waits
    /// on purpose is not slow.
    fn point_out(
        &self,
        link: &Link,
        (command, unseen): (&Command<Bytes>, usize),
        reply: &[u8],
        took: Duration,
    ) {
        let waits = command.may_block() || command.spec().class == Class::Wait;
        let Some(lookout) = link.lookout.as_ref().filter(|_| !waits) else {
            return;
        };
        let answered = Answered {
            count: 1,
            replies: reply,
            passed: 0,
            took,
            at: Instant::now(),
        };
        if let Some(glance) = lookout.glance(&answered) {
            let sight = Sight {
                node: &link.node.address,
                client: &self.client.face(),
                frames: command.frame(),
                done: 0,
                unseen,
            };
            lookout.see(&glance, &sight, &answered);
        }
    }
}
