//! A world in memory: fake nodes, the real proxy, plain clients; one runtime, paused time.

pub(crate) mod client;
pub(crate) mod connection;
pub(crate) mod data;
pub(crate) mod network;
pub(crate) mod node;
pub(crate) mod reply;
pub(crate) mod rng;
pub(crate) mod world;
