//! SYNC and PSYNC: what follows is the node's replication stream, and nothing of it is looked at.
//!
//! ```text
//!   client ----- REPLCONF ACK … -----> node     in front of a node that takes nothing, the client is not read
//!   client <-- the data, commands ---- node     in front of a client that takes nothing, the node is not read
//! ```

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use resp_codec::Command;

use crate::backend::NodeKey;
use crate::backend::lease::Lease;
use crate::client::face::Mark;
use crate::metrics::CloseReason;
use crate::session::{Close, Session, Turn};

impl Session {
    /// Passes bytes both ways, until one side ends it or the node is the primary no longer: a replica comes back by
    /// itself, and asks for what it has missed.
    pub(super) async fn relay(
        &mut self,
        lease: &mut Lease,
        node: &NodeKey,
        command: Command<Bytes>,
    ) -> Result<(), Close> {
        self.client.face_mut().doing().mark(Mark::Replica, true);
        let mut applied = self.door.fleet.applied();
        self.up(lease, command.frame()).await?;
        while self.door.fleet.is_primary(node) {
            self.room().await?;
            tokio::select! {
                biased;
                _ = applied.changed() => {}
                input = self.raw_input() => {
                    let input = input?;
                    self.up(lease, &input).await?;
                }
                output = lease.conn().bytes() => match output {
                    Ok(output) => self.client.push(&output),
                    Err(_) => break,
                },
            }
        }
        Err(self.farewell(CloseReason::Node).await)
    }

    async fn up(&mut self, lease: &mut Lease, bytes: &[u8]) -> Result<(), Close> {
        let sent: io::Result<()> = tokio::select! {
            biased;
            sent = lease.conn().send(bytes) => sent,
            close = self.broken() => return Err(close),
        };
        sent.map_err(|_| Close(CloseReason::Node))
    }

    /// What the client has sent. Cancel-safe: what was read stays.
    async fn raw_input(&mut self) -> Result<BytesMut, Close> {
        poll_fn(|cx| {
            loop {
                if let Some(Turn::Close(reason)) = self.look_up(cx) {
                    return Poll::Ready(Err(Close(reason)));
                }
                if !self.input.is_empty() {
                    return Poll::Ready(Ok(std::mem::take(&mut self.input)));
                }
                if self.reading.has_ended() {
                    return Poll::Ready(Err(Close(CloseReason::Client)));
                }
                match self.poll_fill(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(reason)) => return Poll::Ready(Err(Close(reason))),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }
}
