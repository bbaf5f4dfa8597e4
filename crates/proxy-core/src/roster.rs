//! This proxy's clients, over all workers: who is there, and what one of them may do to another.
//!
//! ```text
//!   session --ask--> every worker's inbox --Message--> worker: looks at its own clients
//!      ^                                                  |
//!      +------------- one answer a worker ----------------+
//! ```

mod filter;

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::backend::fleet::Pause;
use crate::backend::profile::Profile;
use crate::client::face::Fields;
use crate::net::Accepted;
use crate::passage::{Departures, SessionState};
use crate::settings::{ReadPolicy, Settings};
pub(crate) use filter::{Filter, Selection};

/// Every worker's inbox.
pub(crate) struct Roster(Vec<mpsc::Sender<Message>>);

/// What may come to a worker from another, or from itself.
pub(crate) enum Message {
    /// A client accepted elsewhere, for the least loaded worker.
    Adopt(Adopt),
    /// Sessions are to leave for another process, and nobody new is let in; or all is as it was.
    Leave(Option<Departures>, mpsc::Sender<()>),
    /// Which clients are there? Each with its id, in no order.
    List(Arc<Filter>, Arc<Fields>, mpsc::Sender<Vec<(u64, Vec<u8>)>>),
    /// How many clients of this master are there?
    Count(usize, mpsc::Sender<usize>),
    /// Close these. How many were there?
    Kill(Arc<Filter>, mpsc::Sender<usize>),
    /// The primary of this master is about to postpone this, or postpones nothing any more.
    Pause(usize, Option<Pause>, mpsc::Sender<()>),
    /// These settings hold from now on, and these read policies, one a listener.
    Reload(Arc<Settings>, Arc<[ReadPolicy]>, mpsc::Sender<()>),
    /// Memory is short: so many bytes must go.
    Shed(usize),
    /// Have this client of this master take a connection of its own. Is it there?
    Summon(usize, u64, mpsc::Sender<bool>),
    /// How do the connections of this master's nodes stand? A line each.
    Pools(usize, mpsc::Sender<Vec<String>>),
    /// Make new connections to the nodes of this master.
    Reconnect(usize, mpsc::Sender<()>),
    /// Unblock this one, if it is blocked.
    Unblock(Unblock, mpsc::Sender<bool>),
}

/// A client accepted elsewhere.
pub(crate) struct Adopt {
    pub(crate) accepted: Accepted,
    pub(crate) listener: usize,
    /// What it was in another process.
    pub(crate) state: Option<Box<SessionState>>,
}

/// CLIENT UNBLOCK.
#[derive(Clone)]
pub(crate) struct Unblock {
    pub(crate) id: u64,
    pub(crate) upstream: usize,
    pub(crate) way: Way,
    /// Who asks: the node decides whether that one may.
    pub(crate) asker: Profile,
}

/// How an unblocked command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// As if its timeout had passed.
    Timeout,
    /// With the error UNBLOCKED.
    Error,
}

/// How many messages may wait for a worker. Past it, an accepting worker keeps its client itself, and whoever asks
/// waits.
const INBOX_MESSAGES: usize = 256;

// === impl Way ===

impl Way {
    /// Redis' word for it.
    pub(crate) const fn word(self) -> &'static [u8] {
        match self {
            Self::Timeout => b"TIMEOUT",
            Self::Error => b"ERROR",
        }
    }
}

// === impl Roster ===

impl Roster {
    /// An inbox for each of `workers`, and where each of them reads it.
    pub(crate) fn new(workers: usize) -> (Self, Vec<mpsc::Receiver<Message>>) {
        let (senders, receivers) = (0..workers).map(|_| mpsc::channel(INBOX_MESSAGES)).unzip();
        (Self(senders), receivers)
    }

    /// Gives a client to a worker; back it comes if that has no room.
    pub(crate) fn adopt(&self, worker: usize, adopt: Adopt) -> Result<(), Adopt> {
        let inbox = self.0.get(worker).expect("one inbox a worker");
        inbox.try_send(Message::Adopt(adopt)).map_err(|refused| {
            let (mpsc::error::TrySendError::Full(message) | mpsc::error::TrySendError::Closed(message)) =
                refused;
            match message {
                Message::Adopt(adopt) => adopt,
                _ => unreachable!("what was sent comes back"),
            }
        })
    }

