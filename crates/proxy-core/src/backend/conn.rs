//! A fresh connection to a node: dialled, made into its Profile, read reply by reply.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use resp_codec::{Progress, ReplyKind, ReplyScan, write};
use sentinel_watcher::{BoxIo, Dial, HostPort};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::backend::profile::{self, Profile, Step};
use crate::limits;
use crate::metrics::{Cells, ConnectionKind, Counter, NodeCells, Side};

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// The node cannot be reached, or hung up.
    Io(io::Error),
    /// The node refused the Profile; its own error reply.
    Refused(Bytes),
}

/// A connection to a node, read reply by reply.
pub(crate) struct Conn {
    io: BoxIo,
    scan: ReplyScan,
    input: BytesMut,
    /// Bytes of `input` that the scan has seen already.
    scanned: usize,
    /// Its CLIENT ID on the node, where that was asked and the user may know it.
    id: Option<i64>,
    /// What the node has been told to call it.
    name: Bytes,
    /// The node has answered on it already.
    heard: bool,
    /// Replies still to come that nobody waits for.
    unheeded: usize,
    counted: Counted,
}

/// What came from the node.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// A reply frame, or the last part of one.
    Frame(ReplyKind, Bytes),
    /// A part of a large reply; more follows.
    Part(Bytes),
}

/// A connection in the metrics, for as long as this lives.
pub(crate) struct Counted {
    node: Arc<NodeCells>,
    cells: Arc<Cells>,
    kind: ConnectionKind,
}

// === impl Conn ===

