//! What waits to be written to the node, and what was written and is not answered yet.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use resp_codec::{RequestLimits, RequestScan};
use sentinel_watcher::BoxIo;
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use crate::error::Sent;
use crate::limits;

/// Frames in the order of their sending, gathered into chunks: one chunk is one write. A chunk is kept until all
/// its frames are answered, so that a command that must travel again can be copied out of it.
#[derive(Default)]
pub(super) struct Outbox {
    /// Sent and not wholly answered, then unsent.
    chunks: VecDeque<Chunk>,
    /// Number of the first chunk, counted from the connection's start.
    first: u64,
    /// How many of `chunks` are wholly written.
    written: usize,
    /// Empty buffers for the next chunks.
    spare: Vec<Vec<u8>>,
}

/// Where a frame, or several side by side, stand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Number of its chunk.
    chunk: u64,
    start: u32,
    len: u32,
}

struct Chunk {
    bytes: Vec<u8>,
    /// When its first frame came.
    since: Instant,
    unanswered: usize,
    written: usize,
}

// === impl Outbox ===

impl Outbox {
    /// Appends `frame` to the chunk that leaves next. It is kept once [`Self::keep`] says so.
    pub(super) fn push(&mut self, frame: &[u8]) -> Place {
        let open = match self.chunks.back() {
            Some(chunk) if self.written < self.chunks.len() => {
                chunk.written == 0 && chunk.bytes.len() + frame.len() <= limits::CHUNK_BYTES
            }
            _ => false,
        };
        if !open {
            let bytes = self.spare.pop().unwrap_or_default();
            self.chunks.push_back(Chunk {
                bytes,
                since: Instant::now(),
                unanswered: 0,
                written: 0,
            });
        }
        let number = self.first + self.chunks.len() as u64 - 1;
        let chunk = self.chunks.back_mut().expect("just pushed");
        let start = chunk.bytes.len();
        chunk.bytes.extend_from_slice(frame);
        let small = |n| u32::try_from(n).expect("a frame is bounded by proto-max-bulk-len and its arguments");
        Place {
            chunk: number,
            start: small(start),
            len: small(frame.len()),
        }
    }

    /// Writes what waits; `sent` hears of each write. Ready when the connection is lost.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut BoxIo,
        mut sent: impl FnMut(usize),
    ) -> Poll<io::Error> {
        while let Some(chunk) = self.chunks.get_mut(self.written) {
            let rest = chunk.bytes.get(chunk.written..).unwrap_or_default();
            match ready!(Pin::new(&mut *io).poll_write(cx, rest)) {
                Ok(0) => return Poll::Ready(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    chunk.written += n;
                    sent(n);
                    if chunk.written == chunk.bytes.len() {
                        self.written += 1;
                    }
                }
                Err(error) => return Poll::Ready(error),
            }
        }
        match ready!(Pin::new(io).poll_flush(cx)) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(error),
        }
    }

    /// What stands at `place` is kept until [`Self::answered`].
    pub(super) fn keep(&mut self, place: Place) {
        self.chunk_mut(place).unanswered += 1;
    }

    /// Since when what stands at `place` waits for its answer.
    pub(super) fn since(&mut self, place: Place) -> Instant {
        self.chunk_mut(place).since
    }

    /// All that stands at `place` is answered; chunks that are done with make room.
    pub(super) fn answered(&mut self, place: Place) {
        let chunk = self.chunk_mut(place);
        chunk.unanswered -= 1;
        if chunk.unanswered > 0 {
            return;
        }
        while self.written > 0 && self.chunks.front().is_some_and(|chunk| chunk.unanswered == 0) {
            let mut bytes = self.chunks.pop_front().expect("just seen").bytes;
            self.written -= 1;
            self.first += 1;
            if self.spare.len() < limits::CHUNKS_KEPT && bytes.capacity() <= limits::CHUNK_KEEP_BYTES {
                bytes.clear();
                self.spare.push(bytes);
            }
        }
    }

    /// What stands at `place`.
    pub(super) fn bytes(&mut self, place: Place) -> &[u8] {
        let range = place.start as usize..(place.start + place.len) as usize;
        let chunk = self.chunk_mut(place);
        chunk.bytes.get(range).expect("places are made by push")
    }

    /// A copy of it.
    pub(super) fn copy(&mut self, place: Place) -> Bytes {
        Bytes::copy_from_slice(self.bytes(place))
    }

    /// The frames that stand side by side at `place`, and whether any byte of each was written. Cold: they are
    /// scanned anew.
    pub(super) fn frames(&mut self, place: Place) -> Vec<(Bytes, Sent)> {
        let mut rest = self.copy(place);
        let mut start = place.start as usize;
        let written = self.chunk_mut(place).written;
        let mut frames = Vec::new();
        while !rest.is_empty() {
            let found = RequestScan::default().advance(&rest, &RequestLimits::AUTHENTICATED);
            let len = found.ok().flatten().map_or(rest.len(), |frame| frame.len);
            let sent = if written > start { Sent::Maybe } else { Sent::Never };
            frames.push((rest.split_to(len), sent));
            start += len;
        }
        frames
    }

    /// Whether any byte of what stands at `place` was written.
    pub(super) fn sent(&mut self, place: Place) -> Sent {
        if self.chunk_mut(place).written > place.start as usize {
            Sent::Maybe
        } else {
            Sent::Never
        }
    }

    fn chunk_mut(&mut self, place: Place) -> &mut Chunk {
        let at = usize::try_from(place.chunk - self.first).ok();
        at.and_then(|at| self.chunks.get_mut(at))
            .expect("a chunk outlives its unanswered frames")
    }
}

