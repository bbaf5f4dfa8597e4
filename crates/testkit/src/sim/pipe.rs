//! One connection: two pipes, each of which bytes take some time to pass.
//!
//! ```text
//!   End ──writes──> Pipe: chunks, each with the time of its arrival ──reads──> End
//! ```
//! A pipe may be blocked (nothing arrives, nothing is lost, nobody is told), and both may be reset (what was on its
//! way is lost, and both ends are told).

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::rng::Rng;

/// One end of a connection.
pub struct End {
    reads: Arc<Mutex<Pipe>>,
    writes: Arc<Mutex<Pipe>>,
    timer: Option<Pin<Box<Sleep>>>,
    /// When the first of the bytes that were read last had arrived.
    arrived: Instant,
}

/// A connection as the network sees it.
pub(super) struct Cable {
    pub(super) from: Arc<str>,
    pub(super) to: Arc<str>,
    there: Weak<Mutex<Pipe>>,
    back: Weak<Mutex<Pipe>>,
}

/// How a connection carries bytes, the same in both directions.
#[derive(Clone)]
pub(super) struct Carriage {
    /// Bytes that it takes before its reader has seen any.
    pub(super) window: usize,
    /// The least time that bytes take.
    pub(super) latency: Duration,
    /// Extra milliseconds are drawn below this, and writes are split: none where it is 0.
    pub(super) jitter_millis: u64,
    pub(super) rng: Rng,
}

/// One direction.
struct Pipe {
    carriage: Carriage,
    chunks: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    /// When the last chunk arrives: none overtakes another.
    last: Option<Instant>,
    end: Option<(Instant, Ending)>,
    /// How often something was put in.
    writes: u64,
    /// When its writer last found no room.
    full: Option<Instant>,
    blocked: bool,
    has_reader: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// The end sends no more, and still reads.
    Half,
    Closed,
    Reset,
}

/// A connection between two hosts; what is blocked, is blocked from the start.
pub(super) fn connect(
    from: &Arc<str>,
    to: &Arc<str>,
    carriage: &Carriage,
    blocked: (bool, bool),
) -> (End, End, Cable) {
    let mut rng = carriage.rng.clone();
    let mut pipe = |blocked| {
        Arc::new(Mutex::new(Pipe {
            carriage: Carriage {
                rng: rng.fork(),
                ..carriage.clone()
            },
            chunks: VecDeque::new(),
            bytes: 0,
            last: None,
            end: None,
            writes: 0,
            full: None,
            blocked,
            has_reader: true,
            reader: None,
            writer: None,
        }))
    };
    let (there, back) = (pipe(blocked.0), pipe(blocked.1));
    let cable = Cable {
        from: Arc::clone(from),
        to: Arc::clone(to),
        there: Arc::downgrade(&there),
        back: Arc::downgrade(&back),
    };
    let end = |reads: &Arc<Mutex<Pipe>>, writes: &Arc<Mutex<Pipe>>| End {
        reads: Arc::clone(reads),
        writes: Arc::clone(writes),
        timer: None,
        arrived: Instant::now(),
    };
    (end(&back, &there), end(&there, &back), cable)
}

// === impl Cable ===

impl Cable {
    /// Both of its ends are gone.
    pub(super) fn is_gone(&self) -> bool {
        self.there.strong_count() == 0
    }

    /// What is on its way is lost, and both ends are told.
    pub(super) fn reset(&self) {
        for pipe in [&self.there, &self.back].into_iter().filter_map(Weak::upgrade) {
            let pipe = &mut *lock(&pipe);
            pipe.chunks.clear();
            pipe.end = Some((Instant::now(), Ending::Reset));
            pipe.wake();
        }
    }

    /// Says of each direction whether anything arrives.
    pub(super) fn block(&self, there: bool, back: bool) {
        for (pipe, blocked) in [(&self.there, there), (&self.back, back)] {
            if let Some(pipe) = pipe.upgrade() {
                let pipe = &mut *lock(&pipe);
                pipe.blocked = blocked;
                pipe.wake();
            }
        }
    }

    /// How often its two ends have written.
    pub(super) fn writes(&self) -> (u64, u64) {
        let count = |pipe: &Weak<Mutex<Pipe>>| pipe.upgrade().map_or(0, |pipe| lock(&pipe).writes);
        (count(&self.there), count(&self.back))
    }

    /// How long bytes take from now on.
    pub(super) fn slow(&self, latency: Duration) {
        for pipe in [&self.there, &self.back].into_iter().filter_map(Weak::upgrade) {
            lock(&pipe).carriage.latency = latency;
        }
    }
}

// === impl Pipe ===

impl Pipe {
    fn wake(&mut self) {
        self.reader.take().into_iter().for_each(Waker::wake);
        self.writer.take().into_iter().for_each(Waker::wake);
    }

