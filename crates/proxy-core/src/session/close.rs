//! How a session ends, and how it waits without missing that its client has gone.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use resp_codec::RequestError;

use super::{Session, Turn};
use crate::backend::NodeKey;
use crate::client::Order;
use crate::client::face::Mark;
use crate::limits;
use crate::metrics::CloseReason;

/// The session is over.
pub(crate) struct Close(pub(crate) CloseReason);

impl Session {
    /// Answers broken protocol as Redis does: with its error, behind all replies outstanding, then the end.
    pub(super) async fn malformed(&mut self, error: RequestError) -> Close {
        if let Err(close) = self.heed_silence().await {
            return close;
        }
        let mut out = BytesMut::new();
        error.write_reply(&mut out);
        self.client.reply(&out);
        self.farewell(CloseReason::Protocol).await
    }

    /// The last reply of a client is about to be written. On Redis it is what is written last that ends a connection: one
    /// that misses its replies, and to which nothing else is being written, stays, and is heard no more.
    pub(super) async fn heed_silence(&mut self) -> Result<(), Close> {
        if self.client.misses_replies() {
            self.settled().await?;
        }
        if self.client.misses_replies() && !self.client.has_answered_since_heard() {
            self.client.face_mut().doing().mark(Mark::Closing, true);
        }
        Ok(())
    }

    /// The end of the session: at once, but for what [`Self::heed_silence`] has found.
    pub(super) fn part(&mut self, Close(reason): Close) -> Pin<Box<dyn Future<Output = CloseReason> + '_>> {
        if !self.client.face().is(Mark::Closing) {
            return Box::pin(std::future::ready(reason));
        }
        self.client.rest(true);
        Box::pin(poll_fn(move |cx| {
            loop {
                self.input = BytesMut::new();
                match self.look_up(cx) {
                    Some(Turn::Close(reason)) => return Poll::Ready(reason),
                    _ if self.reading.has_ended() => return Poll::Ready(reason),
                    _ => {}
                }
                if let Err(reason) = ready!(self.poll_fill(cx)) {
                    return Poll::Ready(reason);
                }
            }
        }))
    }

    /// Ends the session once everything is answered and taken, or the client has taken nothing for a while.
    pub(super) async fn farewell(&mut self, reason: CloseReason) -> Close {
        // Ends early where the client can hear nothing more, or must go now.
        let _ = self.settled().await;
        let patience = Duration::from_secs(limits::SLOW_CLIENT_SECS);
        let mut taken = self.client.taken();
        while tokio::time::timeout(patience, self.flushed()).await.is_err() && self.client.taken() != taken {
            taken = self.client.taken();
        }
        Close(reason)
    }

    /// Waits until the client has taken all its output, or can take no more.
    async fn flushed(&self) {
        poll_fn(|cx| {
            self.client.register(cx);
            if self.client.broken().is_some() {
                Poll::Ready(())
            } else {
                self.client.poll_flush()
            }
        })
        .await;
    }

    /// Waits until everything is answered: a change of mode must not overtake a reply.
    pub(super) async fn settled(&mut self) -> Result<(), Close> {
        loop {
            let settled = poll_fn(|cx| {
                if let Poll::Ready(close) = self.poll_broken_within(cx, self.kept_while_waiting()) {
                    return Poll::Ready(Err(close));
                }
                if self.client.has_returned() {
                    return Poll::Ready(Ok(false));
                }
                self.client.poll_settled(cx).map(|()| Ok(true))
            })
            .await?;
            if settled {
                return Ok(());
            }
            Box::pin(self.recover()).await?;
        }
    }

    /// Waits until the client has taken enough of its output.
    pub(super) async fn room(&mut self) -> Result<(), Close> {
        poll_fn(|cx| {
            if let Poll::Ready(close) = self.poll_broken(cx) {
                return Poll::Ready(Err(close));
            }
            match self.client.poll_room(cx) {
                Poll::Ready(()) => Poll::Ready(Ok(())),
                Poll::Pending => self.poll_ahead(cx).map(|reason| Err(Close(reason))),
            }
        })
        .await
    }

    /// Runs `work` on a connection to `node` for as long as that is the primary and the client is there; `None`: it
    /// is the primary no longer.
    pub(super) async fn while_primary<F: Future>(
        &mut self,
        node: &NodeKey,
        work: F,
    ) -> Result<Option<F::Output>, Close> {
        let mut applied = self.door.fleet.applied();
        let mut work = pin!(work);
        while self.door.fleet.is_primary(node) {
            tokio::select! {
                biased;
                output = &mut work => return Ok(Some(output)),
                close = self.broken() => return Err(close),
                () = applied.changed() => {}
            }
        }
        Ok(None)
    }

    /// Ends when the client can hear nothing any more, or must go. What it sends meanwhile is kept, up to a bound.
    pub(super) async fn broken(&mut self) -> Close {
        poll_fn(|cx| self.poll_broken(cx)).await
    }

    /// The same, and when it sends no more: for waits that have no end of their own.
    pub(super) async fn gone(&mut self) -> Close {
        poll_fn(|cx| {
            let broken = self.poll_broken(cx);
            if broken.is_pending() && self.reading.has_ended() {
                return Poll::Ready(Close(CloseReason::Client));
            }
            broken
        })
        .await
    }

    /// The same while a node alone can end the wait: the client's end is not to be missed behind what it has sent.
    pub(super) async fn gone_while_blocked(&mut self) -> Close {
        poll_fn(|cx| {
            let broken = self.poll_broken_within(cx, limits::KEPT_INPUT_BYTES);
            if broken.is_pending() && self.reading.has_ended() {
                return Poll::Ready(Close(CloseReason::Client));
            }
            if broken.is_pending() && self.input.len() >= limits::KEPT_INPUT_BYTES {
                return Poll::Ready(Close(CloseReason::Input));
            }
            broken
        })
        .await
    }

    pub(super) fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Close> {
        self.poll_broken_within(cx, limits::WAITING_INPUT_BYTES)
    }

    pub(super) fn poll_broken_within(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<Close> {
        self.client.register(cx);
        self.client.keeps(self.input.len());
        let _ = self.client.poll_flush();
        if let Some(reason) = self.client.broken() {
            return Poll::Ready(Close(reason));
        }
        if let Some(Order::Close(reason)) = self.client.order() {
            return Poll::Ready(Close(reason));
        }
        while !self.reading.has_ended() && self.input.len() < bytes {
            match self.poll_fill(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(reason)) => return Poll::Ready(Close(reason)),
                Poll::Pending => break,
            }
        }
        Poll::Pending
    }
}
