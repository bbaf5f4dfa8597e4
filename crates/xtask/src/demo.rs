//! The promise, shown: plain clients through slipring, a planned failover, a `kill -9`, and a table of what it cost.
//!
//! ```text
//!  calm --> planned failover, until the old primary is a replica --> a calm second --> kill -9 --> until the end
//! ```

mod display;
mod table;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use testkit::load::{History, Load};
use testkit::port::Port;
use testkit::servers::{Server, target_folder};
use testkit::{Cluster, Flavor, Node, Proxy, process};

use crate::setup;
use crate::tool::Tool;
use display::Display;
use table::{Column, Moments};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Leave everything running after the table, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// How long the load runs, at least 25s
    #[arg(long, value_name = "TIME", default_value = "35s", value_parser = duration)]
    duration: Duration,
    /// How many clients
    #[arg(long, value_name = "N", default_value_t = 32)]
    clients: usize,
    /// Before which server; without it Redis, or Valkey where Redis is missing
    #[arg(long, value_name = "redis|valkey", value_parser = crate::flavor)]
    server: Option<Flavor>,
}

const SHORTEST: Duration = Duration::from_secs(25);
const CALM: Duration = Duration::from_secs(3);
/// Replication is asynchronous: a write acknowledged within this time before a kill is lost by the kill, not by what was before.
const BEFORE_KILL: Duration = Duration::from_secs(1);
const AFTER_PROMOTION: Duration = Duration::from_secs(4);
/// With one second, Sentinel calls a new primary down now and then: it redials it only once a second.
const DOWN_AFTER: Duration = Duration::from_secs(2);
const PROMOTION_TIMEOUT: Duration = Duration::from_secs(30);
const PLAIN_PORT: u16 = 6379;

/// Ctrl-C has come, and everything is being killed.
static STOPPING: AtomicBool = AtomicBool::new(false);

/// Everything that the demo runs.
struct Stage {
    server: Server,
    cluster: Cluster,
    proxy: Proxy,
}

/// Runs the demo: whether the promise was kept.
///
/// # Errors
/// When the demo itself could not be run.
pub(crate) fn run(options: &Options) -> Result<bool> {
    ensure!(
        options.duration >= SHORTEST,
        "--duration: both failovers do not fit into less than {SHORTEST:?}"
    );
    clean_up_on_ctrl_c()?;
    let outcome = perform(options);
    while STOPPING.load(Ordering::Relaxed) {
        // What we just saw fail was taken from under us; the thread that did it ends the process.
        std::thread::park();
    }
    outcome
}

fn perform(options: &Options) -> Result<bool> {
    let found = setup::servers(false)?;
    let wanted = |server: &&Server| options.server.is_none_or(|flavor| flavor == server.flavor);
    let server = found
        .servers
        .iter()
        .find(wanted)
        .ok_or_else(|| anyhow!("there is no server for the demo"))?;
    println!("building slipring ...");
    let build = Tool::cargo(&["build", "--release", "--package", "slipring"]);
    ensure!(build.passes()?, "slipring does not build");

    let stage = Stage::set(server.clone())?;
    let display = Display::start(stage.proxy.admin_address());
    let load = Load::builder(stage.proxy.address())
        .clients(options.clients)
        .start()?;
    let outcome = stage.play(options, &display, load);
    display.stop();
    let (history, moments) = outcome.with_context(|| stage.proxy.process().log_tail())?;
    let kept = stage.judge(&history, &moments)?;
    if options.keep {
        stage.keep()?;
    }
    Ok(kept)
}

// === impl Stage ===

