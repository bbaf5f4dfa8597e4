//! What failovers cost, scenario by scenario: the table that is promised, measured.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use clap::Args;
use testkit::scenario::{self, Lab, Scenario};
use testkit::servers::{Server, target_folder};
use testkit::{Flavor, Login};

use crate::tool::Tool;
use crate::{flavor, setup};

/// With --failover
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct Options {
    /// With --failover: before which server alone
    #[arg(long, value_name = "redis|valkey", value_parser = flavor, requires = "failover")]
    server: Option<Flavor>,
    /// With --failover: nodes and sentinels ask for a password
    #[arg(long, requires = "failover")]
    passwords: bool,
    /// With --failover: only the scenarios in whose name this stands
    #[arg(long, value_name = "TEXT", requires = "failover")]
    only: Option<String>,
    /// With --failover: each so many times
    #[arg(long, default_value_t = 1, requires = "failover")]
    times: u32,
    /// With --failover: this slipring, in place of one that is built first
    #[arg(long, value_name = "FILE", requires = "failover")]
    program: Option<PathBuf>,
}

/// Plays every scenario before the server that is wanted, or before each that there is: whether all was kept, in time,
/// too.
///
/// # Errors
/// When one could not be played.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let found = setup::servers(false)?;
    let wanted = |server: &&Server| options.server.is_none_or(|flavor| flavor == server.flavor);
    let servers: Vec<_> = found.servers.iter().filter(wanted).collect();
    ensure!(!servers.is_empty(), anyhow!("there is no server to measure with"));
    let program = match &options.program {
        Some(program) => program.clone(),
        None => build()?,
    };
    let mut kept = true;
    for server in servers {
        println!(
            "\n{} {}, 3 nodes, 3 sentinels, down-after 1 s, 32 clients",
            server.flavor, server.version
        );
        println!("{}", scenario::head());
        let lab = Lab {
            program: program.clone(),
            flavor: server.flavor,
            login: options.passwords.then(|| Login {
                user: None,
                password: "secret".to_owned(),
            }),
            down_after: Duration::from_secs(1),
        };
        kept &= play_all(&lab, options)?;
    }
    Ok(kept)
}

fn build() -> Result<PathBuf> {
    println!("building slipring ...");
    let build = Tool::cargo(&["build", "--release", "--package", "slipring"]);
    ensure!(build.passes()?, "slipring does not build");
    Ok(target_folder().join("release").join("slipring"))
}

fn play_all(lab: &Lab, options: &Options) -> Result<bool> {
    let mut kept = true;
    let wanted = |scenario: &Scenario| {
        let only = options.only.as_deref();
        only.is_none_or(|text| scenario.name().contains(text))
    };
    for scenario in Scenario::ALL.into_iter().filter(wanted) {
        if !scenario.runs_here()? {
            println!("{:<38}not run: it needs root and iproute2", scenario.name());
            continue;
        }
        for _ in 0..options.times {
            let told = scenario.play(lab)?;
            println!("{told}");
            kept &= told.broken.is_empty() && told.is_in_time();
        }
    }
    Ok(kept)
}
