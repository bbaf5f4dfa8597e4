//! One slipring in the place of another, again and again under a load: nobody may notice.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use testkit::load::Phase;
use testkit::servers::target_folder;
use testkit::{Client, Cluster, Flavor, Load, Proxy};

use crate::tool::Tool;

/// How often, under what, before which server.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How often the process is replaced
    #[arg(long, default_value_t = 20)]
    times: usize,
    /// Clients of the load, ten blocked consumers and ten subscribers among them; ten more are in the middle of
    /// transactions, four more connect anew for each command
    #[arg(long, default_value_t = 500)]
    clients: usize,
    /// Before which server
    #[arg(long, value_name = "redis|valkey", value_parser = crate::flavor, default_value = "redis")]
    server: Flavor,
    /// Move the primary during every fifth replacement, too
    #[arg(long)]
    failover: bool,
}

/// How long anything may take, on whatever machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Parts of the load: each has a consumer that blocks, and a subscriber.
const CROWDS: usize = 10;

/// Clients in the middle of transactions.
const TALKING: usize = 10;

/// Clients that connect anew for each command.
const COMING: usize = 4;

/// Replaces slipring under a load: whether nobody noticed.
///
/// # Errors
/// When something does not start, or does not end.
pub(crate) fn run(options: &Options) -> Result<bool> {
    println!("building slipring ...");
    let build = Tool::cargo(&["build", "--release", "--package", "slipring"]);
    ensure!(build.passes()?, "slipring does not build");
    // Sentinels that a stalled machine makes call the primary down would hold writes for two seconds, with nobody elected.
    let patient = Duration::from_secs(20);
    let cluster = Cluster::builder(options.server).down_after(patient).start()?;
    let program = target_folder().join("release").join("slipring");
    let mut proxy = Proxy::builder(program).sentinels(&cluster).upgradable().start()?;
    let crowd = |number| {
        let load = Load::builder(proxy.address()).name(&format!("crowd-{number}"));
        let load = load.clients(options.clients / CROWDS);
        load.pace(Duration::from_millis(20)).start()
    };
    let crowds = (0..CROWDS).map(crowd).collect::<Result<Vec<_>>>()?;
    let stopping = Arc::new(AtomicBool::new(false));
    let talking = (0..TALKING).map(|number| {
        let mut client = proxy.client()?;
        let key = format!("talk:{number}");
        Ok(again_and_again(&stopping, move |time| {
            transact(&mut client, &key, time)
        }))
    });
    let talking = talking.collect::<Result<Vec<_>>>()?;
    let coming = (0..COMING).map(|_| {
        let address = proxy.address();
        again_and_again(&stopping, move |_| come_and_go(address))
    });
    let coming: Vec<_> = coming.collect();
    thread::sleep(Duration::from_secs(1));
    for time in 1..=options.times {
        let primary = cluster.primary()?.port();
        let moves = options.failover && time % 5 == 0;
        let began = Instant::now();
        if moves {
            cluster.failover_planned()?;
        }
        let former = proxy.succeed()?;
        let status = former.wait(PATIENCE)?;
        ensure!(status.success(), "{status}\n{}", former.log_tail());
        let took = began.elapsed();
        if moves {
            cluster.wait_switched(cluster.shard(), primary, PATIENCE)?;
        }
        let adopted = proxy.metric("slipring_clients_adopted_total", &[])?;
        println!(
            "{time:>3}: {adopted} clients in {took:.0?}{}",
            if moves { ", and the primary" } else { "" }
        );
    }
    stopping.store(true, Ordering::Relaxed);
    let (transactions, comers) = (total(talking)?, total(coming)?);
    let mut all = Phase::default();
    let mut clean = true;
    for crowd in crowds {
        let history = crowd.finish();
        let verdict = history.verify(&mut cluster.primary()?.client()?)?;
        clean &= verdict.is_clean();
        all.add(history.phase(&verdict, history.started, history.ended));
    }
    println!(
        "{} operations, {} writes acknowledged, {transactions} transactions talked step by step, {comers} clients that came and went",
        all.operations, all.acknowledged_writes
    );
    println!(
        "{} errors, {} unknown, {} dropped, {} lost, {} doubled, {} stale; longest pause {:.0?}",
        all.errors.values().sum::<usize>(),
        all.unknown.values().sum::<usize>(),
        all.dropped,
        all.lost,
        all.doubled,
        all.stale,
        all.longest_pause
    );
    let kept = all.errors.is_empty() && all.unknown.is_empty() && all.dropped + all.stale == 0;
    Ok(kept && clean)
}

/// Does `turn` on a thread of its own until it is to stop. How often that was.
fn again_and_again(
    stopping: &Arc<AtomicBool>,
    mut turn: impl FnMut(u64) -> Result<()> + Send + 'static,
) -> JoinHandle<Result<u64>> {
    let stopping = Arc::clone(stopping);
    thread::spawn(move || {
        let mut done = 0;
        while !stopping.load(Ordering::Relaxed) {
            turn(done + 1).with_context(|| format!("turn {}", done + 1))?;
            done += 1;
        }
        Ok(done)
    })
}

fn total(clients: Vec<JoinHandle<Result<u64>>>) -> Result<u64> {
    let done = |client: JoinHandle<Result<u64>>| client.join().expect("it returns what goes wrong");
    clients.into_iter().map(done).sum()
}

/// Whoever comes is let in, whichever process it is.
fn come_and_go(address: SocketAddr) -> Result<()> {
    let reply = Client::connect(address)?.command(&["ECHO", "here"])?;
    ensure!(reply.text() == Some("here"), "ECHO: {reply:?}");
    thread::sleep(Duration::from_millis(5));
    Ok(())
}

/// MULTI, two INCRs and EXEC, each in its own write.
fn transact(client: &mut Client, key: &str, executed: u64) -> Result<()> {
    for words in [&["MULTI"][..], &["INCR", key], &["INCR", key]] {
        let reply = client.command(words)?;
        ensure!(reply.error().is_none(), "{words:?}: {reply:?}");
        thread::sleep(Duration::from_millis(3));
    }
    let reply = client.command(&["EXEC"])?;
    let last = reply.items().last().and_then(testkit::Reply::integer);
    ensure!(last == Some(2 * executed.cast_signed()), "EXEC: {reply:?}");
    Ok(())
}
