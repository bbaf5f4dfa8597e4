//! A primary freezes and comes back: SIGSTOP, then SIGCONT.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testkit::load::Outcome;
use testkit::{Flavor, Load, on_each_server};

use super::support::{PATIENCE, before, breakable, delivered_once, kept, steady, writes_executed};
use super::transactions::{Move, Transactions};

on_each_server! {
    /// Frozen for less than Sentinel minds: everything waits, and nothing else happens.
    fn a_short_freeze_is_a_pause(flavor: Flavor) -> Result<()> {
        let cluster = steady(flavor).start()?;
        let proxy = before(&cluster)?;
        let primary = cluster.primary()?;
        let load = Load::builder(proxy.address()).start()?;
        let transactions = Transactions::start(&proxy)?;
        // The second one is past --node-timeout, so that slipring asks whether the node lives, and hears nothing.
        for frozen in [Duration::from_millis(400), Duration::from_millis(2500)] {
            sleep(Duration::from_millis(700));
            primary.stop()?;
            sleep(frozen);
            primary.cont()?;
        }
        sleep(Duration::from_millis(1500));
        let history = load.finish();
        ensure!(transactions.finish(primary, Move { broke: None, promoted: history.ended })? == 0, "transactions of unknown outcome");
        let verdict = history.verify(&mut primary.client()?)?;
        ensure!(verdict.is_clean(), "{verdict:?}");
        let all = history.phase(&verdict, history.started, history.ended);
        ensure!(all.errors.is_empty() && all.unknown.is_empty(), "{all:?}");
        ensure!(all.dropped == 0 && all.stale == 0, "{all:?}");
        ensure!(all.longest_pause > Duration::from_millis(2000), "it never froze: {all:?}");
        ensure!(cluster.primary()?.port() == primary.port(), "a failover got in between");
        Ok(())
    }

    /// Frozen until it has been replaced: what it does when it wakes, nobody is told.
    fn the_former_primary_acknowledges_nothing(flavor: Flavor) -> Result<()> {
        let cluster = breakable(flavor)?;
        let proxy = before(&cluster)?;
        let old = cluster.primary()?;
        let load = Load::builder(proxy.address()).clients(32).start()?;
        let transactions = Transactions::start(&proxy)?;
        sleep(Duration::from_secs(1));

        let mut broke = [Instant::now(); 2];
        let (_, at) = cluster
            .shard()
            .promotion_during(old.port(), PATIENCE, || {
                broke[0] = Instant::now();
                old.stop()?;
                broke[1] = Instant::now();
                Ok(())
            })?;
        sleep(Duration::from_millis(700));
        let thawed = Instant::now();
        old.cont()?;
        // It wakes with requests in its sockets' buffers and executes them as the primary that it thinks it is; no more come.
        sleep(Duration::from_millis(500));
        let executed = writes_executed(old)?;
        sleep(Duration::from_millis(2500));
        let more = writes_executed(old)? - executed;
        ensure!(more == 0 || old.role()? == "slave", "it has executed {more} writes since");
        let history = load.finish();
        let moved = Move { broke: Some(broke), promoted: at };

        let last = cluster.primary()?;
        let verdict = history.verify(&mut last.client()?)?;
        kept(&history, &verdict, &proxy.holds()?)?;
        for lost in verdict.lost.iter().map(|&index| &history.operations[index]) {
            moved.must_have_taken(lost)?;
        }
        delivered_once(&history, &verdict, moved)?;
        transactions.finish(last, moved)?;
        let all = history.phase(&verdict, history.started, history.ended);
        ensure!(all.errors.is_empty() && all.dropped == 0, "{all:?}");
        ensure!(all.unknown_count() > 0, "nothing was under way: it proves nothing");
        for operation in history.operations.iter().filter(|one| matches!(one.outcome, Outcome::Unknown(_))) {
            ensure!(operation.sent <= at, "in doubt although sent after the promotion: {operation:?}");
        }
        for (phase, from, to) in [("before", at, thawed), ("after", thawed, history.ended)] {
            let phase_of = history.phase(&verdict, from, to);
            ensure!(phase_of.acknowledged_writes > 100, "{phase} it woke: {phase_of:?}");
        }
        let back = history.first_write_after(&verdict, at).map(|first| first - at);
        eprintln!("{flavor}: {} unknown, back {back:?} after the promotion", all.unknown_count());
        ensure!(back.is_some_and(|back| back < Duration::from_secs(5)), "back after {back:?}");
        Ok(())
    }
}
