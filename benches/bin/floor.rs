//! The floor: see [`slipring_benches::floor`].

use std::net::SocketAddr;

use clap::Parser;

/// Answers Redis commands with canned replies, from one thread and without a backend: the least that a server costs.
#[derive(Parser)]
struct Options {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:6379")]
    listen: SocketAddr,
    /// Size in bytes of the value that every GET receives.
    #[arg(long, default_value_t = 16)]
    value_bytes: usize,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    Ok(slipring_benches::floor::serve(
        options.listen,
        options.value_bytes,
    )?)
}
