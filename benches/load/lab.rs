//! What stays up for the whole run: the Redis that all fronts stand before, and the sentinel that slipring asks.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;
use testkit::{Collector, Flavor, Node, Sentinel, process, servers::Watched};

use super::options::Options;
use super::peer::Peer;

/// The key that redis-benchmark uses when it is not asked for random ones.
pub(super) const KEY: &str = "key:__rand_int__";
/// What the sentinel calls the primary, and slipring by default.
const MASTER: &str = "mymaster";
/// Down only after half a minute of silence: a saturated machine must not look like a failover.
const DOWN_AFTER: Duration = Duration::from_secs(30);
/// Descriptors of a process that are not its clients' or their backend connections'.
const OTHER_DESCRIPTORS: u64 = 200;

/// The fixed part of the measurement.
pub(super) struct Lab {
    pub(super) redis: Node,
    pub(super) redis_pid: u32,
    pub(super) sentinel: Sentinel,
    /// The slipring to measure.
    pub(super) slipring: PathBuf,
    /// Arguments that slipring gets besides its addresses.
    pub(super) slipring_args: Vec<String>,
    /// Where [`Peer::Traced`] sends its spans.
    pub(super) collector: Collector,
    /// The floor, built with this driver.
    pub(super) floor: PathBuf,
    /// Configurations and logs.
    pub(super) folder: TempDir,
}

// === impl Lab ===

impl Lab {
    /// Builds what is to be measured, then starts Redis and the sentinel and waits until both serve.
    pub(super) fn start(options: &Options) -> Result<Self> {
        build(options)?;
        raise_descriptor_limit()?;
        let server = Flavor::Redis.server()?;
        let redis = Node::builder(server.clone())
            .config("maxclients 100000")
            .start()?;
        let watched = Watched {
            name: MASTER.to_owned(),
            host: redis.address().ip().to_string(),
            port: redis.port(),
            login: None,
        };
        let sentinel = Sentinel::builder(server)
            .watch(watched)
            .quorum(1)
            .down_after(DOWN_AFTER)
            .spawn()?;
        sentinel.wait_ready(MASTER, 0, 0)?;
        let redis_pid = redis.process().pid().context("Redis has ended")?;
        let binaries = binaries()?;
        Ok(Self {
            redis,
            redis_pid,
            sentinel,
            slipring: options
                .slipring
                .clone()
                .unwrap_or_else(|| binaries.join("slipring")),
            slipring_args: options.slipring_args.clone(),
            collector: Collector::start()?,
            floor: binaries.join("floor"),
            folder: process::scratch("load")?,
        })
    }

    /// A certificate and its key, in one file, which nobody vouches for.
    pub(super) fn certificate(&self) -> Result<PathBuf> {
        let file = self.folder.path().join("certificate.pem");
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&key)?;
        fs::write(&file, certificate.pem() + &key.serialize_pem())?;
        Ok(file)
    }

    /// Gives the benchmark's key a value of this size.
    pub(super) fn fill(&self, value_bytes: usize) -> Result<()> {
        self.redis
            .command(&[b"SET", KEY.as_bytes(), &vec![b'x'; value_bytes]])
            .map(drop)
    }
}

/// A measurement of yesterday's binary would be worse than none: cargo is asked each time.
fn build(options: &Options) -> Result<()> {
    let mut packages = Vec::new();
    if options.peers.contains(&Peer::Floor) {
        packages.push("slipring-benches");
    }
    let slipring = |peer| matches!(peer, &Peer::Slipring | &Peer::Traced);
    if options.peers.iter().any(slipring) && options.slipring.is_none() {
        packages.push("slipring");
    }
    if packages.is_empty() {
        return Ok(());
    }
    let mut command = process::cargo();
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

/// The folder in which this driver and its fellows were built.
fn binaries() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    program
        .parent()
        .map(Path::to_path_buf)
        .ok_or_else(|| anyhow!("{} lies in no folder", program.display()))
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
