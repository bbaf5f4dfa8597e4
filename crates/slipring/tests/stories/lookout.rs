//! Slow commands, hot keys, and spans of commands and failovers at a collector's stand-in.

use anyhow::{Result, ensure};
use testkit::{Cluster, Collector, Flavor, on_each_server};

use super::support::{ask, says, slipring};

on_each_server! {
    fn what_is_slow_hot_and_failed_over_is_told(flavor: Flavor) -> Result<()> {
        let collector = Collector::start()?;
        let cluster = Cluster::builder(flavor).nodes(2).start()?;
        let proxy = slipring()
            .sentinels(&cluster)
            .flag("--slowlog-threshold", "150ms")
            .flag("--sample-commands", "1")
            .flag("--otlp-endpoint", &collector.url())
            .start()?;
        let mut client = proxy.client()?;
        for _ in 0..20 {
            says(&mut client, "SET hot value", "OK")?;
        }
        says(&mut client, "DEBUG SLEEP 0.2", "OK")?;
        let slow = ask(&mut client, "PROXY SHOW SLOWLOG")?.texts().join("\n");
        ensure!(slow.contains("\"DEBUG\" \"SLEEP\" \"0.2\""), "{slow}");
        let hot = ask(&mut client, "PROXY SHOW HOTKEYS")?.texts().join("\n");
        ensure!(hot.contains("key=\"hot\""), "{hot}");

        collector.wait_for_words(&["slipring", "db.operation.name", "SET", "slipring.master", "mymaster"])?;
        cluster.failover_planned()?;
        let to = cluster.primary()?.address().to_string();
        collector.wait_for_words(&["failover", "slipring.failover.kind", "planned", "promoted", "hold", &to])?;
        Ok(())
    }
}
