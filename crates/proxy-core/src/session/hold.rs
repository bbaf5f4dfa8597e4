//! Waiting for a primary, and sending again what came back.
//!
//! While a session is here it consumes no input, so whatever it sends again keeps its place before all that the
//! client sent later.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use resp_codec::{Class, Command};
use sentinel_watcher::SignalFeed;
use tokio::time::Instant;

use super::{Close, Session, shape_of};
use crate::backoff::Backoff;
use crate::client::{Before, Returned, Shape};
use crate::door::Held;
use crate::error::Error;
use crate::limits;
use crate::metrics::{Counter, Outcome, ResendReason};
use crate::route::{self, Plan};
use crate::settings::ReadPolicy;

impl Session {
    /// Sends a command as soon as some node can take it; past the hold time it is refused.
    pub(super) async fn hold(&mut self, command: Command<Bytes>) -> Result<(), Close> {
        self.send_in_turn(command.frame(), shape_of(&command)).await
    }

    /// Sends a frame (or a MULTI block) behind all that was sent before, whatever has become of that.
    pub(super) async fn send_in_turn(&mut self, frame: &[u8], shape: Shape) -> Result<(), Close> {
        let refusal = loop {
            match self.primary_for(shape, frame.len()).await? {
                Err(refusal) => break refusal,
                Ok(_) if self.is_overtaking() => {
                    // What is in flight on another connection, or came back from one, goes first.
                    self.landed().await?;
                    self.recover().await?;
                }
                Ok(plan) => {
                    let epoch = self.door.fleet.topology().epoch;
                    let frame = self.prepared(epoch, plan, frame, shape);
                    let (ticket, _) = self.client.ticket(1, frame.len());
                    self.route(epoch, plan, shape).send(ticket, &frame, shape);
                    return Ok(());
                }
            }
        };
        self.door.worker.cells.command(shape.command, Outcome::Refused);
        self.client.reply(&refusal.repeat(shape.replies as usize));
        Ok(())
    }

    /// Sent now, a command might overtake an earlier one of this session.
    pub(super) fn is_overtaking(&self) -> bool {
        let mut used = self.primary.iter().chain(self.replica.as_deref());
        let replaced = used.any(|cached| !cached.mux.is_open());
        self.client.has_returned() || (replaced && self.client.in_flight() > 0)
    }

    /// Waits until a command of this shape can be sent; past the hold time it is refused with the error inside.
    /// Who had to wait lets subscribers in first.
    pub(super) async fn primary_for(
        &mut self,
        shape: Shape,
        bytes: usize,
    ) -> Result<Result<Plan, Bytes>, Close> {
        if self.plan_of(shape, false, 0) == Plan::Hold {
            if let Err(refusal) = self.release_for(shape, bytes).await? {
                return Ok(Err(refusal));
            }
            self.let_subscribers_in().await?;
        }
        self.release_for(shape, bytes).await
    }

    /// The same for those who are let in first themselves.
    pub(super) async fn release_for(
        &mut self,
        shape: Shape,
        bytes: usize,
    ) -> Result<Result<Plan, Bytes>, Close> {
        let plan = self.plan_of(shape, false, 0);
        if plan != Plan::Hold {
            return Ok(Ok(plan));
        }
        let mut applied = self.door.fleet.applied();
        let held = self
            .door
            .worker
            .hold(self.door.fleet.upstream(), bytes + self.input.len());
        let Some(_held) = held else {
            return Ok(Err(Error::HoldFull.reply()));
        };
        let deadline = Instant::now() + self.door.fleet.hold_timeout();
        loop {
            let plan = self.plan_of(shape, false, 0);
            if plan != Plan::Hold {
                return Ok(Ok(plan));
            }
            if !self.changed(&mut applied, deadline).await? && Instant::now() >= deadline {
                return Ok(Err(self.no_primary()));
            }
        }
    }

