//! `--deny-commands`: what an operator does not want sent reaches no node, in whatever mode the session is.

use anyhow::{Result, ensure};
use testkit::{Cluster, Flavor, on_each_server};

use super::support::{ask, command_stats, counts, refuses, says, slipring};

on_each_server! {
    fn denied_commands_reach_no_node(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor).nodes(1).sentinels(1).start()?;
        let proxy = slipring()
            .sentinels(&cluster)
            .flag("--deny-commands", "flushall,Config|Set,script,json.set,blpop")
            .start()?;
        let mut client = proxy.client()?;
        let refused = |name: &str| format!("NOPERM this proxy refuses the '{name}' command (--deny-commands)");
        says(&mut client, "SET k v", "OK")?;
        refuses(&mut client, "FLUSHALL", &refused("flushall"))?;
        refuses(&mut client, "config set maxmemory 1", &refused("config|set"))?;
        refuses(&mut client, "SCRIPT FLUSH", &refused("script|flush"))?;
        refuses(&mut client, "JSON.SET k $ 1", &refused("json.set"))?;
        refuses(&mut client, "BLPOP l 1", &refused("blpop"))?;
        ensure!(ask(&mut client, "CONFIG GET maxmemory")?.items().len() == 2);

        // A transaction that came whole, one talked step by step, one of a subscriber.
        let lines = [vec!["MULTI"], vec!["SET", "k", "w"], vec!["FLUSHALL"], vec!["EXEC"]];
        let replies = client.pipeline(&lines)?;
        ensure!(replies[2].error() == Some(&*refused("flushall")), "{replies:?}");
        ensure!(replies[3].error().is_some_and(|error| error.starts_with("EXECABORT")), "{replies:?}");
        for line in ["WATCH w", "HELLO 3", "SUBSCRIBE c"] {
            ask(&mut client, line)?;
            says(&mut client, "MULTI", "OK")?;
            says(&mut client, "SET k w", "QUEUED")?;
            refuses(&mut client, "FLUSHALL", &refused("flushall"))?;
            refuses(&mut client, "EXEC", "EXECABORT")?;
            says(&mut client, "GET k", "v")?;
        }
        counts(&mut proxy.client()?, "DBSIZE", 1)?;
        let stats = command_stats(&cluster.shards[0].nodes[0])?;
        for name in ["flushall", "config|set", "script|flush", "blpop"] {
            ensure!(!stats.contains_key(name), "{name}: {stats:?}");
        }
        Ok(())
    }
}
