//! What stays up for the whole run: the Redis that all fronts stand before, and the sentinel that slipring asks.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tempfile::TempDir;

use super::client;
use super::front::Peer;
use super::options::Options;
use super::process::{Interrupt, Process, free_port};

/// Descriptors of a process that are not its clients' or their backend connections'.
const OTHER_DESCRIPTORS: u64 = 200;

/// The fixed part of the measurement.
pub(super) struct Lab {
    pub(super) redis: Process,
    pub(super) redis_port: u16,
    pub(super) sentinel_port: u16,
    /// The slipring to measure.
    pub(super) slipring: PathBuf,
    /// Arguments that slipring gets besides its addresses.
    pub(super) slipring_args: Vec<String>,
    /// The floor, built with this driver.
    pub(super) floor: PathBuf,
    /// Configurations and logs.
    pub(super) dir: TempDir,
    _sentinel: Process,
}

/// The folder `target` in which this driver was built.
pub(super) fn target_dir() -> PathBuf {
    let profile = profile_dir();
    profile.parent().map(Path::to_path_buf).unwrap_or(profile)
}

fn profile_dir() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    program.parent().map(Path::to_path_buf).unwrap_or_default()
}

// === impl Lab ===

impl Lab {
    /// Builds what is to be measured, then starts Redis and the sentinel and waits until both serve.
    pub(super) fn start(options: &Options, interrupt: &Interrupt) -> Result<Self> {
        build(options)?;
        raise_descriptor_limit()?;
        let dir = tempfile::Builder::new().prefix("slipring-load-").tempdir()?;
        let (redis_port, sentinel_port) = (free_port()?, free_port()?);
        let redis = Process::spawn(
            Command::new("redis-server")
                .args(["--port", &redis_port.to_string(), "--bind", "127.0.0.1"])
                .args(["--save", "", "--appendonly", "no", "--maxclients", "100000"])
                .arg("--dir")
                .arg(dir.path()),
            &dir.path().join("redis.log"),
        )?;
        client::await_reply(redis_port, &[b"PING"], b"+PONG", interrupt).context("redis-server")?;
        let sentinel = start_sentinel(dir.path(), sentinel_port, redis_port)?;
        client::await_reply(sentinel_port, &[b"PING"], b"+PONG", interrupt).context("the sentinel")?;
        Ok(Self {
            redis,
            redis_port,
            sentinel_port,
            slipring: options
                .slipring
                .clone()
                .unwrap_or_else(|| profile_dir().join("slipring")),
            slipring_args: options.slipring_args.clone(),
            floor: profile_dir().join("floor"),
            dir,
            _sentinel: sentinel,
        })
    }
}

/// A measurement of yesterday's binary would be worse than none: cargo is asked each time.
fn build(options: &Options) -> Result<()> {
    let mut packages = Vec::new();
    if options.peers.contains(&Peer::Floor) {
        packages.push("slipring-benches");
    }
    if options.peers.contains(&Peer::Slipring) && options.slipring.is_none() {
        packages.push("slipring");
    }
    if packages.is_empty() {
        return Ok(());
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--release", "--bins"]);
    for package in packages {
        command.args(["--package", package]);
    }
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    if !command.status().context("starting cargo")?.success() {
        bail!("what is to be measured does not build; --slipring PATH or --peers leave it out");
    }
    Ok(())
}

fn start_sentinel(dir: &Path, port: u16, redis_port: u16) -> Result<Process> {
    let file = dir.join("sentinel.conf");
    // Down only after half a minute of silence: a saturated machine must not look like a failover.
    let text = format!(
        "port {port}\nbind 127.0.0.1\ndir {}\n\
         sentinel monitor mymaster 127.0.0.1 {redis_port} 1\n\
         sentinel down-after-milliseconds mymaster 30000\n",
        dir.display()
    );
    std::fs::write(&file, text)?;
    Process::spawn(
        Command::new("redis-server").arg(&file).arg("--sentinel"),
        &dir.join("sentinel.log"),
    )
}

/// Ten thousand idle clients need descriptors, twice as many in a proxy that opens a connection for each.
fn raise_descriptor_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// How many clients any front can serve here, also one that opens a backend connection for each.
pub(super) fn clients_possible() -> Result<usize> {
    let (descriptors, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(descriptors.saturating_sub(OTHER_DESCRIPTORS) as usize / 2)
}
