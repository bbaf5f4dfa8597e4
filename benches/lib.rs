//! Measuring slipring as a whole: [`load`] drives redis-benchmark against it and its peers, [`floor`] is the server
//! that does the least any server can, so that there is something to be measured against.

pub mod floor;
pub mod load;
