//! The process that takes over.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use proxy_core::{Entrant, Passage, STATE_VERSION, SessionState, from_socket};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::channel::Channel;
use super::{ANSWER_TIMEOUT, Inherited, PROTOCOL, Word};

/// How long a predecessor that does not listen is told so.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// The way to the predecessor.
pub(crate) struct Successor(Channel);

// === impl Successor ===

impl Successor {
    /// Finds the process that offers its clients at `path`; it goes on serving.
    pub(crate) async fn knock(path: &Path) -> anyhow::Result<(Self, Inherited)> {
        let place = path.display();
        let channel = Channel::connect(path).await.with_context(|| {
            format!("--upgrade-from {place}: no slipring to take over from; it must run with --upgrade-socket {place}")
        })?;
        let hello = Word::Hello {
            protocol: PROTOCOL,
            state: STATE_VERSION,
        };
        let asked = async {
            channel.send(&hello, &[]).await?;
            channel.receive().await
        };
        match timeout(ANSWER_TIMEOUT, asked).await {
            Ok(Ok(Some((Word::Sockets, sockets)))) => Ok((Self(channel), Inherited::new(sockets))),
            Ok(Err(error)) => Err(error).with_context(|| format!("--upgrade-from {place}")),
            Ok(Ok(_)) => {
                bail!("--upgrade-from {place}: the process there cannot be taken over by this version")
            }
            Err(_) => {
                bail!("--upgrade-from {place}: the process there is busy; another one is taking over from it")
            }
        }
    }

    /// Its process id.
    pub(crate) fn predecessor(&self) -> u32 {
        self.0.peer().unwrap_or_default()
    }

    /// This process can serve: the predecessor accepts nobody any more. The last CLIENT ID there.
    pub(crate) async fn begin(&self) -> io::Result<u64> {
        self.0.send(&Word::Ready, &[]).await?;
        match timeout(ANSWER_TIMEOUT, self.0.receive()).await?? {
            Some((Word::Begin { last_id }, _)) => Ok(last_id),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Takes over sessions until there are no more of them, or `ending`.
    pub(crate) async fn take_over(self, passage: &Passage, ending: CancellationToken) {
        let mut taken = 0_u64;
        loop {
            let received = tokio::select! {
                biased;
                () = ending.cancelled() => {
                    let _ = timeout(FAREWELL_TIMEOUT, self.0.send(&Word::Farewell, &[])).await;
                    return;
                }
                received = self.0.receive() => received,
            };
            let answer = match received {
                Ok(Some((Word::Session { ticket, state }, sockets))) => self
                    .take(ticket, &state, sockets, passage)
                    .await
                    .map(|it| taken += u64::from(it)),
                Ok(Some((Word::Done, _))) => {
                    return tracing::info!(sessions = taken, "the predecessor has nobody left");
                }
                Ok(Some(_)) => Ok(()),
                Ok(None) => Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) => Err(error),
            };
            if let Err(error) = answer {
                return tracing::warn!(sessions = taken, %error, "the predecessor is gone before it had nobody left");
            }
        }
    }

    /// Serves a session, if the predecessor will know that.
    async fn take(
        &self,
        ticket: u64,
        state: &[u8],
        sockets: Vec<OwnedFd>,
        passage: &Passage,
    ) -> io::Result<bool> {
        let Some(entrant) = entrant(state, sockets).filter(|entrant| passage.has_place_for(&entrant.state))
        else {
            self.0.send(&Word::Left { ticket }, &[]).await?;
            return Ok(false);
        };
        self.0.send(&Word::Taken { ticket }, &[]).await?;
        Ok(passage.adopt(entrant).await)
    }
}

fn entrant(state: &[u8], sockets: Vec<OwnedFd>) -> Option<Entrant> {
    let state = SessionState::decode(state);
    let state = state.inspect_err(|error| tracing::warn!(%error, "a session stays with the predecessor"));
    let (socket, descriptor) = from_socket(sockets.into_iter().next()?).ok()?;
    Some(Entrant {
        state: state.ok()?,
        socket,
        descriptor,
    })
}
