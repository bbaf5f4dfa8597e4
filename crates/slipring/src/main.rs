//! A Redis proxy that follows Sentinel: the program around `proxy-core`.
//!
//! [`cli`] reads flags and environment, [`config`] checks them as a whole, [`runtime`] starts the threads and
//! ends them, [`admin`] answers operators from what [`status`] knows.

mod admin;
mod cli;
mod config;
mod descriptors;
mod log;
mod runtime;
mod status;
mod tls;

use std::process::ExitCode;

use cli::Cli;
use config::Config;

/// The command line is wrong: `EX_USAGE` of sysexits.h.
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(message) => {
            // Nobody to tell where standard error itself is gone.
            let _ = message.print();
            return if message.use_stderr() {
                ExitCode::from(EXIT_USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let (level, format) = (cli.operation.log_level, cli.operation.log_format);
    let config = match Config::new(cli) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    log::install(level, format);
    runtime::run(config).unwrap_or_else(|error| {
        tracing::error!("{error:#}");
        ExitCode::FAILURE
    })
}
