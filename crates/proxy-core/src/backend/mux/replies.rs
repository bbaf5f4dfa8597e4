//! The way back: what the node sent is split into replies, each for the command in front.

use std::io;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use resp_codec::{Class, Progress, Refusal, ReplyKind, ReplyScan, refusal};
use sentinel_watcher::Suspicion;
use tokio::time::Instant;

use super::{Addressee, InFlight, State};
use crate::backend::Link;
use crate::client::Ticket;
use crate::error::{Sent, may_resend};
use crate::limits;
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
    /// The first part of a large reply has been passed on.
    pub(super) passing: bool,
}

/// How long commands answered by one read have waited, those of one write together.
struct Waits {
    now: Instant,
    since: Instant,
    count: u64,
}

/// Replies for one client that lie side by side in the read buffer.
struct Run {
    ticket: Ticket,
    start: usize,
    end: usize,
}

impl State {
    /// Splits what came into replies and hands them out.
    pub(super) fn read(&mut self, link: &Link, bytes: &[u8]) -> io::Result<()> {
        let now = Instant::now();
        let mut waits = Waits {
            now,
            since: now,
            count: 0,
        };
        let mut run: Option<Run> = None;
        let mut at = 0;
        while at < bytes.len() {
            let rest = bytes.get(at..).unwrap_or_default();
            let progress = self.replies.scan.feed(rest).map_err(io::Error::other)?;
            let Progress::Complete { used, kind } = progress else {
                Run::finish(run.take(), bytes);
                self.keep_part(rest);
                break;
            };
            let start = at;
            at += used;
            if kind == ReplyKind::Push {
                // Nobody on a shared connection asked for a push (`CLIENT TRACKING` holds a lease).
                self.replies.pieces.truncate(self.replies.frame_start);
                continue;
            }
            let front = self
                .entries
                .front()
                .ok_or_else(|| io::Error::other("a reply that nobody asked for"))?;
            let whole = self.replies.pieces.is_empty() && !self.replies.passing && front.shape.replies == 1;
            if whole && !kind.is_error() {
                run = self.answer_in_run(link, run, bytes, start..at, &mut waits);
            } else {
                Run::finish(run.take(), bytes);
                self.take_piece(link, rest.get(..used).unwrap_or_default(), kind, now);
            }
        }
        Run::finish(run, bytes);
        waits.settle(link);
        Ok(())
    }

    /// The common case: the reply in front lies whole in `bytes` and joins the replies before it.
    fn answer_in_run(
        &mut self,
        link: &Link,
        mut run: Option<Run>,
        bytes: &[u8],
        at: Range<usize>,
        waits: &mut Waits,
    ) -> Option<Run> {
        let entry = self.entries.pop_front().expect("the caller saw it");
        match entry.addressee {
            Addressee::Client(ticket) if entry.shape.read && ticket.is_behind_returned() => {
                Run::finish(run.take(), bytes);
                ticket.give_back(self.outbox.copy(entry.place), entry.shape, None);
            }
            Addressee::Client(ticket) => {
                link.cells.command(entry.shape.command, Outcome::Ok);
                run = Some(Run::join(run, ticket, bytes, at));
            }
            Addressee::Asker(asker) => {
                let _ = asker.send(Bytes::copy_from_slice(bytes.get(at).unwrap_or_default()));
            }
        }
        waits.note(link, self.outbox.answered(entry.place));
        run
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
        let passing = replies.passing;
        *replies = Replies {
            scan: std::mem::take(&mut replies.scan),
            ..Replies::default()
        };

        let entry = self.entries.pop_front().expect("the caller saw it");
        if refused || (shape.read && !passing && entry.addressee.is_behind_returned()) {
            if refusal == Some(Refusal::Readonly) {
                link.hint(Suspicion::Demoted);
            }
            let frame = self.outbox.copy(entry.place);
            entry.addressee.give_back(frame, shape, refused.then_some(reply));
        } else {
            let outcome = if kind.is_error() {
                Outcome::Error
            } else {
                Outcome::Ok
            };
            link.cells.command(shape.command, outcome);
            entry.addressee.deliver(reply);
        }
        let since = self.outbox.answered(entry.place);
        link.cells
            .command_durations(Class::Data, now.duration_since(since), 1);
    }

    /// A reply that goes on: kept, or passed on where it is large and its client's turn has come.
    fn keep_part(&mut self, part: &[u8]) {
        let replies = &mut self.replies;
        let Some(InFlight {
            addressee: Addressee::Client(ticket),
            shape,
            ..
        }) = self.entries.front()
        else {
            replies.pieces.extend_from_slice(part);
            return;
        };
        if replies.passing {
            ticket.part(part);
            return;
        }
        replies.pieces.extend_from_slice(part);
        let large = replies.pieces.len() > limits::REPLY_WHOLE_BYTES
            && shape.replies == 1
            && !matches!(replies.pieces.first(), Some(b'-' | b'!' | b'>'));
        if large && ticket.is_next() && !ticket.is_behind_returned() {
            ticket.part(&replies.pieces);
            replies.pieces = BytesMut::new();
            replies.passing = true;
        }
    }
}

// === impl Waits ===

impl Waits {
    fn note(&mut self, link: &Link, since: Instant) {
        if since != self.since {
            self.settle(link);
            self.since = since;
        }
        self.count += 1;
    }

    fn settle(&mut self, link: &Link) {
        let count = std::mem::take(&mut self.count);
        if count > 0 {
            link.cells
                .command_durations(Class::Data, self.now.duration_since(self.since), count);
        }
    }
}

// === impl Run ===

impl Run {
    /// Adds the reply at `at` to `run`, or finishes that and starts a new one.
    fn join(run: Option<Self>, ticket: Ticket, bytes: &[u8], at: Range<usize>) -> Self {
        let Some(mut run) = run else {
            return Self {
                ticket,
                start: at.start,
                end: at.end,
            };
        };
        match run.ticket.absorb(ticket) {
            Ok(()) => {
                run.end = at.end;
                run
            }
            Err(ticket) => {
                Self::finish(Some(run), bytes);
                Self {
                    ticket,
                    start: at.start,
                    end: at.end,
                }
            }
        }
    }

    fn finish(run: Option<Self>, bytes: &[u8]) {
        if let Some(run) = run {
            run.ticket
                .deliver(bytes.get(run.start..run.end).unwrap_or_default());
        }
    }
}
