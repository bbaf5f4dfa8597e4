//! The whole proxy in the simulator's world, its topologies published by hand.

pub(crate) use testkit::sim::{client, network, node, reply, rng};

pub(crate) mod world;
