//! Sentinels go one by one: who is primary is known as long as nobody says otherwise.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use testkit::{Flavor, Load, on_each_server};

use super::support::{PATIENCE, before, kept, says, steady};

on_each_server! {
    fn a_blind_watcher_changes_nothing(flavor: Flavor) -> Result<()> {
        let cluster = steady(flavor).start()?;
        let proxy = before(&cluster)?;
        let load = Load::builder(proxy.address()).start()?;
        for sentinel in &cluster.sentinels {
            sleep(Duration::from_millis(500));
            sentinel.kill();
            says(&mut proxy.client()?, "PING", "PONG")?;
        }
        let watched = |count: f64| {
            proxy.process().wait_until("the count of sentinels", || {
                let up = proxy.metric("slipring_sentinels", &["state=\"watching\""])?;
                ensure!(up == count, "{up} sentinels are watched: {}", proxy.get("/readyz")?.1);
                Ok(())
            })
        };
        watched(0.0)?;
        sleep(Duration::from_secs(1));
        let (status, report) = proxy.get("/readyz")?;
        ensure!(status == 200, "not ready without sentinels: {report}");
        says(&mut proxy.client()?, "SET blind yes", "OK")?;

        // Back, one of them frozen: a majority is enough.
        for sentinel in &cluster.sentinels {
            sentinel.restart()?;
        }
        cluster.wait_ready()?;
        watched(3.0)?;
        cluster.sentinels[2].stop()?;
        // The first node: nothing has moved yet.
        let old = cluster.shard().nodes[0].port();
        let (promoted, at) = cluster
            .shard()
            .promotion_during(old, PATIENCE, || cluster.failover_planned())?;
        sleep(Duration::from_secs(1));
        cluster.sentinels[2].cont()?;
        sleep(Duration::from_secs(1));
        let history = load.finish();
        let verdict = history.verify(&mut promoted.client()?)?;
        kept(&history, &verdict, &proxy.holds()?)?;
        let all = history.phase(&verdict, history.started, history.ended);
        ensure!(all.errors.is_empty() && all.unknown.is_empty(), "{all:?}");
        ensure!(all.dropped == 0, "{all:?}");
        ensure!(all.longest_pause < Duration::from_secs(8), "{all:?}");
        ensure!(history.phase(&verdict, at, history.ended).acknowledged_writes > 100, "{all:?}");
        Ok(())
    }
}
