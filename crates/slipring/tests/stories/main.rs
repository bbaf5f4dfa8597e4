//! The binary before real servers: one file a story, each told with Redis and with Valkey.
#![expect(
    clippy::disallowed_methods,
    reason = "real processes and plain threads take real time"
)]

mod auth;
mod bad_input;
mod bystanders;
mod first_command;
mod kill;
mod planned_failover;
mod replies_destroyed;
mod sessions;
mod stop_cont;
mod support;
mod transactions;
