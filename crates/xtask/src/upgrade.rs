//! One slipring in the place of another, again and again under a load: nobody may notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use testkit::servers::target_folder;
use testkit::{Client, Cluster, Flavor, Load, Proxy};

use crate::tool::Tool;

/// How often, under what, before which server.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How often the process is replaced
    #[arg(long, default_value_t = 20)]
    times: usize,
    /// Clients of the load; ten more are in the middle of transactions
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

/// Clients in the middle of transactions.
const TALKING: usize = 10;

/// Replaces slipring under a load: whether nobody noticed.
///
/// # Errors
/// When something does not start, or does not end.
pub(crate) fn run(options: &Options) -> Result<bool> {
    println!("building slipring ...");
    let build = Tool::cargo(&["build", "--release", "--package", "slipring"]);
    ensure!(build.passes()?, "slipring does not build");
    let cluster = Cluster::builder(options.server).start()?;
    let program = target_folder().join("release").join("slipring");
    let mut proxy = Proxy::builder(program).sentinels(&cluster).upgradable().start()?;
    let load = Load::builder(proxy.address())
        .clients(options.clients)
        .pace(Duration::from_millis(20))
        .start()?;
    let stopping = Arc::new(AtomicBool::new(false));
    let talking = (0..TALKING)
        .map(|number| talk(&proxy, number, &stopping))
        .collect::<Result<Vec<_>>>()?;
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
    let mut transactions = 0;
    for client in talking {
        transactions += client.join().expect("it returns what goes wrong")?;
    }
    let history = load.finish();
    let verdict = history.verify(&mut cluster.primary()?.client()?)?;
    let all = history.phase(&verdict, history.started, history.ended);
    println!(
        "{} operations, {} writes acknowledged, {transactions} transactions talked step by step",
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
    Ok(kept && verdict.is_clean())
}

/// MULTI, two INCRs and EXEC, each in its own write. How many were executed.
fn talk(proxy: &Proxy, number: usize, stopping: &Arc<AtomicBool>) -> Result<JoinHandle<Result<u64>>> {
    let (mut client, stopping) = (proxy.client()?, Arc::clone(stopping));
    Ok(thread::spawn(move || {
        let key = format!("talk:{number}");
        let mut executed = 0;
        while !stopping.load(Ordering::Relaxed) {
            executed += 1;
            transact(&mut client, &key, executed)
                .with_context(|| format!("transaction {executed} of {key}"))?;
        }
        Ok(executed)
    }))
}

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