impl Stage {
    fn set(server: Server) -> Result<Self> {
        let cluster = Cluster::builder(server.flavor).down_after(DOWN_AFTER).start()?;
        let program = target_folder().join("release").join("slipring");
        let mut builder = Proxy::builder(program).sentinels(&cluster);
        if let Some(port) = Port::claim(PLAIN_PORT) {
            builder = builder.port(port);
        }
        let proxy = builder.start()?;
        let ports = |ports: Vec<u16>| ports.iter().map(u16::to_string).collect::<Vec<_>>().join(" ");
        println!(
            "{} {}: nodes on {}, sentinels on {}; slipring on {}, its metrics on http://{}/metrics",
            server.flavor,
            server.version,
            ports(cluster.shard().nodes.iter().map(Node::port).collect()),
            ports(cluster.sentinels.iter().map(testkit::Sentinel::port).collect()),
            proxy.address(),
            proxy.admin_address(),
        );
        Ok(Self {
            server,
            cluster,
            proxy,
        })
    }

    /// Both failovers under the load.
    fn play(&self, options: &Options, display: &Display, load: Load) -> Result<(History, Moments)> {
        let load = display.watch(load);
        let began = Instant::now();
        display.say("calm");
        sleep(CALM);

        let shard = self.cluster.shard();
        display.say("planned failover");
        let planned = Instant::now();
        let first = self.cluster.primary()?.port();
        let (second, planned_promotion) =
            shard.promotion_during(first, PROMOTION_TIMEOUT, || self.cluster.failover_planned())?;
        // Until then the old primary takes writes from whoever still sends them there.
        self.cluster.wait_switched(shard, first, PROMOTION_TIMEOUT)?;
        self.cluster.wait_ready()?;

        display.say("calm");
        let planned_end = Instant::now();
        sleep(BEFORE_KILL);
        display.say("kill -9 of the primary");
        let mut gone = Instant::now();
        let (_, kill_promotion) = shard.promotion_during(second.port(), PROMOTION_TIMEOUT, || {
            second.kill();
            gone = Instant::now();
            Ok(())
        })?;
        sleep(AFTER_PROMOTION.max(options.duration.saturating_sub(began.elapsed())));
        let end = Instant::now();
        let history = load.finish();
        Ok((
            history,
            Moments {
                planned,
                planned_promotion,
                planned_end,
                gone,
                kill_promotion,
                end,
            },
        ))
    }

    /// Prints the table: whether the promise was kept.
    fn judge(&self, history: &History, moments: &Moments) -> Result<bool> {
        let verdict = history.verify(&mut self.cluster.primary()?.client()?)?;
        let columns = [
            Column::planned(history, &verdict, moments),
            Column::kill(history, &verdict, moments),
        ];
        print!("{}", table::render(&columns));
        let broken: Vec<&String> = columns.iter().flat_map(|column| &column.broken).collect();
        for promise in &broken {
            println!("BROKEN: {promise}");
        }
        Ok(broken.is_empty())
    }

    /// Brings the killed node back and waits until Ctrl-C ends everything.
    fn keep(&self) -> Result<()> {
        for node in &self.cluster.shard().nodes {
            if node.process().pid().is_none() {
                node.restart()?;
            }
        }
        let cli = self.server.cli();
        let cli = if cli.is_file() {
            cli.display().to_string()
        } else {
            "redis-cli".to_owned()
        };
        println!(
            "\nall of it is running; try:\n  {cli} -p {}",
            self.proxy.address().port()
        );
        println!(
            "and move the primary under it:\n  {cli} -p {} sentinel failover mymaster",
            self.cluster.sentinels[0].port()
        );
        println!("Ctrl-C stops and removes everything.");
        loop {
            std::thread::park();
        }
    }
}

/// From now on Ctrl-C and SIGTERM kill and remove all that was started, and end us.
fn clean_up_on_ctrl_c() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            STOPPING.store(true, Ordering::Relaxed);
            process::end_all();
            eprintln!("\nstopped; nothing is left running");
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

fn duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = digits
        .parse()
        .map_err(|_| "it takes a time such as 40s or 2m".to_owned())?;
    match unit {
        "" | "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(60 * number)),
        _ => Err("it takes a time such as 40s or 2m".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("40s"), Ok(Duration::from_secs(40)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
        assert!(duration("1h").is_err() && duration("s").is_err());
    }
}