    /// Sends again, in order, what came back; new input waits.
    pub(super) async fn recover(&mut self) -> Result<(), Close> {
        let mut deadline = Instant::now() + self.door.fleet.hold_timeout();
        let mut applied = self.door.fleet.applied();
        let mut backoff = Backoff::default();
        let mut waiting = VecDeque::new();
        let mut tried_one = false;
        let mut portion = 1;
        let mut held = None;
        for round in 0.. {
            self.landed().await?;
            let came_back = self.client.has_returned();
            self.take_back(&mut waiting);
            if waiting.is_empty() {
                break;
            }
            if !came_back {
                held = None;
            }
            let put_off = waiting.iter().any(is_put_off);
            if put_off {
                portion = if came_back { 1 } else { portion * 2 };
                self.read_up().await?;
                deadline = Instant::now() + self.door.fleet.hold_timeout();
            }
            let again = came_back && ((round > 0 && !put_off) || waiting.iter().any(is_refused));
            let verdict = if again && !self.enter(&mut held, &waiting) {
                Some(Error::HoldFull.reply())
            } else {
                if again {
                    let until = deadline.min(Instant::now() + backoff.next());
                    if self.changed(&mut applied, until).await? {
                        self.let_subscribers_in().await?;
                    }
                }
                self.release_all(&waiting, round, &mut held, &mut applied, deadline)
                    .await?
            };
            // What a node refused is tried with one command first: if what it was refused for ended in the middle of
            // many, the later ones would be executed and the earlier ones not.
            let one = (came_back || !tried_one) && waiting.iter().any(is_refused) && verdict.is_none();
            tried_one = one;
            let many = match (one, put_off) {
                (true, _) => 1,
                (_, true) => portion.min(waiting.len()),
                _ => waiting.len(),
            };
            for command in waiting.drain(..many) {
                self.send_again(command, round, verdict.as_ref());
            }
        }
        Ok(())
    }

    /// Waits until all of these can be sent; the error inside if they cannot within the hold time.
    async fn release_all(
        &mut self,
        waiting: &VecDeque<Returned>,
        round: u64,
        held: &mut Option<Held>,
        applied: &mut SignalFeed,
        deadline: Instant,
    ) -> Result<Option<Bytes>, Close> {
        let plannable = |session: &Self| {
            let mut all = waiting.iter();
            all.all(|command| session.plan_returned(command, round) != Plan::Hold)
        };
        if !plannable(self) {
            if !self.enter(held, waiting) {
                return Ok(Some(Error::HoldFull.reply()));
            }
            while !plannable(self) && Instant::now() < deadline {
                if self.changed(applied, deadline).await? && plannable(self) {
                    self.let_subscribers_in().await?;
                }
            }
        }
        Ok((Instant::now() >= deadline).then(|| self.no_primary()))
    }

    /// Enters these in the books as waiting, once for as long as they come back. False: there is no room for them.
    fn enter(&self, held: &mut Option<Held>, waiting: &VecDeque<Returned>) -> bool {
        if held.is_none() {
            let bytes = waiting.iter().map(|command| command.frame.len()).sum();
            *held = self.door.worker.hold(self.door.fleet.upstream(), bytes);
        }
        held.is_some()
    }

    /// Waits until the client has taken what it must before it gets more; what it says meanwhile is kept, as long as
    /// there is room for it.
    async fn read_up(&mut self) -> Result<(), Close> {
        poll_fn(|cx| {
            let broken = self.poll_broken_within(cx, self.most_kept());
            match broken {
                Poll::Pending if self.client.has_read_up() => Poll::Ready(Ok(())),
                broken => broken.map(Err),
            }
        })
        .await
    }

    /// What came back joins what waits, in order. What a later command has overtaken comes too late: what the node
    /// said of it is its answer.
    fn take_back(&mut self, waiting: &mut VecDeque<Returned>) {
        let mut all = self.client.take_returned();
        all.append(waiting);
        all.make_contiguous().sort_by_key(|command| command.seq);
        for command in all {
            match &command.before {
                Before::Refused(reply) | Before::Answered(reply)
                    if self.client.has_overtaken(command.seq) =>
                {
                    self.door
                        .worker
                        .cells
                        .command(command.shape.command, Outcome::Error);
                    self.client.answer(command.seq, reply);
                }
                _ => waiting.push_back(command),
            }
        }
    }

