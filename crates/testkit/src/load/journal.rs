//! What one client of the load did, and what came of it.

use std::time::Instant;

use crate::reply::Reply;

/// One operation from its sending to its end.
#[derive(Clone, Debug)]
pub struct Operation {
    /// The client that did it.
    pub client: usize,
    /// What it was.
    pub kind: Kind,
    /// Unique within client and kind; of a [`Kind::Count`] that was acknowledged, the counter's value in the reply.
    pub id: u64,
    /// When its first byte was about to be written.
    pub sent: Instant,
    /// When its reply was there, or its connection had ended.
    pub done: Instant,
    /// What came of it.
    pub outcome: Outcome,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SET of a unique key.
    Set,
    /// GET of a key that this client wrote last.
    Get,
    /// RPUSH of a unique id.
    Push,
    /// INCR.
    Count,
    /// MULTI, RPUSH of a unique id, INCR, EXEC.
    Transaction,
    /// RPUSH of a unique id onto the queue.
    Enqueue,
    /// BLPOP from the queue that gave something, or failed.
    Dequeue,
    /// PUBLISH of a unique id.
    Publish,
    /// A published id that reached the subscriber, or its SUBSCRIBE that failed.
    Receive,
}

/// What came of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The reply that it should have.
    Acknowledged,
    /// A GET gave something else than this client's own acknowledged SET.
    Stale,
    /// The error that says that nobody knows.
    Unknown(String),
    /// Any other error.
    Refused(String),
    /// The connection ended first: why.
    Dropped(String),
}

/// All that one client did.
#[derive(Debug, Default)]
pub(super) struct Journal {
    pub(super) operations: Vec<Operation>,
    pub(super) drops: Vec<Instant>,
}

// === impl Kind ===

impl Kind {
    /// Whether it changes the primary's data.
    #[must_use]
    pub fn is_write(self) -> bool {
        matches!(
            self,
            Self::Set | Self::Push | Self::Count | Self::Transaction | Self::Enqueue
        )
    }

    /// Whether it is a write whose trace stays.
    #[must_use]
    pub fn stays(self) -> bool {
        self.is_write() && self != Self::Enqueue
    }

    /// The word for it in keys and messages.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Get => "get",
            Self::Push => "push",
            Self::Count => "count",
            Self::Transaction => "transaction",
            Self::Enqueue => "enqueue",
            Self::Dequeue => "dequeue",
            Self::Publish => "publish",
            Self::Receive => "receive",
        }
    }
}

// === impl Outcome ===

impl Outcome {
    /// What an error reply means.
    pub(super) fn of_error(text: &str) -> Self {
        if text.starts_with("UNKNOWN ") {
            Self::Unknown(text.to_owned())
        } else {
            Self::Refused(text.to_owned())
        }
    }

    /// Acknowledged if the reply is what it should be.
    pub(super) fn expecting(reply: &Reply, is_right: impl Fn(&Reply) -> bool) -> Self {
        match reply {
            Reply::Error(text) => Self::of_error(text),
            right if is_right(right) => Self::Acknowledged,
            wrong => Self::Refused(format!("unexpected reply {wrong:?}")),
        }
    }

    /// Whether it may have been executed without anyone having said so.
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Unknown(_) | Self::Dropped(_))
    }
}
