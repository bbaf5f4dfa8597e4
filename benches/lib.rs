//! Measuring slipring as a whole: [`load`] drives redis-benchmark against it and its peers, [`floor`] is the server
//! that does the least any server can, so that there is something to be measured against. [`in_memory`] is one worker
//! without sockets, [`hand_off`] a shared connection without
//! one, for what can be counted exactly, which [`counted`] names.

pub mod counted;
pub mod floor;
pub mod hand_off;
pub mod in_memory;
pub mod load;
