//! Replication through slipring: a dump, and a replica that follows whichever node is the primary.

use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use testkit::wait::wait_for;
use testkit::{Cluster, Flavor, Node, Proxy, on_each_server};

use super::support::{PATIENCE, before, counts, says};

on_each_server! {
    fn a_replica_follows_through_slipring(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor).nodes(2).sentinels(3).start()?;
        let proxy = before(&cluster)?;
        let mut client = proxy.client()?;
        for number in 0..1_000 {
            says(&mut client, &format!("SET k:{number} {}", "v".repeat(100)), "OK")?;
        }
        dump(&proxy)?;
        let replica = Node::builder(flavor.server()?)
            .config(&format!("replicaof 127.0.0.1 {}", proxy.address().port()))
            .config("repl-diskless-sync-delay 0")
            // Sentinel must not take it for one of its own.
            .config("replica-announced no")
            .start()?;
        follows(&proxy, &replica, 1)?;
        let old = cluster.primary()?.port();
        cluster.failover_planned()?;
        cluster.wait_switched(cluster.shard(), old, PATIENCE)?;
        follows(&proxy, &replica, 2)?;
        let keys = replica.client()?.command(&["DBSIZE"])?;
        ensure!(keys.integer() == Some(1_001), "{keys:?}");
        Ok(())
    }
}

/// What is written through slipring arrives at the replica.
fn follows(proxy: &Proxy, replica: &Node, value: i64) -> Result<()> {
    counts(&mut proxy.client()?, "INCR counter", value)?;
    let mut reader = replica.client()?;
    wait_for("the write at the replica", PATIENCE, || {
        let read = reader.command(&["GET", "counter"])?;
        ensure!(read.text() == Some(&value.to_string()), "{read:?}");
        Ok(())
    })
}

fn dump(proxy: &Proxy) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("dump.rdb");
    let dumped = Command::new("redis-cli")
        .args(["-p", &proxy.address().port().to_string(), "--rdb"])
        .arg(&file)
        .stdin(Stdio::null())
        .output()?;
    ensure!(dumped.status.success(), "{dumped:?}");
    let bytes = std::fs::read(&file)?;
    ensure!(
        bytes.starts_with(b"REDIS00") || bytes.starts_with(b"VALKEY"),
        "no dump"
    );
    ensure!(bytes.len() > 5_000, "a dump of {} bytes", bytes.len());
    Ok(())
}
