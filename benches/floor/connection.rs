//! One client of the floor.

use std::io::{ErrorKind, IoSlice, Read, Write};

use mio::event::Event;
use mio::net::TcpStream;

use super::canned::{Answer, Canned};
use super::scan::Scan;

/// Slices that Linux takes in one write.
const SLICES: usize = 1024;

/// A client, at rest a few words.
pub(super) struct Connection {
    stream: TcpStream,
    scan: Scan,
    /// Replies not yet written, in order; empty whenever the client reads what it asked for.
    owed: Vec<Run>,
}

/// What becomes of the connection.
pub(super) enum Fate {
    Keep,
    Close,
}

/// Equal replies in a row.
#[derive(Clone, Copy)]
struct Run {
    answer: Answer,
    /// Bytes of it still to be written.
    left: usize,
}

// === impl Connection ===

impl Connection {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            scan: Scan::default(),
            owed: Vec::new(),
        }
    }

    /// Edge-triggered: goes on until the socket has nothing more, or takes nothing more.
    pub(super) fn wake(&mut self, event: &Event, scratch: &mut [u8], canned: &Canned) -> Fate {
        let was_blocked = !self.owed.is_empty();
        if was_blocked && !self.write(canned) {
            return Fate::Close;
        }
        // Input that came while output was blocked raised its edge then: it has to be looked for now.
        if !event.is_readable() && !was_blocked {
            return Fate::Keep;
        }
        while self.owed.is_empty() {
            let read = match self.stream.read(scratch) {
                Ok(0) => return Fate::Close,
                Ok(read) => read,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Fate::Keep,
                Err(_) => return Fate::Close,
            };
            let owed = &mut self.owed;
            let scanned = self.scan.feed(&scratch[..read], |answer| match owed.last_mut() {
                Some(run) if run.answer == answer => run.left += canned.len(answer),
                _ => owed.push(Run {
                    answer,
                    left: canned.len(answer),
                }),
            });
            if scanned.is_err() || !self.write(canned) {
                return Fate::Close;
            }
            // A short read emptied the socket: what comes later raises a new edge, an end of stream has already.
            if read < scratch.len() && !event.is_read_closed() {
                return Fate::Keep;
            }
        }
        Fate::Keep
    }

    /// Writes what is owed as far as the socket takes it; false when the connection is lost.
    fn write(&mut self, canned: &Canned) -> bool {
        while let Some(first) = self.owed.first() {
            let written = if self.owed.len() == 1 {
                self.stream.write(canned.slice(first.answer, first.left))
            } else {
                let mut slices: Vec<_> = self
                    .owed
                    .iter()
                    .map(|run| IoSlice::new(canned.slice(run.answer, run.left)))
                    .collect();
                // A run longer than its slice goes on in the next write, so nothing may follow it in this one.
                let whole = self
                    .owed
                    .iter()
                    .zip(&slices)
                    .take_while(|(run, slice)| run.left == slice.len())
                    .count();
                slices.truncate((whole + 1).min(SLICES));
                self.stream.write_vectored(&slices)
            };
            match written {
                Ok(written) => self.settle(written),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
        true
    }

    fn settle(&mut self, mut written: usize) {
        self.owed.retain_mut(|run| {
            let paid = written.min(run.left);
            written -= paid;
            run.left -= paid;
            run.left > 0
        });
    }
}
