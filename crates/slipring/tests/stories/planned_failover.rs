//! SENTINEL FAILOVER under load: clients see a pause, and nothing else. What Redis had not replicated when commands began
//! to wait may be lost; PROXY FAILOVER (`handover.rs`) loses nothing.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use testkit::load::Hold;
use testkit::{Flavor, Load, on_each_server};

use super::bystanders::{self, Bystanders};
use super::record::{counts_who_waited, told_failover};
use super::support::{Listener, PATIENCE, before, delivered_once, kept, steady, writes_executed};
use super::transactions::{Move, Transactions};

on_each_server! {
    fn nothing_is_lost_and_nobody_is_told(flavor: Flavor) -> Result<()> {
        let cluster = steady(flavor).start()?;
        let proxy = before(&cluster)?;
        let old = cluster.primary()?;
        let bystanders = Bystanders::start(&proxy)?;
        let load = Load::builder(proxy.address()).clients(32).start()?;
        let transactions = Transactions::start(&proxy)?;
        let listeners = [Listener::start(&proxy, false)?, Listener::start(&proxy, true)?];
        sleep(Duration::from_secs(1));

        let (_, at) = cluster
            .shard()
            .promotion_during(old.port(), PATIENCE, || cluster.failover_planned())?;
        // By now the others know, too; the old primary still believes that it is one for about ten seconds.
        cluster.wait_switched(cluster.shard(), old.port(), PATIENCE)?;
        let executed = writes_executed(old)?;
        sleep(Duration::from_secs(2));
        let more = writes_executed(old)? - executed;
        ensure!(more == 0 || old.role()? == "slave", "the old primary has executed {more} writes since");

        let history = load.finish();
        let last = cluster.primary()?;
        for listener in listeners {
            listener.finish(&proxy, &history)?;
        }
        let told = told_failover(&proxy, "planned")?;
        let verdict = history.verify(&mut last.client()?)?;
        let holds = proxy.holds()?;
        kept(&history, &verdict, &holds)?;
        let moved = Move { broke: holds.first().map(Hold::under_way), promoted: at };
        delivered_once(&history, &verdict, moved)?;
        ensure!(transactions.finish(last, moved)? == 0, "transactions of unknown outcome");
        bystanders.finish(bystanders::Node::Demoted)?;
        let all = history.phase(&verdict, history.started, history.ended);
        ensure!(all.errors.is_empty() && all.unknown.is_empty(), "{all:?}");
        ensure!(all.dropped == 0, "{all:?}");
        let after = history.phase(&verdict, at, history.ended);
        ensure!(after.acknowledged_writes > 200, "{after:?}");
        // Measured: far below half a second. Who waits until the old primary is demoted waits ten.
        ensure!(all.longest_pause < Duration::from_secs(8), "{all:?}");
        let first = history.first_write_after(&verdict, at).map(|first| first - at);
        eprintln!("{flavor}: longest pause {:?}, first write {first:?} after the promotion", all.longest_pause);
        counts_who_waited(&told, &history)?;
        ensure!(told["outcomes_unknown"] == 0 && told["connections_cut"].as_u64() > Some(0), "{told:#}");
        for counter in ["slipring_unknown_outcomes_total", "slipring_session_panics_total"] {
            ensure!(proxy.metric(counter, &[])? == 0.0, "{counter}");
        }
        Ok(())
    }
}
