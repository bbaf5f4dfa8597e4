//! Two masters behind one process, each on a port of its own.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use testkit::{Client, Flavor, Load, Reply, on_each_server};

use super::support::{PATIENCE, ask, kept, says, slipring, steady};

on_each_server! {
    fn each_port_has_its_own(flavor: Flavor) -> Result<()> {
        let cluster = steady(flavor).masters(&["users", "carts"]).nodes(2).start()?;
        let proxy = slipring().sentinels(&cluster).master("users").master("carts").start()?;
        let (users, carts) = (proxy.address_of("users"), proxy.address_of("carts"));
        for (address, name) in [(users, "users"), (carts, "carts")] {
            let mut client = Client::connect(address)?;
            says(&mut client, &format!("SET whose {name}"), "OK")?;
            let held = cluster.primary_of(cluster.shard_of(name))?.command(&["GET", "whose"])?;
            ensure!(held.text() == Some(name), "{name} holds {held:?}");
            ensure!(ask(&mut client, "GET other")? == Reply::Null, "not empty");
        }

        // One fails over; the other does not even pause.
        let moving = Load::builder(users).clients(12).start()?;
        let resting = Load::builder(carts).clients(12).start()?;
        sleep(Duration::from_millis(700));
        let shard = cluster.shard_of("users");
        let old = cluster.primary_of(shard)?.port();
        let (promoted, at) = shard.promotion_during(old, PATIENCE, || cluster.failover_planned_of(shard))?;
        sleep(Duration::from_secs(1));
        let (moved, rested) = (moving.finish(), resting.finish());
        let untouched = cluster.primary_of(cluster.shard_of("carts"))?;
        // The holds are those of the first master.
        for (history, primary, holds) in [(&moved, promoted, proxy.holds()?), (&rested, untouched, vec![])] {
            let verdict = history.verify(&mut primary.client()?)?;
            kept(history, &verdict, &holds)?;
            let all = history.phase(&verdict, history.started, history.ended);
            ensure!(all.errors.is_empty() && all.unknown.is_empty() && all.dropped == 0, "{all:?}");
            ensure!(history.phase(&verdict, at, history.ended).acknowledged_writes > 50, "{all:?}");
        }
        for (name, primary) in [("users", promoted), ("carts", untouched)] {
            let labels = [&format!("master=\"{name}\"")[..], &format!("address=\"{}\"", primary.address())];
            ensure!(proxy.metric("slipring_primary_info", &labels)? == 1.0, "{}", proxy.metrics()?);
            let failovers = proxy.metric("slipring_failovers_total", &labels[..1])?;
            ensure!(failovers == f64::from(u8::from(name == "users")), "{failovers} failovers of {name}");
        }
        Ok(())
    }
}
