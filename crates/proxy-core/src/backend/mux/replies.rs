//! The way back: what the node sent is split into replies, each for the command in front.

use std::io;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use resp_codec::{Class, Progress, ReplyKind, ReplyScan, refusal};
use tokio::time::Instant;

use super::outbox::Place;
use super::{Addressee, InFlight, State};
use crate::backend::Link;
use crate::client::{Before, Shape, Ticket};
use crate::error::{Sent, may_resend};
use crate::limits;
use crate::lookout::{Answered, Sight};
use crate::metrics::Outcome;

/// The reply being read.
#[derive(Default)]
pub(super) struct Replies {
    scan: ReplyScan,
    /// What came so far of a reply in pieces; all frames so far, for a MULTI block.
    pieces: BytesMut,
    /// Where in `pieces` the frame being read starts.
    frame_start: usize,
    /// Frames of a MULTI block already in `pieces`.
    frames: u32,
    /// The node's entry check refused the command, or a command of the block.
    refused: bool,
    /// So many bytes of a large reply have been passed on.
    passed: usize,
}

/// Replies that lie side by side in the read buffer, on their way out.
struct Batch<'a> {
    link: &'a Link,
    bytes: &'a [u8],
    now: Instant,
    /// Replies to the entry in front that have been seen and not handed out: how many, and where the first starts.
    seen: u64,
    start: usize,
    /// Replies for one client, side by side: they leave in one write.
    run: Option<(Ticket, Range<usize>)>,
}

impl Replies {
    /// Some of the reply to the command in front has come, and not all.
    pub(super) fn is_under_way(&self) -> bool {
        self.passed > 0 || !self.pieces.is_empty()
    }

    /// Bytes here of a reply that is not passed on.
    pub(super) fn begun_bytes(&self) -> usize {
        self.pieces.len()
    }

    /// What is here of the reply under way is not wanted any more, nor is its rest.
    pub(super) fn forget_begun(&mut self) {
        self.pieces = BytesMut::new();
    }

    /// The first part of a large reply has been passed on.
    pub(super) fn is_passing(&self) -> bool {
        self.passed > 0
    }
}

impl State {
    /// Splits what came into replies and hands them out.
    pub(super) fn read(&mut self, link: &Link, bytes: &[u8]) -> io::Result<()> {
        let mut batch = Batch {
            link,
            bytes,
            now: Instant::now(),
            seen: 0,
            start: 0,
            run: None,
        };
        let mut at = 0;
        while at < bytes.len() {
            let rest = bytes.get(at..).unwrap_or_default();
            let (count, used) = self.run(rest, batch.seen);
            if count > 0 {
                if batch.seen == 0 {
                    batch.start = at;
                }
                batch.seen += count;
                at += used;
                if self
                    .entries
                    .front()
                    .is_some_and(|front| batch.seen == front.unanswered())
                {
                    self.hand_out(&mut batch, at);
                }
                continue;
            }
            let progress = self.replies.scan.feed(rest).map_err(io::Error::other)?;
            let Progress::Complete { used, kind } = progress else {
                self.hand_out(&mut batch, at);
                batch.finish();
                self.keep_part(rest);
                return Ok(());
            };
            let start = at;
            at += used;
            let whole = self.replies.pieces.is_empty() && !self.replies.is_passing() && !kind.is_error();
            let Some(front) = self.entries.front() else {
                return Err(io::Error::other("a reply that nobody asked for"));
            };
            if kind == ReplyKind::Push {
                // Nobody on a shared connection asked for a push (`CLIENT TRACKING` holds a lease).
                self.hand_out(&mut batch, start);
                batch.finish();
                self.replies.pieces.truncate(self.replies.frame_start);
            } else if whole && front.shape.replies == 1 {
                if batch.seen == 0 {
                    batch.start = start;
                }
                batch.seen += 1;
                if batch.seen == front.unanswered() {
                    self.hand_out(&mut batch, at);
                }
            } else {
                self.hand_out(&mut batch, start);
                batch.finish();
                if self.is_end(kind) {
                    self.take_end(link, rest.get(..used).unwrap_or_default(), batch.now);
                    continue;
                }
                self.take_piece(link, rest.get(..used).unwrap_or_default(), kind, batch.now);
            }
        }
        self.hand_out(&mut batch, at);
        batch.finish();
        Ok(())
    }

    /// Short whole replies at the start of `bytes`, all to the entry in front, `seen` of whose replies have been seen.
    fn run(&self, bytes: &[u8], seen: u64) -> (u64, usize) {
        match self.entries.front() {
            Some(front)
                if front.shape.replies == 1
                    && self.replies.pieces.is_empty()
                    && !self.replies.is_passing() =>
            {
                self.replies.scan.run(bytes, front.unanswered() - seen)
            }
            _ => (0, 0),
        }
    }

