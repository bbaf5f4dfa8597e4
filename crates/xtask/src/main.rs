//! The project's chores: `cargo xtask <command>`. On a fresh machine each does its own set-up first.

mod audit;
mod demo;
mod deploy;
mod failover;
mod generate;
mod image;
mod package;
mod setup;
mod sim;
mod soak;
mod suite;
mod test;
mod tool;
mod upgrade;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use testkit::Flavor;

use tool::Tool;

/// The project's chores.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Xtask {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Find redis-server, valkey-server, the client libraries of the tests and valgrind, or bring them
    Setup(SetupArgs),
    /// Show what a planned failover and a kill -9 of the primary cost plain clients behind slipring
    Demo(demo::Options),
    /// Run everything that must pass: format, lints, all tests, documentation
    Test,
    /// Check the dependencies, and fuzz for a while
    Audit(audit::Options),
    /// Measure slipring and its peers; what follows `--` goes to the driver
    Load(LoadArgs),
    /// Run Redis' own test suite before a node and through slipring, and show what differs
    Suite(suite::Options),
    /// Run the real watcher and core in a simulated world that goes wrong, by seed
    Sim(sim::Options),
    /// Failovers, faults and churn for a while: memory, descriptors and leases must end where they began
    Soak(soak::Options),
    /// Try what deploy/ holds: chart, rules and dashboard, with helm, promtool and a real Prometheus
    Deploy,
    /// Build the image with buildah, and try it with podman: size, start, user, name resolution, drain as PID 1
    Image,
    /// Build the Debian package with cargo-deb: program, unit, configuration, manual, completions
    Package,
    /// Replace slipring by another process, again and again under a load
    Upgrade(upgrade::Options),
    /// Write the command table anew from the servers' own
    Generate(GenerateArgs),
}

#[derive(Debug, Args)]
struct SetupArgs {
    /// As root, install what is missing from the system's packages too; no service is started
    #[arg(long)]
    system: bool,
}

#[derive(Debug, Args)]
struct LoadArgs {
    /// Measure failovers instead: every scenario that is promised, and its table
    #[arg(long)]
    failover: bool,
    #[command(flatten)]
    failovers: failover::Options,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

#[derive(Debug, Args)]
struct GenerateArgs {
    /// Compare only
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    match run(Xtask::parse().chore) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does the chore; false where it was done and found something wrong, which it has told.
fn run(chore: Chore) -> Result<bool> {
    match chore {
        Chore::Setup(args) => {
            let found = setup::servers(args.system)?;
            setup::libraries(args.system)?;
            setup::valgrind(args.system)?;
            Ok(found.any())
        }
        Chore::Demo(options) => demo::run(&options),
        Chore::Test => test::run(),
        Chore::Audit(options) => audit::run(&options),
        Chore::Load(args) if args.failover => failover::run(&args.failovers),
        Chore::Load(args) => {
            let load = Tool::cargo(&[
                "run",
                "--release",
                "--package",
                "slipring-benches",
                "--bin",
                "load",
                "--",
            ]);
            load.args(&args.args).passes()
        }
        Chore::Suite(options) => suite::run(&options),
        Chore::Sim(options) => Ok(sim::run(&options)),
        Chore::Soak(options) => soak::run(&options),
        Chore::Deploy => deploy::run(),
        Chore::Image => image::run(),
        Chore::Package => package::run(),
        Chore::Upgrade(options) => upgrade::run(&options),
        Chore::Generate(args) => generate(args.check).map(|()| true),
    }
}

fn generate(check: bool) -> Result<()> {
    let servers = Flavor::ALL
        .map(Flavor::server)
        .into_iter()
        .collect::<Result<Vec<_>>>();
    let servers = servers.context("the command table is made from both servers")?;
    let programs: Vec<PathBuf> = servers.into_iter().map(|server| server.path).collect();
    generate::run(&programs, &command_table(), check)
}

fn command_table() -> PathBuf {
    workspace().join("crates/resp-codec/src/spec/table.rs")
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn flavor(text: &str) -> Result<Flavor, String> {
    match text {
        "redis" => Ok(Flavor::Redis),
        "valkey" => Ok(Flavor::Valkey),
        _ => Err("it takes redis or valkey".to_owned()),
    }
}
