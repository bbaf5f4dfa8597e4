//! slipring is there before Redis and Sentinel are: it listens, holds, and serves when they appear.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use testkit::{Cluster, Flavor, on_each_server};

use super::support::{ask, says, slipring, words};

on_each_server! {
    fn what_is_sent_early_is_answered_late(flavor: Flavor) -> Result<()> {
        // Its ports are known, and nobody listens there.
        let cluster = Cluster::builder(flavor).start()?;
        let nodes = &cluster.shard().nodes;
        cluster.sentinels.iter().for_each(testkit::Sentinel::kill);
        nodes.iter().for_each(testkit::Node::kill);

        let proxy = slipring().sentinels(&cluster).flag("--failover-hold-timeout", "60s").spawn()?;
        proxy.process().wait_until("/healthz", || {
            ensure!(proxy.get("/healthz")?.0 == 200, "not alive");
            Ok(())
        })?;
        let (status, report) = proxy.get("/readyz")?;
        ensure!(status == 503, "ready for what? {report}");
        let early = ["SET early yes", "RPUSH early:list a", "BLPOP early:list 0", "SUBSCRIBE early:channel", "SELECT 3", "WATCH early", "CLIENT ID"];
        let mut clients = Vec::new();
        for line in early {
            let mut client = proxy.client()?;
            client.send(&words(line))?;
            clients.push(client);
        }
        let mut third = proxy.client()?;
        third.send(&["HELLO", "3"])?;
        let mut client = proxy.client()?;
        says(&mut client, "PING", "PONG")?;
        proxy.process().wait_until("the commands to be held", || {
            let held = proxy.metric("slipring_held_commands", &[])?;
            ensure!(held >= 2.0, "{held} are held");
            Ok(())
        })?;
        // Nodes that no sentinel vouches for are nobody to talk to.
        for node in nodes {
            node.restart()?;
        }
        sleep(Duration::from_millis(500));
        for client in &mut clients {
            ensure!(!client.is_over()?, "a client was sent away");
        }
        for sentinel in &cluster.sentinels {
            sentinel.restart()?;
        }
        let answers = clients.iter_mut().map(|client| Ok(client.read()?)).collect::<Result<Vec<_>>>()?;
        for (line, answer) in early.iter().zip(&answers) {
            ensure!(answer.error().is_none(), "{line}: {answer:?}");
        }
        ensure!(third.read()?.error().is_none(), "HELLO 3");
        says(&mut client, "GET early", "yes")?;
        let held = cluster.primary()?.command(&["GET", "early"])?;
        ensure!(held.text() == Some("yes"), "{held:?}");
        proxy.wait_ready()
    }

    /// A wrong name is told where an operator looks, and put right without a restart.
    fn a_master_that_nobody_knows_is_named(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor).nodes(2).sentinels(1).start()?;
        let proxy = slipring()
            .sentinels(&cluster)
            .flag("--master", "latecomer")
            .flag("--failover-hold-timeout", "1s")
            .spawn()?;
        proxy.process().wait_until("/readyz to name the master", || {
            let (status, report) = proxy.get("/readyz")?;
            ensure!(status == 503 && report.contains("latecomer"), "{status}: {report}");
            ensure!(proxy.process().log().contains("latecomer"), "the log does not name it");
            Ok(())
        })?;
        let mut client = proxy.client()?;
        let refused = ask(&mut client, "SET key value")?;
        ensure!(refused.error().is_some_and(|error| error.starts_with("MASTERDOWN")), "{refused:?}");
        let port = cluster.shard().nodes[0].port().to_string();
        cluster.sentinels[0].command(&["SENTINEL", "MONITOR", "latecomer", "127.0.0.1", &port, "1"])?;
        proxy.wait_ready()?;
        says(&mut client, "SET key value", "OK")
    }
}
