//! Another process takes over: the listening sockets, and every client that can move.
//!
//! ```text
//!   successor (--upgrade-from)                predecessor (--upgrade-socket)
//!     Hello            ------------------>
//!                      <------------------    Sockets + descriptors    both hold them, the predecessor accepts
//!     (follows the sentinels until it knows who is primary)
//!     Ready            ------------------>    accepts nobody any more
//!                      <------------------    Begin { last_id }
//!     accepts          <------------------    Session { ticket, state } + descriptor    whenever one is at rest
//!     Taken { ticket } ------------------>    forgets it
//!                      <------------------    Done, and ends
//! ```
//! Each word is one message of a SEQPACKET socket, with the descriptors that belong to it. A session is served by whoever
//! may be sure that the other one does not: the successor once its `Taken` is on its way, the predecessor again once the
//! connection is shut for good and no `Taken` was left in it.

mod channel;
mod inherited;
mod predecessor;
mod successor;

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub(crate) use channel::Offer;
pub(crate) use inherited::Inherited;
pub(crate) use predecessor::{House, Predecessor};
pub(crate) use successor::Successor;

/// What is said, and when: both must mean the same.
const PROTOCOL: u32 = 1;

/// How long the other process may take for an answer that needs nothing but itself.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a successor waits for a primary before it takes over all the same: commands wait there as well as here.
pub(crate) const SERVING_TIMEOUT: Duration = Duration::from_secs(10);

/// One message.
#[derive(Deserialize, Serialize)]
enum Word {
    /// A successor is here, which knows this version of a session's state.
    Hello { protocol: u32, state: u32 },
    /// The listening sockets.
    Sockets,
    /// The successor could serve.
    Ready,
    /// It does from here on. Its CLIENT IDs go on behind this one.
    Begin { last_id: u64 },
    /// A session, and its socket.
    Session { ticket: u64, state: Bytes },
    /// It is served here.
    Taken { ticket: u64 },
    /// It cannot be.
    Left { ticket: u64 },
    /// The successor is about to end, or is taken over itself: what has not moved stays where it is.
    Farewell,
    /// Nobody is left.
    Done,
}
