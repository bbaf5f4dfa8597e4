//! slipring
fn main() {}
