//! Client libraries that nobody wrote for slipring, each doing what its users do, the whole through a planned failover.
#![expect(
    clippy::disallowed_methods,
    reason = "real processes and plain threads take real time"
)]

mod libraries;
mod programme;
mod redis_cli;
mod redis_rs;
