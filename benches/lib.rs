//! Measuring slipring as a whole. [`floor`] is the server that does the least any server can, so that there is something
//! to be measured against.

pub mod floor;