    /// Nothing awaits between two of these, so that no command can overtake another.
    fn send_again(&mut self, command: Returned, round: u64, verdict: Option<&Bytes>) {
        let plan = self.plan_returned(&command, round);
        let Returned {
            seq,
            frame,
            shape,
            before,
        } = command;
        if let Some(verdict) = verdict {
            self.door.worker.cells.command(shape.command, Outcome::Refused);
            let verdict = match before {
                Before::Refused(reply) | Before::Answered(reply) => reply,
                Before::Unanswered | Before::PutOff => verdict.repeat(shape.replies as usize).into(),
            };
            self.client.answer(seq, &verdict);
            return;
        }
        if matches!(before, Before::Refused(_)) {
            self.door.worker.cells.add(
                Counter::Resends {
                    upstream: self.door.fleet.upstream(),
                    reason: ResendReason::Refused,
                },
                1,
            );
        }
        let epoch = self.door.fleet.topology().epoch;
        let frame = self.prepared(epoch, plan, &frame, shape);
        let ticket = self.client.ticket_again(seq, frame.len());
        self.route(epoch, plan, shape).send(ticket, &frame, shape);
    }

    /// Where a command that came back goes. A read that a replica refused goes to the primary, where it may; one
    /// that was lost there tries another.
    fn plan_returned(&self, command: &Returned, round: u64) -> Plan {
        let lost = command.shape.resends > 0;
        let round = if is_put_off(command) { 0 } else { round } + u64::from(lost);
        self.plan_of(command.shape, lost || is_refused(command), round)
    }

    fn plan_of(&self, shape: Shape, elsewhere: bool, round: u64) -> Plan {
        let topology = self.door.fleet.topology();
        let has_primary = topology.shard(0).primary.is_some();
        let reads = match self.door.reads.get() {
            ReadPolicy::PreferReplica | ReadPolicy::PreferPrimary if elsewhere && has_primary => {
                ReadPolicy::Primary
            }
            reads => reads,
        };
        route::plan_access(topology.shard(0), reads, shape.read, self.id + round)
    }

    /// Waits for another topology until `until`; false if none came.
    pub(super) async fn changed(&mut self, applied: &mut SignalFeed, until: Instant) -> Result<bool, Close> {
        tokio::select! {
            biased;
            () = applied.changed() => Ok(true),
            close = self.gone() => Err(close),
            () = tokio::time::sleep_until(until) => Ok(false),
        }
    }

    /// After a switch: subscribers first, so that a held PUBLISH reaches them. Bounded.
    async fn let_subscribers_in(&mut self) -> Result<(), Close> {
        let term = self
            .door
            .fleet
            .topology()
            .shard(0)
            .primary
            .as_ref()
            .map(|primary| primary.term);
        let Some(term) = term else { return Ok(()) };
        let until = Instant::now() + Duration::from_millis(limits::SUBSCRIBERS_FIRST_MS);
        while self.door.census.lags(term) && Instant::now() < until {
            tokio::select! {
                biased;
                close = self.broken() => return Err(close),
                () = tokio::time::sleep(Duration::from_millis(1)) => {}
            }
        }
        Ok(())
    }

    /// Whether somebody who subscribed before may be subscribed later than what the session has to say now.
    pub(super) fn may_miss_subscribers(&self) -> bool {
        !self.caught_up && self.door.census.expects()
    }

    /// Whoever subscribed before is to hear what a command of this class has to say now, and all that the session has said
    /// already. Bounded.
    pub(super) async fn catch_up_with_subscribers(&mut self, class: Class) -> Result<(), Close> {
        if class != Class::Audience || !self.may_miss_subscribers() {
            return Ok(());
        }
        let door = Rc::clone(&self.door);
        let patience = Duration::from_millis(limits::SUBSCRIBERS_FIRST_MS);
        self.caught_up = true;
        tokio::select! {
            biased;
            close = self.broken() => Err(close),
            _ = tokio::time::timeout(patience, door.census.arrival()) => Ok(()),
        }
    }

    /// Waits until nothing is in flight: all is answered, parked or came back.
    async fn landed(&mut self) -> Result<(), Close> {
        poll_fn(|cx| {
            if let Poll::Ready(close) = self.poll_broken_within(cx, self.kept_while_waiting()) {
                return Poll::Ready(Err(close));
            }
            self.client.poll_landed(cx).map(Ok)
        })
        .await
    }

    pub(super) fn no_primary(&self) -> Bytes {
        let waited = self.door.fleet.hold_timeout();
        Error::NoPrimary {
            master: &self.door.master,
            waited,
        }
        .reply()
    }
}

fn is_refused(command: &Returned) -> bool {
    matches!(command.before, Before::Refused(_))
}

fn is_put_off(command: &Returned) -> bool {
    command.before == Before::PutOff
}
