//! From node to node: a lease on the primary, made into what the last one was.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

use super::state::Stream;
use crate::backend::NodeKey;
use crate::backend::lease::{Budget, Lease, LeaseError};
use crate::backend::profile::Resp;
use crate::error::Error;
use crate::metrics::{CloseReason, LeaseReason};
use crate::session::hold::Pause;
use crate::session::{Close, Session, shape_of};

/// How long a new node may take to confirm what was subscribed on the old one.
const JOIN_TIMEOUT: Duration = Duration::from_secs(1);

impl Session {
    /// Makes a fresh connection into what the last one was; the client sees nothing of it but messages.
    pub(super) async fn rejoin(
        &mut self,
        stream: &mut Stream,
        lease: &mut Lease,
    ) -> Result<io::Result<()>, Close> {
        if stream.former.is_none() {
            return Ok(Ok(()));
        }
        let joining = async {
            for order in &stream.standing {
                lease.conn().send(order).await?;
                lease.conn().reply().await?;
            }
            let again = stream.roll.subscribe_again();
            lease.conn().send(&again).await?;
            let mut messages = Vec::new();
            while stream.roll.is_repeating() {
                let (_, frame) = lease.conn().reply().await?;
                if !stream.roll.swallows(&frame) {
                    messages.push(frame);
                }
            }
            Ok::<_, io::Error>(messages)
        };
        let joined = tokio::select! {
            biased;
            close = self.gone() => return Err(close),
            joined = tokio::time::timeout(JOIN_TIMEOUT, joining) => joined,
        };
        Ok(joined.map_err(io::Error::from).flatten().map(|messages| {
            for message in messages {
                self.client.push(&message);
            }
            if stream.reason == LeaseReason::Tracking && self.profile.resp == Resp::Three {
                // The node that knew what the client has cached is gone: all of it may be stale.
                self.client.push(b">2\r\n$10\r\ninvalidate\r\n_\r\n");
            }
        }))
    }

    /// A lease on the primary, as soon as there is one. `None`: the client has been told why not.
    pub(super) async fn join(&mut self, stream: &Stream) -> Result<Option<(Lease, NodeKey)>, Close> {
        let first = match stream.outbox.front() {
            Some(first) if stream.former.is_none() => &first.command,
            // Its subscriptions come first; what else it has waits in `flow`.
            _ => return self.join_silently(stream).await.map(Some),
        };
        let mut shape = shape_of(first);
        shape.read = false;
        let bytes = first.frame().len();
        let deadline = Instant::now() + self.door.fleet.hold_timeout();
        let mut pause = Pause::default();
        loop {
            let refusal = match self.primary_for(shape, bytes).await? {
                Err(refusal) => refusal,
                Ok(_) => match self.lease_now(stream).await? {
                    Ok(joined) => return Ok(Some(joined)),
                    Err(LeaseError::Refused(reply)) => reply,
                    Err(LeaseError::Exhausted) => Error::NoLease {
                        budget: Budget::Streaming.name(),
                    }
                    .reply(),
                    Err(LeaseError::Lost) if Instant::now() >= deadline => self.no_primary(),
                    Err(LeaseError::Lost) => {
                        let mut applied = self.door.fleet.applied();
                        self.changed(&mut applied, Instant::now() + pause.next()).await?;
                        continue;
                    }
                },
            };
            self.client.reply(&refusal);
            return Ok(None);
        }
    }

    /// The same for a subscriber that asks nothing: it waits for as long as it takes.
    async fn join_silently(&mut self, stream: &Stream) -> Result<(Lease, NodeKey), Close> {
        let mut applied = self.door.fleet.applied();
        let mut pause = Pause::default();
        loop {
            match self.lease_now(stream).await? {
                Ok(joined) => return Ok(joined),
                Err(LeaseError::Refused(_)) => return Err(Close(CloseReason::Node)),
                Err(_) => drop(self.changed(&mut applied, Instant::now() + pause.next()).await?),
            }
        }
    }

    async fn lease_now(&mut self, stream: &Stream) -> Result<Result<(Lease, NodeKey), LeaseError>, Close> {
        let Some(backend) = self.door.fleet.primary(&self.profile) else {
            return Ok(Err(LeaseError::Lost));
        };
        let node = backend.link().node.clone();
        tokio::select! {
            biased;
            close = self.gone() => Err(close),
            leased = backend.lease(Budget::Streaming, stream.reason) => Ok(leased.map(|lease| (lease, node))),
        }
    }
}
