//! `cargo xtask soak`: failovers, faults and churn for a while, and whether slipring ends where it began.
//!
//! ```text
//!  settle ─> first measure ─> rounds: a load, clients that come and hang up, one fault each ─> settle ─> last measure
//! ```
//! Settled is: no client, and a minute in which idle leases and connections close.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Args;
use nix::sys::signal::Signal;
use testkit::memory::resident_bytes;
use testkit::servers::target_folder;
use testkit::wait::wait_for;
use testkit::{Client, Cluster, Flavor, Load, Proxy};

use crate::tool::Tool;

/// How long, and before which server.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How long faults go on; settling takes two and a half minutes more
    #[arg(long, value_name = "N", default_value_t = 30)]
    minutes: u64,
    /// Before which server
    #[arg(long, value_name = "redis|valkey", default_value = "redis", value_parser = crate::flavor)]
    server: Flavor,
    /// slipring as it is deployed, instead of a development build
    #[arg(long)]
    release: bool,
}

/// What goes wrong in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Planned,
    Kill,
    Freeze,
    /// All of the primary's clients are cut.
    Cut,
    Sentinel,
    Reload,
    Reconnect,
}

/// What slipring holds.
#[derive(Clone, Copy, Debug)]
struct Measure {
    resident_kib: u64,
    /// What is left of it once the allocator has given back what nobody holds.
    held_kib: Option<u64>,
    descriptors: usize,
    clients: f64,
    leases: f64,
    shared: f64,
    held: f64,
    panics: f64,
}

/// Clients that come, begin something, and hang up in the middle of it.
struct Churn {
    stop: Arc<AtomicBool>,
    connections: Arc<AtomicU64>,
    threads: Vec<thread::JoinHandle<()>>,
}

const FAULTS: [Fault; 7] = [
    Fault::Planned,
    Fault::Kill,
    Fault::Cut,
    Fault::Reload,
    Fault::Freeze,
    Fault::Sentinel,
    Fault::Reconnect,
];

const DOWN_AFTER: Duration = Duration::from_secs(2);

/// Idle leases, and connections of users and databases that nobody uses, close after 60 s; the pulse and the allocator
/// have some time beyond.
const SETTLING: Duration = Duration::from_secs(75);

/// How long a load runs before and after its fault.
const CALM: Duration = Duration::from_secs(4);

/// Longer than any failover here, and than the half minute that the sentinels of a starved machine spend in TILT.
const PATIENCE: Duration = Duration::from_secs(120);

/// Resident memory may end so much above where it began: the allocator keeps what it once had.
const GROWTH_KIB: u64 = 8 << 10;

/// So much may be held that was not: the records of failovers, places in tables that have grown.
const HELD_GROWTH_KIB: u64 = 1 << 10;

/// Runs the soak: whether slipring ended where it began.
///
/// # Errors
/// When the soak itself could not be run.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let (profile, folder) = if options.release {
        ("release", "release")
    } else {
        ("dev", "debug")
    };
    let built = Tool::cargo(&["build", "--package", "slipring", "--profile", profile]).passes()?;
    ensure!(built, "slipring does not build");
    let cluster = Cluster::builder(options.server).down_after(DOWN_AFTER).start()?;
    let proxy = Proxy::builder(target_folder().join(folder).join("slipring"))
        .sentinels(&cluster)
        .start()?;
    // Everything that is made once has been made before the first measure.
    for fault in FAULTS {
        round(&cluster, &proxy, fault, &format!("warm{fault:?}"))?;
    }
    thread::sleep(SETTLING);
    let first = Measure::settled(&proxy)?;
    if first.held_kib.is_none() {
        println!(
            "no gdb here, or it may not look: what the allocator keeps is not told from what slipring holds"
        );
    }
    println!("{}", Measure::head());
    println!("{}", first.row("at first"));
    let end = Instant::now() + Duration::from_secs(60 * options.minutes);
    let mut rounds = 0;
    let mut right = true;
    for fault in FAULTS.into_iter().cycle() {
        if Instant::now() >= end {
            break;
        }
        rounds += 1;
        let told = round(&cluster, &proxy, fault, &format!("round{rounds}"))?;
        right &= told.right;
        let row = Measure::take(&proxy)?.row(&format!("{rounds} {fault:?}"));
        println!("{row}  {}", told.line);
    }
    thread::sleep(SETTLING);
    let last = Measure::settled(&proxy)?;
    println!("{}", last.row("at last"));
    let faults = last.differs(&first);
    faults
        .iter()
        .for_each(|fault| println!("NOT WHERE IT BEGAN: {fault}"));
    if !right {
        println!("a write was executed twice or in part, or contradicted: see above");
    }
    Ok(right && faults.is_empty())
}

/// What a round showed.
struct Told {
    right: bool,
    line: String,
}

fn round(cluster: &Cluster, proxy: &Proxy, fault: Fault, name: &str) -> Result<Told> {
    let churn = Churn::start(proxy);
    let load = Load::builder(proxy.address()).name(name).clients(16).start()?;
    thread::sleep(CALM);
    let done = fault
        .happen(cluster, proxy)
        .with_context(|| proxy.process().log_tail());
    thread::sleep(CALM);
    let history = load.finish();
    let connections = churn.finish();
    done?;
    wait_for("slipring", PATIENCE, || proxy.wait_ready())?;
    let verdict = history.verify(&mut cluster.primary()?.client()?)?;
    let phase = history.phase(&verdict, history.started, history.ended);
    let line = format!(
        "{} operations, {connections} hang-ups, {} errors, {} unknown, {} lost, {} twice",
        phase.operations,
        phase.error_count(),
        phase.unknown_count(),
        verdict.lost.len(),
        verdict.doubled.len()
    );
    let right = verdict.is_right();
    Ok(Told { right, line })
}