// === impl Place ===

impl Place {
    /// What tells it from every other place of the connection.
    pub(super) const fn start_of(self) -> (u64, u32) {
        (self.chunk, self.start)
    }

    /// Takes `next` in, if it stands right behind.
    pub(super) fn absorb(&mut self, next: Self) -> bool {
        let follows = self.chunk == next.chunk && self.start + self.len == next.start;
        if follows {
            self.len += next.len;
        }
        follows
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Writes all that waits to a pipe of `room` bytes. True: it took everything.
    fn write(outbox: &mut Outbox, io: &mut BoxIo) -> usize {
        let mut total = 0;
        let _ = outbox.poll_write(&mut Context::from_waker(Waker::noop()), io, |n| total += n);
        total
    }

    fn push(outbox: &mut Outbox, frame: &[u8]) -> Place {
        let place = outbox.push(frame);
        outbox.keep(place);
        place
    }

    #[test]
    fn frames_side_by_side_come_apart_again() {
        let (near, _far) = tokio::io::duplex(10);
        let mut io: BoxIo = Box::new(near);
        let mut outbox = Outbox::default();
        let mut group = push(&mut outbox, b"GET a\r\n");
        let next = outbox.push(b"*2\r\n$3\r\nGET\r\n$1\r\nb\r\n");
        let last = outbox.push(b"PING\r\n");
        assert!(group.absorb(next) && group.absorb(last));
        write(&mut outbox, &mut io);
        let frames = outbox.frames(group);
        let sent: Vec<_> = frames.iter().map(|(_, sent)| *sent).collect();
        assert_eq!(sent, [Sent::Maybe, Sent::Maybe, Sent::Never]);
        assert_eq!(
            frames.iter().map(|(frame, _)| frame.len()).collect::<Vec<_>>(),
            [7, 20, 6]
        );
        assert_eq!(frames.last().unwrap().0, &b"PING\r\n"[..]);
    }

    #[test]
    fn frames_that_gather_leave_in_one_chunk() {
        let (near, _far) = tokio::io::duplex(1024);
        let mut io: BoxIo = Box::new(near);
        let mut outbox = Outbox::default();
        let first = push(&mut outbox, b"one");
        let second = push(&mut outbox, b"two");
        assert_eq!(write(&mut outbox, &mut io), 6);
        assert_eq!(outbox.copy(second), &b"two"[..]);
        outbox.answered(first);
        assert_eq!(outbox.chunks.len(), 1);
        outbox.answered(second);
        assert_eq!(outbox.chunks.len(), 0);
        assert!(outbox.spare.len() == 1, "the buffer is used again");
    }

    #[test]
    fn a_frame_is_sent_from_its_first_byte_on() {
        let (near, _far) = tokio::io::duplex(4);
        let mut io: BoxIo = Box::new(near);
        let mut outbox = Outbox::default();
        let (first, second, third) = (
            push(&mut outbox, b"one"),
            push(&mut outbox, b"two"),
            push(&mut outbox, b"six"),
        );
        assert_eq!(outbox.sent(first), Sent::Never);
        assert_eq!(write(&mut outbox, &mut io), 4);
        assert_eq!(
            [first, second, third].map(|place| outbox.sent(place)),
            [Sent::Maybe, Sent::Maybe, Sent::Never]
        );
        let later = push(&mut outbox, b"later");
        assert_eq!(outbox.sent(later), Sent::Never);
        outbox.answered(first);
        assert_eq!(outbox.copy(third), &b"six"[..]);
    }

    #[test]
    fn a_written_chunk_takes_nothing_more() {
        let (near, _far) = tokio::io::duplex(1024);
        let mut io: BoxIo = Box::new(near);
        let mut outbox = Outbox::default();
        let first = push(&mut outbox, b"one");
        write(&mut outbox, &mut io);
        let second = push(&mut outbox, b"two");
        assert_eq!(outbox.sent(second), Sent::Never);
        outbox.answered(first);
        write(&mut outbox, &mut io);
        assert_eq!(
            (outbox.sent(second), outbox.copy(second)),
            (Sent::Maybe, Bytes::from_static(b"two"))
        );
    }
}
