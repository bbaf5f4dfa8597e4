//! RESP bytes to frames and back: scanning, commands, keys, replies. No I/O, no clock, no runtime.
//!
//! The way of a request: [`RequestScan`] finds where a frame ends, [`Command`] reads its arguments in place and
//! knows its [`CommandSpec`]. The way of a reply: [`ReplyScan`] finds where it ends while its bytes pass by,
//! [`reply::refusal`] reads its first word. What the proxy itself authors is written by [`mod@write`]; replies that
//! it asked for itself are decoded by [`value`].
//!
//! Nothing here panics on any input, recurses on input, or holds memory in proportion to a number that a peer
//! announced: memory follows bytes received.

#![deny(clippy::indexing_slicing, clippy::panic, clippy::arithmetic_side_effects)]
#![cfg_attr(
    test,
    allow(clippy::indexing_slicing, clippy::panic, clippy::arithmetic_side_effects)
)]

#[doc(hidden)]
pub mod check;
pub mod codec;
pub mod command;
pub mod error;
pub mod frame;
pub mod keys;
pub mod limits;
pub mod reply;
pub mod scan;
pub mod slot;
pub mod spec;
pub mod value;
pub mod write;

pub use command::Command;
pub use error::{KeyError, ReplyError, RequestError};
pub use frame::{Progress, ReplyKind, RequestFrame, RequestShape};
pub use limits::RequestLimits;
pub use reply::{Refusal, refusal};
pub use scan::{Opening, ReplyScan, RequestScan};
pub use spec::{Access, Class, CommandFlags, CommandId, CommandSpec};
pub use value::Value;
