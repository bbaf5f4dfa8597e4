//! A Redis proxy that follows Sentinel: the program around `proxy-core`.
//!
//! [`cli`] reads flags and environment, [`mod@file`] the configuration file, [`config`] checks them as a whole,
//! [`mod@bind`] opens the sockets, [`runtime`] builds the parts and their threads, [`control`] keeps them and ends them,
//! [`check`] and [`overview`] ask others instead, [`reload`] reads all of it again, [`admin`] answers operators from
//! what [`status`] knows, [`upgrade`] lets another process take over.

mod admin;
mod bind;
mod check;
mod cli;
mod config;
mod control;
mod descriptors;
mod dial;
mod facts;
mod file;
mod inquiry;
mod log;
#[cfg(test)]
mod manual;
mod memory;
mod overview;
mod process;
mod reload;
mod runtime;
mod service;
mod spans;
mod status;
mod threads;
mod tls;
mod upgrade;

use std::process::ExitCode;

use cli::Cli;
use config::Config;

/// The command line is wrong: `EX_USAGE` of sysexits.h.
const EXIT_USAGE: u8 = 64;

/// What the first word asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Serve,
    /// `slipring check FLAGS`
    Check,
    /// `slipring status`
    Status,
}

fn main() -> ExitCode {
    let mut arguments: Vec<_> = std::env::args_os().collect();
    let order = match arguments.get(1).and_then(|word| word.to_str()) {
        Some("check") => Order::Check,
        Some("status") => Order::Status,
        _ => Order::Serve,
    };
    if order != Order::Serve {
        arguments.remove(1);
    }
    if order == Order::Status {
        return threads::alone(overview::run(arguments)).unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        });
    }
    let cli = match Cli::read(&arguments) {
        Ok(cli) => cli,
        Err(usage) if usage.print() => return ExitCode::SUCCESS,
        Err(_) => return ExitCode::from(EXIT_USAGE),
    };
    let (level, format) = (cli.operation.log_level, cli.operation.log_format);
    let check_alone = cli.operation.check_config;
    let config = match Config::new(cli) {
        Ok(config) if check_alone => {
            if let Some(fault) = &config.tls.out_of_date {
                eprintln!("warning: {}", fault.what());
            }
            println!("the configuration is in order");
            return ExitCode::SUCCESS;
        }
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    if order == Order::Check {
        return threads::alone(async { Ok(check::run(&config).await) }).unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        });
    }
    let (level, _written) = log::install(level, format);
    runtime::run(config, arguments, level).unwrap_or_else(|error| {
        tracing::error!("{error:#}");
        ExitCode::FAILURE
    })
}
