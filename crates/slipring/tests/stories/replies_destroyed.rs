//! The node executes commands and the replies are destroyed: nothing is ever executed twice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Result, ensure};
use testkit::load::{Kind, Outcome, Step};
use testkit::{Cluster, Flavor, Load, Node, on_each_server};

use super::support::before;

const LOAD_TIME: Duration = Duration::from_secs(5);

on_each_server! {
    fn no_write_is_executed_twice(flavor: Flavor) -> Result<()> {
        // No failover belongs to this story: a node that is kept from answering must not be called down.
        let cluster = Cluster::builder(flavor).nodes(2).sentinels(1).down_after(Duration::from_secs(60)).start()?;
        let proxy = before(&cluster)?;
        let primary = cluster.primary()?;
        let load = Load::builder(proxy.address())
            .clients(24)
            .pace(Duration::from_millis(1))
            .steps(&[Step::Push, Step::Count, Step::Transaction, Step::Pipeline, Step::Set, Step::Get])
            .start()?;
        let over = AtomicBool::new(false);
        let kills = thread::scope(|scope| -> Result<u64> {
            let killer = scope.spawn(|| kill_clients(primary, &over));
            sleep(LOAD_TIME);
            over.store(true, Ordering::Relaxed);
            killer.join().expect("it returns what goes wrong")
        })?;
        // What the last kill left behind settles.
        sleep(Duration::from_millis(300));
        let history = load.finish();
        let verdict = history.verify(&mut primary.client()?)?;
        ensure!(verdict.is_clean(), "{verdict:?}");
        let all = history.phase(&verdict, history.started, history.ended);
        ensure!(all.errors.is_empty() && all.dropped == 0 && all.stale == 0, "{all:?}");

        // The story bites only if replies were destroyed behind the execution, and many of them.
        let unknown = history.operations.iter().filter(|one| matches!(one.outcome, Outcome::Unknown(_)));
        let pushed = unknown.filter(|one| one.kind == Kind::Push);
        let (mut executed, mut doubted) = (0, 0);
        let mut held = primary.client()?;
        for push in pushed {
            let place = held.command(&["LPOS", &format!("load:push:{}", push.client), &push.id.to_string()])?;
            executed += usize::from(place.integer().is_some());
            doubted += 1;
        }
        eprintln!("{flavor}: {kills} connections killed, {} unknown outcomes, {executed} of {doubted} RPUSH executed",
            all.unknown_count());
        ensure!(kills > 20 && executed > 0, "{kills} kills, {executed} of {doubted} executed");
        // Between the kills most is answered: how much, is the machine's affair.
        ensure!(all.acknowledged_writes > all.unknown_count().max(100), "{all:?}");
        let counted = proxy.metric("slipring_unknown_outcomes_total", &[])?;
        ensure!(counted >= all.unknown_count() as f64, "{counted} counted of {}", all.unknown_count());
        ensure!(proxy.metric("slipring_session_panics_total", &[])? == 0.0, "a session panicked");
        Ok(())
    }
}

/// Closes all client connections of `node` again and again. Before each, the node is made to miss a moment, so
/// that commands pile up which it then executes in the same turn of its loop as the kill: their replies are lost.
fn kill_clients(node: &Node, over: &AtomicBool) -> Result<u64> {
    let mut sleeper = node.client()?;
    let mut killed = 0;
    while !over.load(Ordering::Relaxed) {
        sleeper.send(&["DEBUG", "SLEEP", "0.004"])?;
        sleep(Duration::from_millis(2));
        sleeper.send(&["CLIENT", "KILL", "TYPE", "normal"])?;
        for _ in 0..2 {
            killed += sleeper.read()?.integer().unwrap_or(0).unsigned_abs();
        }
        sleep(Duration::from_millis(30));
    }
    Ok(killed)
}
