//! A client that does not take its replies, and those who wait behind it.
//!
//! ```text
//!   too much is unread   nobody waits behind it     the connection is not read: the node waits, too
//!                        it asked for reads alone   they are put off: what the node says of them is dropped, and they
//!                                                   are asked again, a few at a time, as the client takes replies
//!                        anything else              the connection is not read and takes nothing new; the others' reads
//!                                                   are asked again elsewhere
//! ```

use std::collections::BTreeSet;
use std::task::Context;
use std::time::Duration;

use tokio::time::Instant;

use super::{Addressee, InFlight, Mux, Phase, State};
use crate::backend::Link;
use crate::client::{Before, Shape, Ticket};
use crate::error::{Sent, may_resend};
use crate::limits;
use crate::metrics::{CloseReason, Counter, ResendReason};

// === impl Mux ===

impl Mux {
    /// The node answers, and whoever is in front has waited for long all the same: so would everybody who comes now.
    #[must_use]
    pub(crate) fn is_congested(&self, now: Instant) -> bool {
        let state = &mut *self.state.borrow_mut();
        let is_answered = state.phase == Phase::Open && state.silent_since.is_none();
        let Some(front) = state.entries.front().filter(|_| is_answered) else {
            return false;
        };
        let waited = now.duration_since(state.outbox.since(front.place));
        waited.as_millis() >= u128::from(limits::CONGESTED_MS)
    }

    /// Looks for silence and for clients that take nothing. True: the node has been silent past `timeout`.
    pub(crate) fn pulse(&self, now: Instant, timeout: Duration) -> bool {
        let state = &mut *self.state.borrow_mut();
        state.break_off_stuck(now);
        if state.stuck.is_some() {
            state.let_reads_go(&self.link);
            return false;
        }
        if state.entries.is_empty() || !matches!(state.phase, Phase::Open | Phase::Retired) {
            state.silent_since = None;
            return false;
        }
        let silent = now.duration_since(*state.silent_since.get_or_insert(now));
        if silent.as_millis() >= u128::from(limits::SCRIPT_SILENCE_MS) && state.runs_code() {
            state.phase = Phase::Retired;
            state.let_reads_go(&self.link);
        }
        silent >= timeout
    }
}

// === impl State ===

impl State {
    /// The client in front takes its replies too slowly to read on: no new work comes here.
    pub(super) fn is_stalled(&mut self, cx: &Context<'_>, link: &Link) -> bool {
        let stalls = |state: &Self, spare| {
            let front = state.front();
            let begun = state.replies.begun_bytes();
            front.is_some_and(|ticket| ticket.is_stalled(begun, cx, &link.memory, spare))
        };
        // A reply under way to the client may end, where all others are put off.
        if !stalls(self, 0) || self.put_off_front(link) && !stalls(self, limits::OUTPUT_SOFT_BYTES) {
            self.stuck = None;
            return false;
        }
        if self.phase == Phase::Open {
            self.phase = Phase::Retired;
        }
        if self.stuck.is_none() {
            self.stuck = self.front().map(|ticket| (ticket.taken(), Instant::now()));
        }
        true
    }

    /// Ends the client in front if it takes nothing while others wait behind its reply.
    pub(super) fn break_off_stuck(&mut self, now: Instant) {
        let Some((before, since)) = self.stuck else { return };
        let Some(ticket) = self.front() else { return };
        let taken = ticket.taken();
        if taken != before {
            self.stuck = Some((taken, now));
        } else if now.duration_since(since).as_secs() >= limits::SLOW_CLIENT_SECS
            && self.is_waited_for(ticket)
        {
            ticket.break_off(CloseReason::Output);
        }
    }

