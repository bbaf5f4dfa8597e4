//! One conversation with a sentinel or a node: requests out, decoded replies in, both bounded.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use resp_codec::{Progress, ReplyScan, Value, value, write};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::credentials::Credentials;
use crate::dial::{BoxIo, Dial};
use crate::limits;
use crate::topology::HostPort;

/// A connection on which replies come in the order of requests, or unasked once subscribed.
pub(crate) struct Link {
    io: BoxIo,
    received: BytesMut,
    /// How much of `received` the scanner has seen.
    scanned: usize,
    scan: ReplyScan,
}

/// How long to wait for whom, and who to be.
#[derive(Clone)]
pub(crate) struct Manners {
    pub(crate) credentials: Option<Credentials>,
    /// For a connection.
    pub(crate) connect_timeout: Duration,
    /// For the answers to one request or pipeline.
    pub(crate) answer_timeout: Duration,
}

// === impl Link ===

impl Link {
    /// Connects.
    pub(crate) async fn dial(dial: &dyn Dial, to: &HostPort, deadline: Duration) -> io::Result<Self> {
        // The dial has a deadline of its own; a hung one must not stall us all the same.
        let io = timeout(deadline, dial.dial(to))
            .await
            .map_err(|_| io::ErrorKind::TimedOut)??;
        Ok(Self {
            io,
            received: BytesMut::new(),
            scanned: 0,
            scan: ReplyScan::default(),
        })
    }

    /// Sends `commands` in one write and collects one reply for each, all within `deadline`.
    ///
    /// A server that answers with an error and closes (too many clients, protected mode) is an
    /// [`io::ErrorKind::PermissionDenied`] in its own words.
    pub(crate) async fn ask(&mut self, commands: &[&[&[u8]]], deadline: Duration) -> io::Result<Vec<Value>> {
        let exchange = async {
            self.send(commands).await?;
            let mut replies = Vec::with_capacity(commands.len());
            for _ in commands {
                match self.next().await {
                    Ok(reply) => replies.push(reply),
                    Err(error) => return Err(last_words(&replies).unwrap_or(error)),
                }
            }
            Ok(replies)
        };
        timeout(deadline, exchange)
            .await
            .map_err(|_| io::ErrorKind::TimedOut)?
    }

    /// Sends `commands` in one write.
    pub(crate) async fn send(&mut self, commands: &[&[&[u8]]]) -> io::Result<()> {
        let mut out = BytesMut::new();
        for command in commands {
            write::command(&mut out, command);
        }
        self.io.write_all(&out).await?;
        self.io.flush().await
    }

    /// The next reply. May be dropped and called again: nothing is lost.
    pub(crate) async fn next(&mut self) -> io::Result<Value> {
        loop {
            let unseen = self.received.get(self.scanned..).unwrap_or_default();
            match self.scan.feed(unseen).map_err(malformed)? {
                Progress::Complete { used, .. } => {
                    let frame = self.received.split_to(self.scanned + used);
                    self.scanned = 0;
                    return value::decode(&frame).map_err(malformed);
                }
                Progress::Partial => self.scanned = self.received.len(),
            }
            self.receive().await?;
        }
    }

    /// Resolves once the peer closes, or says something unasked: either way the link is of no more use.
    pub(crate) async fn broken(&mut self) {
        let _ = self.receive().await;
    }

    async fn receive(&mut self) -> io::Result<()> {
        if self.received.len() > limits::REPLY_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the reply is too long",
            ));
        }
        match self.io.read_buf(&mut self.received).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// What a server said before it closed, if that was an error.
fn last_words(replies: &[Value]) -> Option<io::Error> {
    let words = replies.last()?.as_error()?;
    Some(io::Error::new(io::ErrorKind::PermissionDenied, words.to_owned()))
}

// === impl Credentials ===

impl Credentials {
    /// `AUTH [username] password`
    pub(crate) fn auth(&self) -> Vec<&[u8]> {
        let mut command: Vec<&[u8]> = vec![b"AUTH"];
        command.extend(self.username.as_deref());
        command.push(self.password.reveal());
        command
    }
}

fn malformed(error: impl std::fmt::Debug) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("no Redis reply: {error:?}"))
}
