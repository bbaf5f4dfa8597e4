//! The mux hand-off alone: requests appended to a shared connection as sessions do it, and its replies handed out to their
//! tickets; between ends that are no sockets and take everything.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};

use anyhow::{Context as _, Result, ensure};
use proxy_core::bare::HandOff;
use resp_codec::{Command, RequestLimits, RequestScan};
use sentinel_watcher::BoxIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// So many clients, each with the same requests.
pub struct Bench {
    hand_off: HandOff,
    /// What each client sends at once, and of how many commands that is a group.
    requests: Vec<u8>,
    commands: usize,
    node: End,
    /// All of them.
    clients: Vec<End>,
}

/// The far end of a connection, without a near one: counts what is written to it.
#[derive(Clone, Default)]
struct End(Arc<Seen>);

#[derive(Default)]
struct Seen {
    /// Bytes taken.
    taken: AtomicUsize,
    /// What is read from it, and how many bytes of that are left.
    replies: Vec<u8>,
    ready: AtomicUsize,
}

// === impl Bench ===

impl Bench {
    /// `clients` send `request`, `commands` times in a group, and are answered with `reply` to each.
    #[must_use]
    pub fn new(clients: usize, request: &[u8], commands: usize, reply: &[u8]) -> Self {
        let node = End(Arc::new(Seen {
            replies: reply.repeat(commands * clients),
            ..Seen::default()
        }));
        let clients: Vec<End> = (0..clients).map(|_| End::default()).collect();
        let boxed = |end: &End| Box::new(end.clone()) as BoxIo;
        Self {
            hand_off: HandOff::new(boxed(&node), clients.iter().map(boxed).collect()),
            requests: request.repeat(commands),
            commands,
            node,
            clients,
        }
    }

    /// How many commands are answered in a round.
    #[must_use]
    pub fn commands_of_a_round(&self) -> usize {
        self.commands * self.clients.len()
    }

    /// Each client has been answered once.
    ///
    /// # Errors
    /// When something else comes out than what goes in.
    pub fn round(&mut self) -> Result<()> {
        let found = RequestScan::default().advance(&self.requests, &RequestLimits::AUTHENTICATED)?;
        let first = found.context("a whole request")?;
        let first = Command::new(self.requests.get(..first.len).unwrap_or_default(), first);
        self.hand_off.send(&self.requests, self.commands as u64, &first);
        ensure!(self.hand_off.turn(), "the connection is lost");
        self.node.answer();
        ensure!(self.hand_off.turn(), "the connection is lost");
        let asked = self.node.taken();
        let answered: usize = self.clients.iter().map(End::taken).sum();
        ensure!(
            asked == self.requests.len() * self.clients.len() && answered == self.node.0.replies.len(),
            "{asked} bytes of requests, {answered} of replies"
        );
        Ok(())
    }
}

// === impl End ===

impl End {
    /// All its replies are there to be read.
    fn answer(&self) {
        self.0.ready.store(self.0.replies.len(), Relaxed);
    }

    /// Bytes taken since the last time.
    fn taken(&self) -> usize {
        self.0.taken.swap(0, Relaxed)
    }
}

impl AsyncRead for End {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Seen { replies, ready, .. } = &*self.0;
        let left = ready.load(Relaxed);
        if left == 0 {
            return Poll::Pending;
        }
        let now = left.min(buf.remaining());
        let start = replies.len() - left;
        buf.put_slice(&replies[start..start + now]);
        ready.store(left - now, Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.taken.fetch_add(buf.len(), Relaxed);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