    /// Reads and PINGs behind a front that does not move are asked again, elsewhere: all of a client's, where it has
    /// nothing else here. What may write has been sent, and waits.
    pub(super) fn let_reads_go(&mut self, link: &Link) {
        let mut staying = BTreeSet::new();
        for (at, entry) in self.entries.iter().enumerate() {
            if let Addressee::Client(ticket) = &entry.addressee
                && (at == 0 || !may_be_asked_again(entry.shape))
            {
                staying.insert(ticket.client_address());
            }
        }
        for at in 1..self.entries.len() {
            if let Some(Addressee::Client(ticket)) = self.entries.get(at).map(|entry| &entry.addressee)
                && !staying.contains(&ticket.client_address())
            {
                self.ask_again(at, link, &Before::Unanswered);
            }
        }
    }

    /// Puts off what the client in front has asked for, if others wait behind that and it is reads alone. True: nothing
    /// of it is left here but the reply under way, if that is on its way to the client.
    #[cold]
    fn put_off_front(&mut self, link: &Link) -> bool {
        let Some(front) = self.front().filter(|front| self.is_waited_for(front)) else {
            return false;
        };
        let client = front.client_address();
        let stays = self.replies.is_passing() || self.replies.is_under_way() && front.is_next();
        let first = usize::from(stays);
        let is_alone = |at: usize, entry: &InFlight| at < first && entry.unanswered() == 1;
        let mut its_own = self
            .entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.is_of(client));
        if !its_own.all(|(at, entry)| is_alone(at, entry) || may_be_asked_again(entry.shape)) {
            return false;
        }
        if stays {
            self.part_with_rest_of_front();
        } else {
            self.replies.forget_begun();
        }
        for at in first..self.entries.len() {
            if self.entries.get(at).is_some_and(|entry| entry.is_of(client)) {
                self.ask_again(at, link, &Before::PutOff);
            }
        }
        true
    }

    /// The first command of the entry in front stands alone, the others in an entry behind it.
    fn part_with_rest_of_front(&mut self) {
        let Some(InFlight {
            addressee: Addressee::Client(ticket),
            shape,
            place,
            done,
        }) = self.entries.front_mut()
        else {
            return;
        };
        if ticket.count() > 1 {
            let first = ticket.split(1);
            let rest = InFlight {
                addressee: Addressee::Client(std::mem::replace(ticket, first)),
                shape: *shape,
                place: *place,
                done: *done + 1,
            };
            self.entries.insert(1, rest);
        }
    }

    /// Gives the commands of the entry at `at` back to be asked again; what the node says of them here is dropped.
    fn ask_again(&mut self, at: usize, link: &Link, before: &Before) {
        let Some(entry) = self.entries.get_mut(at) else {
            return;
        };
        let unanswered = entry.unanswered();
        let mut rest = Some(std::mem::replace(
            &mut entry.addressee,
            Addressee::Nobody(unanswered),
        ));
        let mut shape = entry.shape;
        // Who is put off has heard nothing yet, and is asked for less next time: that ends by itself.
        shape.resends += u8::from(*before != Before::PutOff);
        let frames = self.outbox.frames(entry.place).into_iter().skip(entry.done);
        for (frame, _) in frames.take(unanswered as usize) {
            let (upstream, reason) = (link.upstream, ResendReason::Read);
            link.cells.add(Counter::Resends { upstream, reason }, 1);
            Addressee::next_of(&mut rest).give_back(frame, shape, before.clone());
        }
    }

    /// The client's commands in front.
    fn front(&self) -> Option<&Ticket> {
        match &self.entries.front()?.addressee {
            Addressee::Client(ticket) => Some(ticket),
            _ => None,
        }
    }

    /// Others wait for an answer here.
    fn is_waited_for(&self, own: &Ticket) -> bool {
        self.entries.iter().any(|entry| match &entry.addressee {
            Addressee::Client(other) => !other.is_of(own),
            Addressee::Asker(_) => true,
            Addressee::Nobody(_) => false,
        })
    }
}

impl InFlight {
    fn is_of(&self, client: usize) -> bool {
        matches!(&self.addressee, Addressee::Client(ticket) if ticket.client_address() == client)
    }
}

/// A read or a PING, which may be sent once more although it was sent.
fn may_be_asked_again(shape: Shape) -> bool {
    may_resend(
        Sent::Maybe,
        shape.read || shape.command.spec().name == "ping",
        shape.resends,
    )
}
