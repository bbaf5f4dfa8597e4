//! The binary before real servers: one file a story, each told with Redis and with Valkey.
#![expect(
    clippy::disallowed_methods,
    reason = "real processes and plain threads take real time"
)]

mod attacks;
mod auth;
mod bad_input;
mod before_cluster;
mod binary_keys;
mod budgets;
mod bystanders;
mod certificates;
mod check;
mod clients;
mod denied;
mod drain;
mod entry;
mod first_command;
mod handover;
mod idle_clients;
mod kill;
mod large_value;
mod lookout;
mod moved;
mod pipelines;
mod planned_failover;
mod record;
mod reload;
mod replica_reads;
mod replication;
mod replies_destroyed;
mod scenarios;
mod scripts;
mod sentinels_lost;
mod sessions;
mod stop_cont;
mod streams;
mod support;
mod tls;
mod transactions;
mod two_masters;
mod upgrade;
