//! What goes to a client's socket, how much waits for it to be taken, and behind that.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;

use super::{Client, State};
use crate::limits;
use crate::memory::Memory;
use crate::metrics::{Counter, Side};

impl Client {
    /// So much waits for the client, `spare` bytes past its share of what is left of memory, that whoever produces the
    /// reply at `seq` must pause. What came before its turn counts as long as that reply is one of those, and so do the
    /// `begun` bytes of it. Wakes `cx` when that has changed.
    pub(super) fn is_stalled(
        &self,
        (seq, begun): (u64, usize),
        cx: &Context<'_>,
        memory: &Memory,
        spare: usize,
    ) -> bool {
        let state = &mut *self.state.borrow_mut();
        let early = match &state.rare {
            None if begun == 0 => 0,
            _ => state.early_bytes(seq, begun),
        };
        let unread = state.output.len() + early;
        let stalled = unread >= limits::SHED_BYTES
            && unread >= memory.share() + spare + state.granted_bytes()
            && state.io.is_some();
        if stalled {
            let feeders = &mut state.rare_mut().feeders;
            if !feeders.iter().any(|feeder| feeder.will_wake(cx.waker())) {
                feeders.push(cx.waker().clone());
            }
        }
        stalled
    }

    /// It has taken so much that it may be sent more, however short memory is.
    pub(crate) fn has_read_up(&self) -> bool {
        self.state.borrow().output.len() < limits::SHED_BYTES
    }

    /// Bytes waiting for the socket.
    #[must_use]
    pub(crate) fn output_bytes(&self) -> usize {
        self.state.borrow().output.len()
    }

    /// Bytes that would be gone with it: of replies that it has not taken, those that came before their turn among them,
    /// and of requests that wait behind those, or behind a blocked one.
    #[must_use]
    pub(crate) fn hoarded_bytes(&self) -> usize {
        self.state.borrow().hoarded_bytes()
    }
}

impl State {
    /// What waits for an earlier reply, where the one at `seq` does, too, and `begun` bytes of it are here.
    #[cold]
    fn early_bytes(&self, seq: u64, begun: usize) -> usize {
        match self.first_returned() {
            // What is to be sent again goes only once all others have come.
            Some(returned) if returned < seq => 0,
            _ if seq == self.head => 0,
            _ => begun + self.parked_bytes(),
        }
    }

    pub(super) fn hoarded_bytes(&self) -> usize {
        self.output.len() + self.parked_bytes() + self.kept_bytes()
    }

