//! kill -9 of the primary under load: what was in flight is reported as unknown, and nothing else goes wrong.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testkit::load::Outcome;
use testkit::{Flavor, Load, on_each_server};

use super::bystanders::{self, Bystanders};
use super::record::{counts_who_waited, told_failover};
use super::support::{PATIENCE, before, breakable, delivered_once, kept};
use super::transactions::{Move, Transactions};

on_each_server! {
    fn only_writes_in_flight_are_in_doubt(flavor: Flavor) -> Result<()> {
        let cluster = breakable(flavor)?;
        let proxy = before(&cluster)?;
        let old = cluster.primary()?;
        let bystanders = Bystanders::start(&proxy)?;
        let load = Load::builder(proxy.address()).clients(32).start()?;
        let transactions = Transactions::start(&proxy)?;
        sleep(Duration::from_secs(1));

        let mut broke = [Instant::now(); 2];
        let (_, at) = cluster.shard().promotion_during(old.port(), PATIENCE, || {
            broke[0] = Instant::now();
            old.kill();
            broke[1] = Instant::now();
            Ok(())
        })?;
        sleep(Duration::from_secs(2));

        let history = load.finish();
        let last = cluster.primary()?;
        let moved = Move { broke: Some(broke), promoted: at };
        let verdict = history.verify(&mut last.client()?)?;
        for lost in verdict.lost.iter().map(|&index| &history.operations[index]) {
            moved.must_have_taken(lost)?;
        }
        delivered_once(&history, &verdict, moved)?;
        let all = history.phase(&verdict, history.started, history.ended);
        ensure!(all.errors.is_empty() && all.dropped == 0, "{all:?}");
        kept(&history, &verdict, &proxy.holds()?)?;
        for operation in history.operations.iter().filter(|one| matches!(one.outcome, Outcome::Unknown(_))) {
            // Sent before the node was dead; none is doubted that was sent later.
            ensure!(operation.sent < broke[1] && operation.done >= broke[0], "{operation:?}");
        }
        let after = history.phase(&verdict, at, history.ended);
        ensure!(after.acknowledged_writes > 200, "{after:?}");
        let unknown = all.unknown_count() + transactions.finish(last, moved)?;
        bystanders.finish(bystanders::Node::Dead)?;
        let told = told_failover(&proxy, "crash")?;
        counts_who_waited(&told, &history)?;
        ensure!(told["outcomes_unknown"].as_u64() >= Some(unknown as u64), "{unknown} {told:#}");
        let back = history.first_write_after(&verdict, at).map(|first| first - at);
        eprintln!("{flavor}: {} unknown, {} lost, back {back:?} after the promotion", all.unknown_count(), all.lost);
        ensure!(back.is_some_and(|back| back < Duration::from_secs(5)), "back after {back:?}");
        Ok(())
    }
}
