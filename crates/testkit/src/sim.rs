//! A world in memory: fake nodes, a network, plain clients; one thread, paused time.

#![expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a world that panics fails its test"
)]

pub mod blame;
pub mod chaos;
mod chronicle;
pub mod client;
mod commands;
mod connection;
pub mod data;
pub mod ledger;
pub mod network;
pub mod node;
pub mod pipe;
pub mod replication;
pub mod reply;
pub mod rng;
pub mod run;
pub mod sentinel;
pub mod session;
mod state;
pub mod task;
pub mod trace;
pub mod world;
