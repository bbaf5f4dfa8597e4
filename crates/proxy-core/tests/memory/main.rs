//! The data plane as a whole: the real proxy between plain clients and fake nodes, in memory and with paused time.
//! One file a theme.

#![expect(clippy::unwrap_used, reason = "all of it is a test")]

mod blocking;
mod clients;
mod common;
mod early;
mod entry;
mod fair;
mod faults;
mod large;
mod lookout;
mod lost;
mod moving;
mod multi;
mod operate;
mod order;
mod passage;
mod pieces;
mod profiles;
mod random;
mod refused;
mod scarce;
mod sessions;
mod shared;
mod slow;
mod streams;
mod subscribers;
mod switch;
mod tracking;
