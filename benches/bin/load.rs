//! The whole-proxy load driver, `cargo xtask load`: see [`slipring_benches::load`].

use std::process::ExitCode;

use clap::Parser;
use slipring_benches::load::{self, Options, Verdict};

fn main() -> anyhow::Result<ExitCode> {
    Ok(match load::run(&Options::parse())? {
        Verdict::Met => ExitCode::SUCCESS,
        Verdict::Missed => ExitCode::FAILURE,
    })
}