    /// The same, as soon as there is room. False: that worker has ended.
    pub(crate) async fn adopt_in_turn(&self, worker: usize, adopt: Adopt) -> bool {
        let inbox = self.0.get(worker).expect("one inbox a worker");
        inbox.send(Message::Adopt(adopt)).await.is_ok()
    }

    /// Tells every worker where sessions are to go. Each lets nobody in any more when this ends, or does again.
    pub(crate) async fn leave(&self, departures: Option<&Departures>) {
        self.gather(|answer| Message::Leave(departures.cloned(), answer))
            .await;
    }

    /// The lines of all clients that `filter` chooses, in the order of their ids.
    pub(crate) async fn list(&self, filter: Filter, fields: Fields) -> Vec<u8> {
        let (filter, fields) = (Arc::new(filter), Arc::new(fields));
        let lines = self.gather(|answer| Message::List(Arc::clone(&filter), Arc::clone(&fields), answer));
        let mut lines = lines.await.concat();
        lines.sort_by_key(|(id, _)| *id);
        lines.into_iter().flat_map(|(_, line)| line).collect()
    }

    /// How many clients one master has.
    pub(crate) async fn count(&self, upstream: usize) -> usize {
        let counts = self.gather(|answer| Message::Count(upstream, answer));
        counts.await.into_iter().sum()
    }

    /// Closes all clients that `filter` chooses. How many there were.
    pub(crate) async fn kill(&self, filter: &Arc<Filter>) -> usize {
        let killed = self.gather(|answer| Message::Kill(Arc::clone(filter), answer));
        killed.await.into_iter().sum()
    }

    /// Unblocks a client. False: it was not blocked.
    pub(crate) async fn unblock(&self, unblock: Unblock) -> bool {
        let unblocked = self.gather(|answer| Message::Unblock(unblock.clone(), answer));
        unblocked.await.contains(&true)
    }

    /// Has a client of one master take a connection of its own, once it is at rest. False: it is not there.
    pub(crate) async fn summon(&self, upstream: usize, id: u64) -> bool {
        let summoned = self.gather(|answer| Message::Summon(upstream, id, answer));
        summoned.await.contains(&true)
    }

    /// Tells every worker what the primary of a master postpones. Each has taken it to heart when this ends.
    pub(crate) async fn pause(&self, upstream: usize, pause: Option<Pause>) {
        self.gather(|answer| Message::Pause(upstream, pause, answer))
            .await;
    }

    /// How the connections to one master's nodes stand, over all workers.
    pub(crate) async fn pools(&self, upstream: usize) -> Vec<String> {
        let mut lines = self
            .gather(|answer| Message::Pools(upstream, answer))
            .await
            .concat();
        lines.sort();
        lines
    }

    /// Makes new connections to one master's nodes. Every worker has begun when this ends.
    pub(crate) async fn reconnect(&self, upstream: usize) {
        self.gather(|answer| Message::Reconnect(upstream, answer)).await;
    }

    /// Has the workers do without so many bytes, each its share. One that has no ears for it now is told again at the next measure.
    pub(crate) fn shed(&self, bytes: usize) {
        for inbox in &self.0 {
            let _ = inbox.try_send(Message::Shed(bytes.div_ceil(self.0.len())));
        }
    }

    /// Gives every worker other settings. Each goes by them when this ends.
    pub(crate) async fn reload(&self, settings: &Arc<Settings>, reads: &Arc<[ReadPolicy]>) {
        self.gather(|answer| Message::Reload(Arc::clone(settings), Arc::clone(reads), answer))
            .await;
    }

    /// Asks every worker. One that has ended answers nothing.
    async fn gather<T>(&self, ask: impl Fn(mpsc::Sender<T>) -> Message) -> Vec<T> {
        let (sender, mut answers) = mpsc::channel(self.0.len());
        for inbox in &self.0 {
            let _ = inbox.send(ask(sender.clone())).await;
        }
        drop(sender);
        let mut all = Vec::with_capacity(self.0.len());
        while let Some(answer) = answers.recv().await {
            all.push(answer);
        }
        all
    }
}