// === impl Fault ===

impl Fault {
    /// Makes it happen and waits until it is over.
    fn happen(self, cluster: &Cluster, proxy: &Proxy) -> Result<()> {
        let primary = cluster.primary()?;
        let old = primary.port();
        match self {
            Self::Planned => cluster.failover_planned()?,
            Self::Kill => {
                primary.kill();
                cluster.wait_switched(cluster.shard(), old, PATIENCE)?;
                primary.restart()?;
            }
            Self::Freeze => {
                primary.stop()?;
                let switched = cluster.wait_switched(cluster.shard(), old, PATIENCE).map(drop);
                primary.cont()?;
                switched?;
            }
            Self::Cut => {
                primary.command(&["CLIENT", "KILL", "TYPE", "normal"])?;
            }
            Self::Sentinel => {
                let sentinel = cluster
                    .sentinels
                    .first()
                    .ok_or_else(|| anyhow!("there are three"))?;
                sentinel.kill();
                sentinel.restart()?;
            }
            Self::Reload => proxy.process().signal(Signal::SIGHUP)?,
            Self::Reconnect => {
                let reply = proxy.client()?.command(&["PROXY", "RECONNECT"])?;
                ensure!(reply.error().is_none(), "{reply:?}");
            }
        }
        wait_for("the cluster", PATIENCE, || cluster.wait_ready())
    }
}

// === impl Measure ===

impl Measure {
    /// What is there, and what of it is held: a debugger has the allocator give back the rest.
    fn settled(proxy: &Proxy) -> Result<Self> {
        let measure = Self::take(proxy)?;
        let pid = pid(proxy)?;
        let trimming = [
            "-batch",
            "-nx",
            "-ex",
            "call (int)malloc_trim(0)",
            "-p",
            &pid.to_string(),
        ];
        // It succeeds whatever it is told to call, and says what came of that.
        let trimmed = Tool::new("gdb", &trimming)
            .output()
            .is_ok_and(|said| said.lines().any(|line| line.starts_with("$1 = ")));
        Ok(Self {
            held_kib: trimmed
                .then(|| resident_bytes(pid))
                .transpose()?
                .map(|bytes| bytes >> 10),
            ..measure
        })
    }

    fn take(proxy: &Proxy) -> Result<Self> {
        let pid = pid(proxy)?;
        Ok(Self {
            resident_kib: resident_bytes(pid)? >> 10,
            held_kib: None,
            descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
            clients: proxy.metric("slipring_clients", &[])?,
            leases: proxy.metric("slipring_backend_connections", &["kind=\"lease\""])?,
            shared: proxy.metric("slipring_backend_connections", &["kind=\"mux\""])?,
            held: proxy.metric("slipring_held_bytes", &[])?,
            panics: proxy.metric("slipring_session_panics_total", &[])?,
        })
    }

    fn head() -> String {
        format!(
            "{:<14} {:>9} {:>9} {:>5} {:>7} {:>6} {:>6} {:>5}",
            "", "RSS KiB", "trimmed", "fds", "clients", "leases", "shared", "held"
        )
    }

    fn row(&self, name: &str) -> String {
        let trimmed = self.held_kib.map_or_else(String::new, |kib| kib.to_string());
        format!(
            "{name:<14} {:>9} {trimmed:>9} {:>5} {:>7} {:>6} {:>6} {:>5}",
            self.resident_kib, self.descriptors, self.clients, self.leases, self.shared, self.held
        )
    }

    /// What this last measure has more of than the first one.
    fn differs(&self, first: &Self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut compare = |what: &str, now: f64, then: f64| {
            if now > then {
                faults.push(format!("{what}: {now} instead of {then}"));
            }
        };
        compare("clients", self.clients, first.clients);
        compare("leases", self.leases, first.leases);
        compare("shared connections", self.shared, first.shared);
        compare("held bytes", self.held, first.held);
        compare("panics", self.panics, 0.0);
        // A probe may be under way at either moment.
        if self.descriptors > first.descriptors + 4 {
            faults.push(format!(
                "descriptors: {} instead of {}",
                self.descriptors, first.descriptors
            ));
        }
        let mut grown = |what: &str, now: u64, then: u64, bound: u64| {
            if now > then + bound {
                faults.push(format!("KiB of memory, {what}: {now} instead of {then}"));
            }
        };
        grown("resident", self.resident_kib, first.resident_kib, GROWTH_KIB);
        if let (Some(now), Some(then)) = (self.held_kib, first.held_kib) {
            grown("held", now, then, HELD_GROWTH_KIB);
        }
        faults
    }
}

fn pid(proxy: &Proxy) -> Result<u32> {
    proxy.process().pid().ok_or_else(|| anyhow!("slipring has ended"))
}

// === impl Churn ===

impl Churn {
    fn start(proxy: &Proxy) -> Self {
        let (stop, connections) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let begun: [&[u8]; 6] = [
            b"SET churn value\r\n",
            b"BLPOP churn:nothing 0\r\n",
            b"MULTI\r\nSET churn value\r\n",
            b"WATCH churn\r\n",
            b"SUBSCRIBE churn\r\n",
            b"GET chu",
        ];
        let threads = begun.into_iter().map(|bytes| {
            let (stop, connections) = (Arc::clone(&stop), Arc::clone(&connections));
            let address = proxy.address();
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let sent = Client::connect(address).and_then(|mut client| client.send_raw(bytes));
                    connections.fetch_add(u64::from(sent.is_ok()), Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(20));
                }
            })
        });
        Self {
            threads: threads.collect(),
            stop,
            connections,
        }
    }

    /// How many there were.
    fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("it returns what goes wrong");
        }
        self.connections.load(Ordering::Relaxed)
    }
}
