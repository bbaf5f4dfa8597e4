//! A world in memory: fake nodes, the real proxy, plain clients; one runtime, paused time.

pub(crate) mod client;
mod commands;
mod connection;
mod data;
pub(crate) mod network;
pub(crate) mod node;
pub(crate) mod reply;
pub(crate) mod rng;
mod state;
pub(crate) mod world;
