//! The load and its verdict against real servers: clean where nothing happens, and damning where writes are thrown away.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testkit::load::Kind;
use testkit::{Cluster, Flavor, Load, Node, on_each_server};

on_each_server! {
    fn a_node_left_alone_loses_nothing(flavor: Flavor) -> Result<()> {
        let node = Node::builder(flavor.server()?).start()?;
        let load = Load::builder(node.address()).start()?;
        sleep(Duration::from_secs(2));
        let live = load.live();
        let history = load.finish();
        let verdict = history.verify(&mut node.client()?)?;
        let phase = history.phase(&verdict, history.started, history.ended);
        ensure!(verdict.is_clean() && phase.errors.is_empty() && phase.dropped == 0 && phase.stale == 0, "{phase:?}");
        ensure!(live.operations > 1000 && phase.operations as u64 >= live.operations, "{live:?} {phase:?}");
        ensure!(phase.longest_pause < Duration::from_millis(500), "{phase:?}");
        for kind in [Kind::Set, Kind::Get, Kind::Push, Kind::Count, Kind::Transaction, Kind::Dequeue, Kind::Receive] {
            ensure!(history.operations.iter().filter(|operation| operation.kind == kind).count() > 10, "few {kind:?}");
        }
        Ok(())
    }

    fn clients_without_a_proxy_lose_writes_in_a_planned_failover(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor).start()?;
        let old = cluster.primary()?;
        let load = Load::builder(old.address()).start()?;
        sleep(Duration::from_secs(1));
        let (promoted, at) = cluster
            .shard()
            .promotion_during(old.port(), Duration::from_secs(20), || cluster.failover_planned())?;
        sleep(Duration::from_secs(2));
        let history = load.finish();
        let verdict = history.verify(&mut promoted.client()?)?;
        let phase = history.phase(&verdict, at, history.ended);
        ensure!(phase.lost > 100 && phase.lost * 2 > phase.acknowledged_writes, "{phase:?}");
        ensure!(phase.longest_pause > Duration::from_secs(1), "{phase:?}");
        ensure!(history.first_write_after(&verdict, at).is_none());
        Ok(())
    }

    fn clients_without_a_proxy_are_dropped_by_a_kill(flavor: Flavor) -> Result<()> {
        let node = Node::builder(flavor.server()?).start()?;
        let load = Load::builder(node.address()).clients(8).mixed_only().start()?;
        sleep(Duration::from_millis(500));
        let killed = Instant::now();
        node.kill();
        let gone = Instant::now();
        node.restart()?;
        sleep(Duration::from_millis(500));
        let history = load.finish();
        let verdict = history.verify(&mut node.client()?)?;
        let before = history.phase(&verdict, history.started, killed);
        ensure!(before.lost > 0 && before.lost == before.acknowledged_writes, "{before:?}");
        let dropped = history.phase(&verdict, killed, history.ended).dropped;
        let after = history.phase(&verdict, gone, history.ended);
        ensure!(dropped >= 8 && after.lost == 0 && after.acknowledged_writes > 0, "{dropped} {after:?}");
        Ok(())
    }
}