    /// Hands out the replies to the entry in front that have been seen; they end at `end`.
    fn hand_out(&mut self, batch: &mut Batch<'_>, end: usize) {
        let count = std::mem::take(&mut batch.seen);
        if count == 0 {
            return;
        }
        let (addressee, shape, place, done) = self.take_front(count);
        let waited = batch.now.duration_since(self.outbox.since(place));
        match addressee {
            Addressee::Client(ticket) if shape.read && ticket.is_behind_returned() => {
                batch.finish();
                let mut rest = Some(Addressee::Client(ticket));
                let mut replies = batch.bytes.get(batch.start..end).unwrap_or_default();
                for (frame, _) in self
                    .outbox
                    .frames(place)
                    .into_iter()
                    .skip(done)
                    .take(count as usize)
                {
                    let reply = next_reply(&mut replies);
                    Addressee::next_of(&mut rest).give_back(frame, shape, Before::Answered(reply));
                }
            }
            Addressee::Client(mut ticket) => {
                if shape.writes {
                    ticket.note_write();
                }
                batch.link.cells.commands(shape.command, Outcome::Ok, count);
                batch.link.cells.command_durations(Class::Data, waited, count);
                let answered = Answered {
                    count,
                    replies: batch.bytes.get(batch.start..end).unwrap_or_default(),
                    passed: 0,
                    took: waited,
                    at: batch.now,
                };
                self.show(batch.link, &ticket, (place, done), &answered);
                batch.join(ticket, end);
            }
            Addressee::Asker(asker) => {
                // What is not the client's must not lie within its run.
                batch.finish();
                let reply = batch.bytes.get(batch.start..end).unwrap_or_default();
                let _ = asker.send(Bytes::copy_from_slice(reply));
            }
            Addressee::Nobody(_) => batch.finish(),
        }
        self.forget_front(place);
    }

    /// Shows what was answered to whoever looks for slow and hot commands; `done` others at the place were answered before.
    #[inline]
    fn show(&mut self, link: &Link, ticket: &Ticket, (place, done): (Place, usize), answered: &Answered<'_>) {
        if let Some(lookout) = &link.lookout
            && let Some(glance) = lookout.glance(answered)
        {
            let sight = Sight {
                node: &link.node.address,
                client: &ticket.face(),
                frames: self.outbox.bytes(place),
                done,
                unseen: 0,
            };
            lookout.see(&glance, &sight, answered);
        }
    }

    /// The addressee of the first `count` commands of the entry in front, and what they are; how many of that entry
    /// were answered before. [`Self::forget_front`] must follow.
    fn take_front(&mut self, count: u64) -> (Addressee, Shape, Place, usize) {
        let front = self.entries.front_mut().expect("the caller saw it");
        let (shape, place, done) = (front.shape, front.place, front.done);
        front.done += count as usize;
        let addressee = match &mut front.addressee {
            Addressee::Client(ticket) if ticket.count() > count => Addressee::Client(ticket.split(count)),
            Addressee::Nobody(left) if *left > count => {
                *left -= count;
                Addressee::Nobody(count)
            }
            _ => self.entries.pop_front().expect("just seen").addressee,
        };
        (addressee, shape, place, done)
    }

    /// The chunk of an entry that is wholly answered may go.
    fn forget_front(&mut self, place: Place) {
        if self
            .entries
            .front()
            .is_none_or(|front| front.place.start_of() != place.start_of())
        {
            self.outbox.answered(place);
        }
    }

    /// What came last is the end of a client's one reply, and nothing that must be looked at as a whole.
    fn is_end(&self, kind: ReplyKind) -> bool {
        let Some(front) = self.entries.front().filter(|_| self.replies.is_under_way()) else {
            return false;
        };
        let Addressee::Client(ticket) = &front.addressee else {
            return false;
        };
        let is_asked_again = front.shape.read && !self.replies.is_passing() && ticket.is_behind_returned();
        front.shape.replies == 1 && !kind.is_error() && !is_asked_again
    }

    /// The end of a reply: it leaves from where it was read, behind what was kept of it.
    fn take_end(&mut self, link: &Link, end: &[u8], now: Instant) {
        let pieces = std::mem::take(&mut self.replies.pieces);
        let passed = std::mem::take(&mut self.replies.passed) + pieces.len();
        self.replies.frame_start = 0;
        let (addressee, shape, place, done) = self.take_front(1);
        let waited = now.duration_since(self.outbox.since(place));
        link.account(shape, Class::Data, Outcome::Ok, waited);
        if let Addressee::Client(mut ticket) = addressee {
            let answered = Answered {
                count: 1,
                replies: end,
                passed,
                took: waited,
                at: now,
            };
            self.show(link, &ticket, (place, done), &answered);
            if shape.writes {
                ticket.note_write();
            }
            ticket.deliver_both(&pieces, end);
        }
        self.forget_front(place);
    }

