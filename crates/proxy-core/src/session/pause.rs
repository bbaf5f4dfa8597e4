//! CLIENT PAUSE: the node postpones, each client by itself. So while it lasts, whatever the node may postpone travels
//! on a lease of its own, and the shared connections carry the rest.

use std::time::Duration;

use bytes::Bytes;
use resp_codec::Command;
use tokio::time::Instant;

use super::{Close, Session};
use crate::backend::fleet::{Pause, Postponed};
use crate::backend::lease::{Budget, Clean, LeaseError, LeaseState};
use crate::error::Error;
use crate::metrics::LeaseReason;
use crate::route;

impl Session {
    /// CLIENT PAUSE and UNPAUSE, on a connection of their own: the node may postpone them, too.
    pub(super) async fn pause_node(&mut self, command: Command<Bytes>) -> Result<(), Close> {
        self.settled().await?;
        let before = self.door.fleet.paused();
        let wanted = pause_of(&command, before);
        if wanted.is_some() {
            // First: what reaches the node once it postpones must not stand in the way of others.
            self.spread_pause(wanted).await?;
        }
        let reply = self
            .with_primary(&command, |session| {
                let backend = session.door.fleet.primary(&session.profile);
                let frame = command.frame().clone();
                async move {
                    let mut lease = match backend?.lease(Budget::Blocking, LeaseReason::Paused).await {
                        Ok(lease) => lease,
                        Err(LeaseError::Refused(reply)) => return Some(reply),
                        Err(LeaseError::Exhausted) => return Some(no_lease()),
                        Err(LeaseError::Lost) => return None,
                    };
                    lease.conn().send(&frame).await.ok()?;
                    let (_, reply) = lease.conn().reply().await.ok()?;
                    lease.release(Clean::prove(&LeaseState::default())?);
                    Some(reply)
                }
            })
            .await?;
        let (Ok(reply) | Err(reply)) = reply;
        match reply.starts_with(b"+") {
            true if wanted.is_none() => self.spread_pause(None).await?,
            false if wanted.is_some() => self.spread_pause(before).await?,
            _ => {}
        }
        self.answer(&command, &reply);
        Ok(())
    }

    /// Tells all workers what the node postpones from here on.
    pub(super) async fn spread_pause(&mut self, pause: Option<Pause>) -> Result<(), Close> {
        let upstream = self.door.fleet.upstream();
        self.gathered(|roster| async move { roster.pause(upstream, pause).await })
            .await
    }

    /// The node may postpone this command now.
    pub(super) fn may_be_postponed<B: AsRef<[u8]>>(&self, command: &Command<B>) -> bool {
        let spec = command.spec();
        match self.door.fleet.paused() {
            None => false,
            Some(Pause {
                of: Postponed::Everything,
                ..
            }) => true,
            // PFCOUNT writes its cache, which replicas get.
            Some(_) => spec.name == "pfcount" || !(route::is_read(spec) || route::is_inert(spec)),
        }
    }
}

/// What the node postpones once it has heard this CLIENT PAUSE, if its words make sense: a pause ends no earlier, and
/// postpones no less, for another that comes `before` it is over.
pub(super) fn pause_of(command: &Command<Bytes>, before: Option<Pause>) -> Option<Pause> {
    if command.spec().name != "client|pause" {
        return None;
    }
    let millis = std::str::from_utf8(command.arg(2)?).ok()?.parse().ok()?;
    let of = match command.arg(3) {
        Some(mode) if mode.eq_ignore_ascii_case(b"write") => Postponed::Writes,
        _ => Postponed::Everything,
    };
    let until = Instant::now().checked_add(Duration::from_millis(millis))?;
    Some(match before {
        Some(before) => Pause {
            until: until.max(before.until),
            of: of.max(before.of),
        },
        None => Pause { until, of },
    })
}

fn no_lease() -> Bytes {
    Error::NoLease {
        budget: Budget::Blocking.name(),
    }
    .reply()
}