impl Conn {
    /// Dials `node` and makes the connection into `profile`, all within `timeout`.
    ///
    /// # Errors
    /// The node cannot be reached in time, or refuses the Profile.
    pub(crate) async fn open(
        dial: &dyn Dial,
        node: &HostPort,
        profile: &Profile,
        timeout: Duration,
        counted: Counted,
    ) -> Result<Self, ConnectError> {
        let opening = async {
            let io = dial.dial(node).await?;
            let mut conn = Self {
                io,
                scan: ReplyScan::default(),
                input: BytesMut::new(),
                scanned: 0,
                id: None,
                name: Bytes::new(),
                heard: false,
                unheeded: 0,
                counted,
            };
            conn.greet(profile).await?;
            Ok(conn)
        };
        match tokio::time::timeout(timeout, opening).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::Io(io::ErrorKind::TimedOut.into())),
        }
    }

    /// Becomes `profile`. Whoever waits for it waits for one round trip, unless the user has to SELECT himself.
    async fn greet(&mut self, profile: &Profile) -> Result<(), ConnectError> {
        // A blocked command is unblocked by the CLIENT ID of its lease, invalidations are redirected to it.
        let handshake = profile.handshake(self.counted.kind == ConnectionKind::Lease);
        if handshake.steps.is_empty() {
            return Ok(());
        }
        self.send(&handshake.bytes).await?;
        let mut selected = true;
        for step in handshake.steps {
            let (kind, reply) = self.reply().await?;
            match step {
                Step::Needed if kind.is_error() => return Err(ConnectError::Refused(reply)),
                Step::User if kind.is_error() && !profile::needs_no_password(&reply) => {
                    return Err(ConnectError::Refused(reply));
                }
                Step::Needed | Step::User | Step::Chooser => {}
                Step::Chosen => selected = !kind.is_error(),
                Step::Id => self.id = number(&reply),
            }
        }
        self.heard = true;
        if selected {
            return Ok(());
        }
        let reply = self.select(profile.db).await?;
        if reply.starts_with(b"+") {
            Ok(())
        } else {
            Err(ConnectError::Refused(reply))
        }
    }

    /// SELECT, and the node's answer.
    ///
    /// # Errors
    /// The connection is gone.
    pub(crate) async fn select(&mut self, db: u32) -> io::Result<Bytes> {
        let mut order = BytesMut::new();
        profile::select(&mut order, db);
        self.send(&order).await?;
        self.reply().await.map(|(_, reply)| reply)
    }

    /// Writes `bytes`, all of them.
    ///
    /// # Errors
    /// The connection is gone.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.counted
            .cells
            .add(Counter::SentBytes(Side::Node), bytes.len() as u64);
        self.io.write_all(bytes).await?;
        self.io.flush().await
    }

    /// Writes some of `bytes`, as many as the node takes now.
    ///
    /// # Errors
    /// The connection is gone.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        if sent == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.counted
            .cells
            .add(Counter::SentBytes(Side::Node), sent as u64);
        Poll::Ready(Ok(sent))
    }

    /// Ready once all that was written is on its way.
    ///
    /// # Errors
    /// The connection is gone.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// The next reply frame, whole. Cancel-safe: what was read stays.
    ///
    /// # Errors
    /// The connection is gone, or the node speaks no RESP ([`io::ErrorKind::InvalidData`]).
    pub(crate) async fn reply(&mut self) -> io::Result<(ReplyKind, Bytes)> {
        match self.arrival(usize::MAX).await? {
            Arrival::Frame(kind, frame) => Ok((kind, frame)),
            Arrival::Part(_) => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// The next reply frame, in parts where it is longer than `whole` bytes. Cancel-safe: what was read stays.
    ///
    /// # Errors
    /// As [`Self::reply`].
    pub(crate) async fn arrival(&mut self, whole: usize) -> io::Result<Arrival> {
        loop {
            if let Some(arrival) = self.arrival_at_hand(whole)? {
                return Ok(arrival);
            }
            let room = if self.input.is_empty() {
                4 << 10
            } else {
                limits::SCRATCH_BYTES
            };
            self.input.reserve(room);
            match self.io.read_buf(&mut self.input).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => self
                    .counted
                    .cells
                    .add(Counter::ReceivedBytes(Side::Node), n as u64),
            }
        }
    }

    /// The same, of what has been read already.
    ///
    /// # Errors
    /// The node speaks no RESP.
    pub(crate) fn arrival_at_hand(&mut self, whole: usize) -> io::Result<Option<Arrival>> {
        while let Some(fresh) = self.input.get(self.scanned..).filter(|fresh| !fresh.is_empty()) {
            match self.scan.feed(fresh) {
                Ok(Progress::Complete { used, kind }) => {
                    let end = std::mem::take(&mut self.scanned) + used;
                    let frame = self.input.split_to(end).freeze();
                    if self.unheeded == 0 {
                        return Ok(Some(Arrival::Frame(kind, frame)));
                    }
                    self.unheeded -= 1;
                }
                Ok(Progress::Partial) => self.scanned = self.input.len(),
                Err(_) => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        if self.scanned > whole {
            self.scanned = 0;
            return Ok(Some(Arrival::Part(self.input.split().freeze())));
        }
        Ok(None)
    }

    /// A whole push that has come already: what the node wrote right behind a reply.
    pub(crate) fn push_at_hand(&mut self) -> Option<Bytes> {
        if self.scanned > 0 || self.input.first() != Some(&b'>') {
            return None;
        }
        match ReplyScan::default().feed(&self.input) {
            Ok(Progress::Complete { used, .. }) => Some(self.input.split_to(used).freeze()),
            _ => None,
        }
    }

    /// Whatever the node has sent, on a connection that speaks no RESP any more. Cancel-safe: what was read stays.
    ///
    /// # Errors
    /// The connection is gone.
    pub(crate) async fn bytes(&mut self) -> io::Result<Bytes> {
        if self.input.is_empty() {
            self.input.reserve(limits::CHUNK_BYTES);
            match self.io.read_buf(&mut self.input).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => self
                    .counted
                    .cells
                    .add(Counter::ReceivedBytes(Side::Node), n as u64),
            }
        }
        Ok(self.input.split().freeze())
    }

    /// Waits for a word of the node. Until then nobody may be there: the kernel takes connections for a process that is
    /// dying, or frozen, and what is sent there is lost or executed who knows when. A user that had to be proven has
    /// been answered: it may lack the right to PING, which would stand in the ACL LOG.
    ///
    /// # Errors
    /// The connection is gone, or the node has no place for it.
    pub(crate) async fn hear(&mut self) -> Result<(), ConnectError> {
        if self.heard {
            return Ok(());
        }
        let mut order = BytesMut::new();
        write::command(&mut order, &[b"pInG"]);
        self.send(&order).await?;
        let (_, reply) = self.reply().await?;
        if reply.starts_with(b"-ERR max") || reply.starts_with(b"-DENIED") {
            return Err(ConnectError::Refused(reply));
        }
        // Any other error is a sign of life: LOADING, BUSY, NOAUTH.
        Ok(())
    }

    /// Has the node call it `name`, for its SLOWLOG and its CLIENT LIST. Whether it does is of no consequence.
    pub(crate) async fn introduce(&mut self, name: Bytes) -> io::Result<()> {
        if self.name == name {
            return Ok(());
        }
        let mut order = BytesMut::new();
        write::command(&mut order, &[b"cLiEnT", b"SETNAME", &name]);
        self.name = name;
        self.unheeded += 1;
        self.send(&order).await
    }

    /// Its CLIENT ID on the node, as far as that is known.
    pub(crate) fn id(&self) -> Option<i64> {
        self.id
    }

    /// The node has neither hung up nor sent what nobody asked for, while this connection was at rest.
    pub(crate) fn is_undisturbed(&mut self) -> bool {
        self.is_quiet() && self.io.read_u8().now_or_never().is_none()
    }

    /// No reply is half read, none waits.
    pub(crate) fn is_quiet(&self) -> bool {
        self.input.is_empty() && self.scan.is_idle() && self.unheeded == 0
    }

    /// Gives the read buffer back: a connection at rest owns none.
    pub(crate) fn rest(&mut self) {
        self.input = BytesMut::new();
    }

    /// The socket, after the handshake, and its place in the metrics.
    pub(crate) fn into_parts(self) -> (BoxIo, Counted) {
        (self.io, self.counted)
    }
}

/// What `:1234` says.
fn number(reply: &[u8]) -> Option<i64> {
    let digits = std::str::from_utf8(reply.strip_prefix(b":")?).ok()?;
    digits.trim_end().parse().ok()
}

// === impl Counted ===

impl Counted {
    /// Counts one connection of `kind`.
    #[must_use]
    pub(crate) fn new(node: &Arc<NodeCells>, cells: &Arc<Cells>, kind: ConnectionKind) -> Self {
        node.opened(kind);
        Self {
            node: Arc::clone(node),
            cells: Arc::clone(cells),
            kind,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.node.closed(self.kind);
    }
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
