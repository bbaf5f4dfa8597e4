//! Listens to everything that one sentinel says.

use std::io;
use std::sync::Arc;

use resp_codec::Value;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::backoff::Backoff;
use crate::dial::Dial;
use crate::limits;
use crate::link::{Link, Manners};
use crate::machine::{Event, Input};
use crate::topology::HostPort;

/// The subscribe task of one sentinel.
pub(super) struct Subscriber {
    pub(super) sentinel: HostPort,
    pub(super) master: Arc<str>,
    pub(super) dial: Arc<dyn Dial>,
    pub(super) manners: Manners,
    pub(super) inputs: mpsc::Sender<Input>,
    pub(super) backoff: Backoff,
}

// === impl Subscriber ===

impl Subscriber {
    pub(super) async fn run(mut self) {
        loop {
            // The poll task tells why a sentinel cannot be reached.
            if let Ok(link) = self.subscribe().await {
                self.tell(Input::Subscribed(self.sentinel.clone())).await;
                self.backoff.reset();
                let _broken = self.listen(link).await;
                self.tell(Input::Unsubscribed(self.sentinel.clone())).await;
            }
            sleep(self.backoff.pause()).await;
        }
    }

    async fn subscribe(&self) -> io::Result<Link> {
        let mut link = Link::dial(&*self.dial, &self.sentinel, self.manners.connect_timeout).await?;
        let auth = self
            .manners
            .credentials
            .as_ref()
            .map(|credentials| credentials.auth());
        let subscribe: &[&[u8]] = &[b"PSUBSCRIBE", b"*"];
        let commands: Vec<&[&[u8]]> = auth.iter().map(Vec::as_slice).chain([subscribe]).collect();
        let replies = link.ask(&commands, self.manners.answer_timeout).await?;
        match replies.last().and_then(Value::as_error) {
            Some(error) => Err(io::Error::new(io::ErrorKind::PermissionDenied, error.to_owned())),
            None => Ok(link),
        }
    }

    /// Passes events on until the link breaks, or brings nothing at all, not even an answer to PING.
    async fn listen(&self, mut link: Link) -> io::Result<()> {
        loop {
            let message = match timeout(limits::SUBSCRIPTION_SILENCE, link.next()).await {
                Ok(message) => message?,
                Err(_) => {
                    link.send(&[&[b"PING"]]).await?;
                    timeout(self.manners.answer_timeout, link.next()).await??
                }
            };
            if let Some(event) = self.event(&message) {
                self.tell(Input::Heard {
                    sentinel: self.sentinel.clone(),
                    event,
                })
                .await;
            }
        }
    }

    /// `pmessage * <channel> <payload>`
    fn event(&self, message: &Value) -> Option<Event> {
        let [kind, _pattern, channel, payload] = message.as_array()? else {
            return None;
        };
        let pmessage = kind.as_str() == Some("pmessage");
        pmessage.then(|| Event::read(channel.as_str()?, payload.as_str()?, &self.master))?
    }

    async fn tell(&self, input: Input) {
        // The watcher outlives its tasks; where it is going, so are they.
        let _ = self.inputs.send(input).await;
    }
}
