//! What a streaming session answers without a node: commands for which no primary comes in time, what is left of a
//! transaction that none has begun, and unknown outcomes.

use bytes::Bytes;
use resp_codec::Class;
use sentinel_watcher::HostPort;
use tokio::time::Instant;

use super::state::{Fate, Stream};
use crate::error::Error;
use crate::metrics::Counter;
use crate::session::{Session, rearm};

/// What has become of the command in front.
pub(super) enum Hold {
    /// It need not wait, or there is none.
    Free,
    /// It may wait for a primary until then.
    Until(Instant),
    /// Its client has just been told that there is none.
    Refused,
    /// The same, and its connection has a transaction open of which the client has heard that it is over.
    Spoiled,
}

impl Session {
    /// The command in front waits for a primary, bounded in time and bytes.
    pub(super) fn hold_stream(&mut self, stream: &mut Stream) -> Hold {
        let Some(waiting) = stream.outbox.front().filter(|_| !stream.waits_behind_blocked()) else {
            stream.held = None;
            return Hold::Free;
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
            Some((_, until)) if Instant::now() < *until => return Hold::Until(*until),
            Some(_) => self.no_primary(),
            None => Error::HoldFull.reply(),
        };
        if !stream.pending.is_empty() {
            return Hold::Free;
        }
        stream.held = None;
        let spoils = !stream.transaction.is_idle();
        let granted = stream.fail_front();
        self.client.push(granted.unwrap_or(&refusal));
        if spoils { Hold::Spoiled } else { Hold::Refused }
    }

    /// Tells what needs no node, as far as its turn has come.
    pub(super) fn tell_unserved(&mut self, stream: &mut Stream) {
        loop {
            stream.reach_lost();
            self.tell_unknown(stream);
            match stream.answer_unserved() {
                Some(answer) => self.client.push(&answer),
                None => return,
            }
        }
    }

    /// Unknown outcomes whose turn has come. WAIT has one of its own: replicas of a former primary count no more.
    pub(super) fn tell_unknown(&mut self, stream: &mut Stream) {
        while stream
            .pending
            .front()
            .is_some_and(|pending| pending.fate == Fate::Unknown)
        {
            let lost = stream.take_pending().expect("just seen");
            let former = stream
                .former
                .as_ref()
                .expect("a command is lost with the node it was sent to");
            if lost.command.spec().class == Class::Wait && !self.is_led_by(former) {
                self.client.push(rearm::nobody(&lost.command));
                continue;
            }
            self.client.push(&Error::UnknownOutcome(former).reply());
            let upstream = self.door.fleet.upstream();
            self.door
                .worker
                .cells
                .add(Counter::UnknownOutcomes { upstream }, 1);
        }
    }

    fn is_led_by(&self, node: &HostPort) -> bool {
        let topology = self.door.fleet.topology();
        let primary = topology.shard(0).primary.as_ref();
        primary.is_some_and(|primary| primary.address == *node)
    }
}

// === impl Stream ===

impl Stream {
    /// The command in front is not going to be executed. Says what to answer, if not that.
    fn fail_front(&mut self) -> Option<&'static [u8]> {
        let front = self.pop_unsent()?;
        self.transaction.fail(&front)
    }

    /// The answer to the command in front, where it belongs to a transaction that no node has begun.
    fn answer_unserved(&mut self) -> Option<Bytes> {
        if !self.pending.is_empty() || !self.transaction.is_unserved() {
            return None;
        }
        let front = self.pop_unsent()?;
        Some(self.transaction.answer_unserved(&front))
    }
}