    /// When what is put in now will arrive.
    fn arrival(&mut self) -> Instant {
        let carriage = &mut self.carriage;
        let extra = match carriage.jitter_millis {
            0 => 0,
            most => carriage.rng.below(most),
        };
        let due = Instant::now() + carriage.latency + Duration::from_millis(extra);
        let due = self.last.map_or(due, |last| last.max(due));
        self.last = Some(due);
        due
    }

    fn put(&mut self, bytes: &[u8]) {
        let (mut rest, jitter) = (Bytes::copy_from_slice(bytes), self.carriage.jitter_millis);
        self.bytes += rest.len();
        if jitter > 0 && rest.len() > 1 && self.carriage.rng.once_in(8) {
            let first = rest.split_to(1 + self.carriage.rng.below(rest.len() as u64 - 1) as usize);
            let due = self.arrival();
            self.chunks.push_back((due, first));
        }
        let due = self.arrival();
        self.chunks.push_back((due, rest));
        self.reader.take().into_iter().for_each(Waker::wake);
    }

    /// Bytes that may be put in now.
    fn room(&mut self, wanted: usize) -> usize {
        let room = wanted.min(self.carriage.window.saturating_sub(self.bytes));
        if room > 1 && self.carriage.jitter_millis > 0 && self.carriage.rng.once_in(16) {
            return 1 + self.carriage.rng.below(room as u64 - 1) as usize;
        }
        room
    }

    /// Its end has arrived.
    fn has_ended(&self) -> bool {
        !self.blocked && self.end.is_some_and(|(due, _)| due <= Instant::now())
    }

    /// Whoever wrote here reads no more either.
    fn is_deaf(&self) -> bool {
        self.has_ended() && self.end.is_some_and(|(_, ending)| ending != Ending::Half)
    }

    fn is_reset(&self) -> bool {
        self.end.is_some_and(|(_, ending)| ending == Ending::Reset)
    }
}

// === impl End ===

impl End {
    /// When the first of the bytes that were read last had arrived: who is busy reads later.
    pub(super) fn arrived(&self) -> Instant {
        self.arrived
    }

    /// What was sent here since `then` may have waited until this end read.
    pub(super) fn was_full_since(&self, then: Instant) -> bool {
        lock(&self.reads).full.is_some_and(|full| full >= then)
    }

    fn end(&self, ending: Ending) {
        let pipe = &mut *lock(&self.writes);
        if pipe.end.is_none_or(|(_, before)| before == Ending::Half) {
            let due = pipe.arrival();
            pipe.end = Some((due, ending));
            pipe.wake();
        }
    }
}

impl AsyncRead for End {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let pipe = &mut *lock(&this.reads);
        let now = Instant::now();
        let mut read = false;
        while let Some((due, chunk)) = pipe.chunks.front_mut() {
            if pipe.blocked || *due > now || buf.remaining() == 0 {
                break;
            }
            if !read {
                this.arrived = *due;
            }
            let taken = chunk.len().min(buf.remaining());
            buf.put_slice(&chunk[..taken]);
            chunk.advance(taken);
            if chunk.is_empty() {
                pipe.chunks.pop_front();
            }
            pipe.bytes -= taken;
            read = true;
        }
        if read {
            pipe.writer.take().into_iter().for_each(Waker::wake);
            return Poll::Ready(Ok(()));
        }
        if pipe.chunks.is_empty() && pipe.has_ended() {
            return Poll::Ready(match pipe.is_reset() {
                true => Err(io::ErrorKind::ConnectionReset.into()),
                false => Ok(()),
            });
        }
        pipe.reader = Some(cx.waker().clone());
        let next = pipe
            .chunks
            .front()
            .map(|(due, _)| *due)
            .or(pipe.end.map(|(due, _)| due));
        this.timer = next
            .filter(|due| *due > now)
            .map(|due| Box::pin(sleep_until(due)));
        match &mut this.timer {
            Some(timer) => timer.as_mut().poll(cx),
            None => Poll::Pending,
        }
        .map(Ok)
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // The peer has closed, and we know.
        if lock(&self.reads).is_deaf() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let pipe = &mut *lock(&self.writes);
        if pipe.end.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if !pipe.has_reader {
            return Poll::Ready(Ok(bytes.len()));
        }
        match pipe.room(bytes.len()) {
            0 if !bytes.is_empty() => {
                pipe.full = Some(Instant::now());
                pipe.writer = Some(cx.waker().clone());
                Poll::Pending
            }
            room => {
                pipe.put(&bytes[..room]);
                pipe.writes += 1;
                Poll::Ready(Ok(room))
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end(Ending::Half);
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.end(Ending::Closed);
        let reads = &mut *lock(&self.reads);
        reads.has_reader = false;
        reads.chunks.clear();
        reads.bytes = 0;
        reads.wake();
    }
}

fn lock(pipe: &Arc<Mutex<Pipe>>) -> MutexGuard<'_, Pipe> {
    pipe.lock().expect("nobody panics with the lock held")
}