    /// One frame of a reply that came in pieces, has several frames, or is an error.
    fn take_piece(&mut self, link: &Link, frame: &[u8], kind: ReplyKind, now: Instant) {
        let shape = self.entries.front().expect("the caller saw it").shape;
        let replies = &mut self.replies;
        replies.pieces.extend_from_slice(frame);
        let frame = replies.pieces.get(replies.frame_start..).unwrap_or_default();
        let refusal = if kind == ReplyKind::Error {
            refusal(frame)
        } else {
            None
        };
        replies.refused |= refusal.is_some_and(|refusal| link.may_wait_out(refusal, frame));
        replies.frame_start = replies.pieces.len();
        replies.frames += 1;
        if replies.frames < shape.replies {
            return;
        }
        let reply = replies.pieces.split().freeze();
        let refused = replies.refused
            && shape.refusable
            && kind == ReplyKind::Error
            && may_resend(Sent::Refused, shape.read, shape.resends);
        let passed = replies.passed;
        *replies = Replies {
            scan: std::mem::take(&mut replies.scan),
            ..Replies::default()
        };

        let (addressee, shape, place, done) = self.take_front(1);
        if refused || (shape.read && passed == 0 && addressee.is_behind_returned()) {
            link.heed(refusal);
            let frame = match shape.replies {
                1 => self
                    .outbox
                    .frames(place)
                    .into_iter()
                    .nth(done)
                    .map(|(frame, _)| frame),
                _ => Some(self.outbox.copy(place)),
            };
            let frame = frame.expect("as many frames as places");
            let before = if refused {
                Before::Refused(reply)
            } else {
                Before::Answered(reply)
            };
            addressee.give_back(frame, shape, before);
        } else {
            let outcome = if kind.is_error() {
                Outcome::Error
            } else {
                Outcome::Ok
            };
            let waited = now.duration_since(self.outbox.since(place));
            link.account(shape, Class::Data, outcome, waited);
            if let Addressee::Client(ticket) = &addressee {
                let answered = Answered {
                    count: 1,
                    replies: &reply,
                    passed,
                    took: waited,
                    at: now,
                };
                self.show(link, ticket, (place, done), &answered);
            }
            addressee.deliver(reply, shape);
        }
        self.forget_front(place);
    }

    /// A reply that goes on: kept, or passed on where it is large and its client's turn has come.
    fn keep_part(&mut self, part: &[u8]) {
        let replies = &mut self.replies;
        let (ticket, shape) = match self.entries.front() {
            Some(InFlight {
                addressee: Addressee::Client(ticket),
                shape,
                ..
            }) => (ticket, shape),
            Some(InFlight {
                addressee: Addressee::Nobody(_),
                ..
            }) => return,
            _ => return replies.pieces.extend_from_slice(part),
        };
        if replies.is_passing() {
            replies.passed += part.len();
            ticket.part(part);
            return;
        }
        let begun = replies.pieces.len() + part.len();
        let frame = replies.pieces.get(replies.frame_start..).unwrap_or_default();
        // What a node refuses of a block, it refuses before the last reply, or in it.
        let large = begun > limits::REPLY_WHOLE_BYTES
            && replies.frames + 1 == shape.replies
            && !replies.refused
            && !matches!(frame.first().or(part.first()), Some(b'-' | b'!' | b'>'));
        if large && ticket.is_next() && !ticket.is_behind_returned() {
            ticket.note_large();
            ticket.parts(&replies.pieces, part);
            replies.passed = begun;
            replies.pieces = BytesMut::new();
            replies.frame_start = 0;
        } else {
            replies.pieces.extend_from_slice(part);
        }
    }
}

/// A copy of the first of several whole replies, which is taken off. Cold: it is scanned anew.
fn next_reply(replies: &mut &[u8]) -> Bytes {
    let used = match ReplyScan::default().feed(replies) {
        Ok(Progress::Complete { used, .. }) => used,
        _ => replies.len(),
    };
    let (reply, rest) = replies.split_at(used);
    *replies = rest;
    Bytes::copy_from_slice(reply)
}

// === impl Batch ===

impl Batch<'_> {
    /// Adds the replies since `start` to the run, or finishes that and starts a new one.
    fn join(&mut self, ticket: Ticket, end: usize) {
        match &mut self.run {
            Some((own, range)) if own.is_followed_by(&ticket) => {
                own.absorb(ticket);
                range.end = end;
            }
            _ => {
                self.finish();
                self.run = Some((ticket, self.start..end));
            }
        }
    }

    fn finish(&mut self) {
        if let Some((ticket, range)) = self.run.take() {
            if ticket.wrote() {
                self.link.note_write(self.now);
            }
            ticket.deliver(self.bytes.get(range).unwrap_or_default());
        }
    }
}
