//! Commands that need a connection of their own, one at a time: WATCH and MULTI in several batches, whatever may
//! block; and in `large` what is passed on as it comes.
//!
//! ```text
//!   pinned --> attempt: lease (waits for a primary) --> replay an open MULTI --> send --> answer
//!     ^          | moved, or lost before it counted: again, on the new primary
//!     |          | lost when it counted: unknown outcome
//!     +-- next command, until the lease is proven clean
//! ```

mod ahead;
mod attempt;
mod large;
mod stay;

use std::rc::Rc;

use bytes::Bytes;
use resp_codec::{Class, Command};
use sentinel_watcher::Phase;
use tokio::time::Instant;

use super::abort::Abort;
use super::clients::is_own;
use super::input::refuse_http;
use super::rearm;
use super::stream::Begun;
use super::{Close, Session, shape_of};
use crate::backend::Link;
use crate::backend::lease::{Budget, Clean};
use crate::backoff::Backoff;
use crate::client::face::Blocked;
use crate::error::{Error, Sent, may_resend};
use crate::metrics::LeaseReason;
use crate::roster::Way;

use attempt::Attempt;
use stay::{Call, Stay};

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
            next = match self.queue_at_hand(&mut stay).await? {
                Some(next) => next,
                None => self.next_on(&mut stay).await?,
            };
            refuse_http(&next)?;
        }
    }

    /// The client's next command. Meanwhile the node may change.
    async fn next_on(&mut self, stay: &mut Stay) -> Result<Command<Bytes>, Close> {
        let mut applied = self.door.fleet.applied();
        loop {
            tokio::select! {
                biased;
                command = self.read_command(true) => return command,
                () = applied.changed() => self.leave_former(stay),
            }
        }
    }

    /// One command on the lease, however many attempts it takes.
    async fn serve(&mut self, stay: &mut Stay, command: Command<Bytes>) -> Result<(), Close> {
        let Some(command) = self.serve_elsewhere(stay, command).await? else {
            return Ok(());
        };
        let hold = self.door.fleet.hold_timeout();
        let mut deadline = Instant::now() + hold;
        let mut applied = self.door.fleet.applied();
        let mut call = Call::new(&command, stay);
        let mut backoff = Backoff::default();
        loop {
            let started = Instant::now();
            match self.attempt(stay, &command, &mut call).await? {
                Attempt::Answered => return Ok(()),
                Attempt::Lost if self.nobody_vouches(stay, &command, call.node.as_ref()) => {
                    self.answer(&command, rearm::nobody(&command));
                    return Ok(());
                }
                Attempt::Lost if !may_resend(Sent::Maybe, call.shape.read, call.shape.resends) => {
                    let node = call.node.take();
                    return self.unknown_outcome(stay, &command, node.as_ref());
                }
                Attempt::Lost => call.shape.resends += 1,
                Attempt::Again if call.disarmed && self.client.is_to_leave() && stay.is_bare() => {
                    // It travels as unread input, and the next process arms it.
                    self.put_back(&call.frame_now(&command));
                    stay.give_up();
                    return Ok(());
                }
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
            self.changed(&mut applied, deadline.min(Instant::now() + backoff.next()))
                .await?;
        }
    }

    /// WAIT asked a primary that is gone: whatever it would have said, it counts replicas no more.
    fn nobody_vouches(&self, stay: &Stay, command: &Command<Bytes>, asked: Option<&Rc<Link>>) -> bool {
        let former = asked.is_some_and(|link| !self.door.fleet.is_primary(&link.node));
        former && command.spec().class == Class::Wait && !stay.state.in_multi
    }

    /// Sees to what is no affair of the lease: what is refused, what is the session's own, what makes a stream of it.
    /// What remains is the lease's.
    async fn serve_elsewhere(
        &mut self,
        stay: &mut Stay,
        command: Command<Bytes>,
    ) -> Result<Option<Command<Bytes>>, Close> {
        let name = command.spec().name;
        let in_multi = stay.state.in_multi;
        let own = is_own(name) && command.arity_ok();
        let identity = matches!(name, "auth" | "hello");
        let class = command.spec().class;
        let streams = matches!(class, Class::Subscription | Class::Stream | Class::Tracking);
        if self.denies(&command) {
            if in_multi {
                stay.aborted = stay.aborted.or(Some(Abort::Refused));
            }
            self.refuse(&command);
        } else if matches!(name, "quit" | "reset") && command.arity_ok() {
            *stay = Stay::new(stay.budget, stay.reason);
            Box::pin(self.own(command)).await?;
        } else if in_multi && (streams || own || identity || class == Class::Own) {
            if self.may_queue(stay, &command) {
                Box::pin(self.stream_on_stay(stay, command)).await?;
            } else {
                stay.aborted = stay.aborted.or(Some(Abort::Refused));
                self.answer(&command, &Error::Unsupported("this command inside MULTI").reply());
            }
        } else if own {
            Box::pin(self.own(command)).await?;
        } else if identity {
            let before = self.profile.clone();
            let done = Box::pin(self.own(command)).await;
            if self.profile != before {
                // Another Profile needs another connection, where nothing is watched.
                stay.lose();
            }
            done?;
        } else if streams && stay.state.watching && !matches!(name, "sync" | "psync") {
            // What is watched stays watched, on its connection.
            Box::pin(self.stream_on_stay(stay, command)).await?;
        } else if streams {
            stay.give_up();
            Box::pin(self.aside(command)).await?;
        } else if class == Class::Own {
            Box::pin(self.aside(command)).await?;
        } else {
            return Ok(Some(command));
        }
        Ok(None)
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
            lease: stay.held.map(|held| (held.lease, held.backend)),
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
        link: Option<&Rc<Link>>,
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

    /// Lets go of a lease on a node that is the primary no longer, or that has hung up meanwhile.
    fn leave_former(&self, stay: &mut Stay) {
        let Some(held) = &mut stay.held else { return };
        let leads = self.door.fleet.is_primary(&held.backend.link().node);
        if !leads || !held.lease.conn().is_undisturbed() {
            stay.lose();
        }
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

    /// Another process is to arm the command again: it is unblocked here, unless that comes before the command itself.
    async fn let_go(&mut self, stay: &mut Stay, call: &mut Call) -> Result<(), Close> {
        let Some(Blocked { backend, id }) = stay.blocked() else {
            self.client.stay();
            return Ok(());
        };
        call.disarmed = true;
        let profile = self.profile.clone();
        let unblocked = tokio::select! {
            biased;
            close = self.broken() => return Err(close),
            unblocked = backend.unblock(id, &profile, Way::Error) => unblocked,
        };
        if unblocked == Some(false) {
            call.disarmed = false;
            self.client.stay();
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