    /// Writes `bytes` to the socket, or behind what waits for it.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        if self.io.is_none() {
            return;
        }
        let mut rest = self.heard_of(bytes);
        while self.output.is_empty() && !rest.is_empty() {
            match self.write(rest) {
                Some(n) => rest = rest.get(n..).expect("the socket took no more than it was given"),
                None => break,
            }
        }
        if rest.is_empty() {
            self.push_out();
        } else if self.io.is_some() {
            self.output.extend_from_slice(rest);
        }
    }

    /// The same of two that follow each other: one write, where the socket takes both.
    pub(super) fn put_both(&mut self, first: &[u8], second: &[u8]) {
        let mut taken = 0;
        if !first.is_empty() && self.output.is_empty() && self.hush.is_none() {
            taken = self.write_both([first, second].map(IoSlice::new)).unwrap_or(0);
        }
        if let Some(rest) = first.get(taken..).filter(|rest| !rest.is_empty()) {
            self.put(rest);
        }
        self.put(
            second
                .get(taken.saturating_sub(first.len())..)
                .unwrap_or_default(),
        );
    }

    /// What of `bytes`, which are replies, is not kept from the client.
    fn heard_of<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let mut rest = bytes;
        if let Some(hush) = &mut self.hush
            && hush.keep_from(&mut rest)
        {
            self.hush = None;
        }
        rest
    }

    /// Has `bytes` written with what comes next, unless they are enough for a write.
    pub(super) fn put_later(&mut self, bytes: &[u8]) {
        if self.io.is_none() {
            return;
        }
        let rest = self.heard_of(bytes);
        self.output.extend_from_slice(rest);
        if self.output.len() >= limits::CHUNK_BYTES {
            self.flush();
        }
    }

    /// Writes what waits. True: nothing waits any more.
    pub(super) fn flush(&mut self) -> bool {
        let waited = !self.output.is_empty();
        while !self.output.is_empty() {
            let mut output = std::mem::take(&mut self.output);
            let Some(taken) = self.write(&output) else {
                if self.io.is_some() {
                    self.output = output;
                }
                break;
            };
            output.advance(taken);
            self.output = output;
        }
        if self.output.is_empty() {
            self.output = BytesMut::new();
            self.forget_grant();
        }
        if !self.is_unread() {
            if waited {
                self.wake_feeders();
            }
            self.wake_if_wanted();
        }
        self.output.is_empty() && self.push_out()
    }

    /// Has the stream pass on what it has taken and may hold back, as TLS does. False: the socket takes nothing now (the
    /// session will be woken).
    fn push_out(&mut self) -> bool {
        let waker = self.waker.as_ref().unwrap_or(Waker::noop());
        let Some(io) = self.io.as_mut() else { return true };
        match Pin::new(io).poll_flush(&mut Context::from_waker(waker)) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(_)) => {
                self.fail();
                true
            }
            Poll::Pending => false,
        }
    }

    /// One write. `None`: the socket takes nothing now (the session will be woken) or has failed.
    fn write(&mut self, bytes: &[u8]) -> Option<usize> {
        let waker = self.waker.as_ref().unwrap_or(Waker::noop());
        let io = self.io.as_mut()?;
        let written = Pin::new(io).poll_write(&mut Context::from_waker(waker), bytes);
        self.wrote(written)
    }

    /// The same of two slices.
    fn write_both(&mut self, both: [IoSlice<'_>; 2]) -> Option<usize> {
        let waker = self.waker.as_ref().unwrap_or(Waker::noop());
        let io = self.io.as_mut()?;
        let written = Pin::new(io).poll_write_vectored(&mut Context::from_waker(waker), &both);
        self.wrote(written)
    }

    /// Counts what a write has written.
    fn wrote(&mut self, written: Poll<io::Result<usize>>) -> Option<usize> {
        match written {
            Poll::Ready(Ok(n)) if n > 0 => {
                self.written += n as u64;
                self.cells.add(Counter::SentBytes(Side::Client), n as u64);
                Some(n)
            }
            Poll::Pending => None,
            Poll::Ready(_) => {
                self.fail();
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::rc::Rc;
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncRead, ReadBuf};
    use tokio::time::Instant;

    use super::*;
    use crate::client::face::Face;
    use crate::metrics::Metrics;

    /// A socket that takes so many bytes at once, of several slices, and nothing every other time.
    struct Sips {
        most: usize,
        full: bool,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl AsyncRead for Sips {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Sips {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(buf)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.full = !self.full;
            if self.full {
                return Poll::Pending;
            }
            let all: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
            let now = all.get(..self.most.min(all.len())).unwrap();
            self.taken.lock().unwrap().extend_from_slice(now);
            Poll::Ready(Ok(now.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// A reply whose first `at` bytes were kept, through a socket that takes `most` at once and is `full` first, or not.
    fn check(at: usize, most: usize, full: bool) {
        const REPLY: &[u8] = b"$5\r\nvalue\r\n";
        let taken = Arc::new(Mutex::new(Vec::new()));
        let socket = Sips {
            most,
            full: !full,
            taken: Arc::clone(&taken),
        };
        let address = || SocketAddr::from((Ipv4Addr::LOCALHOST, 1)).into();
        let face = Face::new(1, 0, (address(), address()), 0, Instant::now(), Rc::default());
        let cells = Metrics::new(1, vec![Arc::from("m")], Vec::new()).cells(0);
        let client = Client::new(Box::new(socket), cells, face);
        let (first, second) = (client.ticket(1, 0).0, client.ticket(1, 0).0);
        let (kept, end) = REPLY.split_at(at);
        first.deliver_both(kept, end);
        if !full && most >= REPLY.len() {
            assert_eq!(*taken.lock().unwrap(), REPLY, "in one write");
        }
        second.deliver(b"+OK\r\n");
        for _ in 0..40 {
            let _ = client.poll_flush();
        }
        let taken = taken.lock().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&taken),
            "$5\r\nvalue\r\n+OK\r\n",
            "{at} kept, {most} at once"
        );
        assert_eq!(client.taken(), 16);
    }

    #[test]
    fn two_pieces_leave_as_one_would_through_any_socket() {
        for at in 0..=11 {
            for most in 1..=17 {
                check(at, most, false);
                check(at, most, true);
            }
        }
    }
}
