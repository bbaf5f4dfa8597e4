//! A Redis proxy that follows Sentinel: the program around `proxy-core`.
//!
//! [`cli`] reads flags and environment, [`file`] the configuration file, [`config`] checks them as a whole, [`runtime`] starts the threads and
//! ends them, [`reload`] reads all of it again, [`admin`] answers operators from what [`status`] knows.

mod admin;
mod cli;
mod config;
mod descriptors;
mod dial;
mod entry;
mod facts;
mod file;
mod inquiry;
mod log;
mod reload;
mod runtime;
mod service;
mod status;
mod tls;

use std::process::ExitCode;

use cli::Cli;
use config::Config;

/// The command line is wrong: `EX_USAGE` of sysexits.h.
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    let cli = match Cli::read(&arguments) {
        Ok(cli) => cli,
        Err(usage) if usage.print() => return ExitCode::SUCCESS,
        Err(_) => return ExitCode::from(EXIT_USAGE),
    };
    let (level, format) = (cli.operation.log_level, cli.operation.log_format);
    let check_alone = cli.operation.check_config;
    let config = match Config::new(cli) {
        Ok(_) if check_alone => {
            println!("the configuration is in order");
            return ExitCode::SUCCESS;
        }
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let level = log::install(level, format);
    runtime::run(config, arguments, level).unwrap_or_else(|error| {
        tracing::error!("{error:#}");
        ExitCode::FAILURE
    })
}
