//! Reads from replicas: the nodes' own statistics say where each went.

use std::time::Duration;

use anyhow::{Result, ensure};
use testkit::{Client, Cluster, Flavor, Node, Proxy, on_each_server};

use super::support::{ask, command_stats, says, slipring, words};

const CLIENTS: usize = 24;
const READS_EACH: usize = 5;
const READS: u64 = (CLIENTS * READS_EACH) as u64;

on_each_server! {
    fn reads_go_where_the_policy_says(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor).down_after(Duration::from_secs(60)).start()?;
        let primary = cluster.primary()?;
        let replicas = cluster.shard().replicas();
        primary.command(&["SET", "key", "value"])?;
        let start = |policy: &str| slipring().sentinels(&cluster).flag("--read-policy", policy).start();
        let proxies = ["primary", "prefer-primary", "replica", "prefer-replica"].map(start);
        let [of_primary, of_prefer_primary, of_replica, of_prefer_replica] = proxies;
        let (of_primary, of_prefer_primary) = (of_primary?, of_prefer_primary?);
        let (of_replica, of_prefer_replica) = (of_replica?, of_prefer_replica?);
        let two_doors = slipring().sentinels(&cluster).replica_listener(None).start()?;
        for proxy in [&of_primary, &of_prefer_primary, &of_replica, &of_prefer_replica, &two_doors] {
            proxy.process().wait_until("both replicas", || {
                let usable = proxy.metric("slipring_replica_usable", &[])?;
                ensure!(usable == 2.0, "{usable} are usable");
                Ok(())
            })?;
        }
        let nodes = [primary, replicas[0], replicas[1]];
        for (what, read) in [
            ("primary", reads(&nodes, || of_primary.client())?),
            ("prefer-primary", reads(&nodes, || of_prefer_primary.client())?),
            ("--listen", reads(&nodes, || two_doors.client())?),
        ] {
            ensure!(read == [READS, 0, 0], "{what}: {read:?}");
        }
        for (what, read) in [
            ("replica", reads(&nodes, || of_replica.client())?),
            ("prefer-replica", reads(&nodes, || of_prefer_replica.client())?),
            ("--replica-listen", reads(&nodes, || Ok(Client::connect(two_doors.replica_address())?))?),
        ] {
            let shared = read[1] >= READS / 4 && read[2] >= READS / 4;
            ensure!(read[0] == 0 && shared && read[1] + read[2] == READS, "{what}: {read:?}");
        }
        for proxy in [&of_primary, &of_prefer_primary, &of_replica, &of_prefer_replica] {
            what_is_no_plain_read(proxy, primary)?;
        }
        what_is_no_plain_read_at(&mut Client::connect(two_doors.replica_address())?, primary)?;

        // One replica goes: the other reads for it. Both go: the primary, where it may.
        let mut kept = [of_replica.client()?, of_prefer_replica.client()?];
        for gone in [1, 2] {
            nodes[gone].kill();
            let readers = if gone == 1 { &mut kept[..] } else { &mut kept[1..] };
            for client in readers {
                for _ in 0..10 {
                    says(client, "GET key", "value")?;
                }
            }
        }
        // Alone, the policy `replica` waits.
        kept[0].send(&["GET", "key"])?;
        nodes[1].restart()?;
        ensure!(kept[0].read()?.text() == Some("value"), "a read that waited for a replica");

        // The primary goes, and Sentinel has not noticed: replicas read on.
        nodes[1].wait_in_sync()?;
        for proxy in [&of_prefer_primary, &of_replica, &of_prefer_replica] {
            proxy.process().wait_until("the replica that came back", || {
                ensure!(proxy.metric("slipring_replica_usable", &[])? == 1.0, "not usable");
                Ok(())
            })?;
        }
        let mut client = of_prefer_primary.client()?;
        says(&mut client, "GET key", "value")?;
        primary.kill();
        for client in [&mut client].into_iter().chain(&mut kept) {
            for _ in 0..10 {
                says(client, "GET key", "value")?;
            }
        }
        Ok(())
    }
}

on_each_server! {
    /// Without their primary replicas are read for as long as --max-replica-lag allows, and again once they follow one.
    fn a_replica_that_lost_its_primary_is_not_read_for_ever(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor).down_after(Duration::from_secs(60)).start()?;
        let primary = cluster.primary()?;
        primary.command(&["SET", "key", "value"])?;
        let proxy = slipring()
            .sentinels(&cluster)
            .flag("--read-policy", "replica")
            .flag("--max-replica-lag", "3s")
            .start()?;
        let usable = |count: f64| {
            proxy.process().wait_until("the replicas that may be read", || {
                let usable = proxy.metric("slipring_replica_usable", &[])?;
                ensure!(usable == count, "{usable} are usable");
                Ok(())
            })
        };
        usable(2.0)?;
        let mut client = proxy.client()?;
        primary.kill();
        says(&mut client, "GET key", "value")?;
        usable(0.0)?;
        client.send(&["GET", "key"])?;
        primary.restart()?;
        // It comes back without its data, and has its replicas forget theirs.
        ensure!(client.read()? == testkit::Reply::Null, "a read that waited for a replica");
        usable(2.0)?;
        proxy.process().wait_until("the warning", || {
            let log = proxy.process().log();
            ensure!(log.contains("it may have come back without its data"), "no warning: {log}");
            Ok(())
        })
    }
}

/// How many of so many GETs each node has executed.
fn reads(nodes: &[&Node; 3], connect: impl Fn() -> Result<Client>) -> Result<[u64; 3]> {
    let gets = |node: &Node| -> Result<u64> { Ok(command_stats(node)?.get("get").copied().unwrap_or(0)) };
    let before = nodes.map(gets);
    let mut clients = (0..CLIENTS).map(|_| connect()).collect::<Result<Vec<_>>>()?;
    for client in &mut clients {
        for _ in 0..READS_EACH {
            says(client, "GET key", "value")?;
        }
    }
    let mut read = [0; 3];
    for ((read, before), node) in read.iter_mut().zip(before).zip(nodes) {
        *read = gets(node)? - before?;
    }
    Ok(read)
}

fn what_is_no_plain_read(proxy: &Proxy, primary: &Node) -> Result<()> {
    what_is_no_plain_read_at(&mut proxy.client()?, primary)
}

/// Writes, scripts and transactions go to the primary, under every policy.
fn what_is_no_plain_read_at(client: &mut Client, primary: &Node) -> Result<()> {
    let before = command_stats(primary)?;
    for line in [
        "SET other value",
        "EVAL return(redis.call('GET','key')) 0",
        "EVAL_RO return(1) 0",
        "BLPOP nothing 0.01",
    ] {
        ensure!(ask(client, line)?.error().is_none(), "{line}");
    }
    client.send_raw(b"MULTI\r\nSTRLEN key\r\nEXEC\r\n")?;
    for _ in 0..3 {
        ensure!(client.read()?.error().is_none(), "MULTI");
    }
    for line in ["WATCH key", "HLEN nothing", "MULTI", "STRLEN key", "EXEC"] {
        ensure!(client.command(&words(line))?.error().is_none(), "{line}");
    }
    let after = command_stats(primary)?;
    for (name, times) in [
        ("set", 1),
        ("eval", 1),
        ("eval_ro", 1),
        ("blpop", 1),
        ("strlen", 2),
        ("hlen", 1),
        ("exec", 2),
    ] {
        let of = |stats: &std::collections::BTreeMap<String, u64>| stats.get(name).copied().unwrap_or(0);
        ensure!(of(&after) == of(&before) + times, "{name} was executed elsewhere");
    }
    Ok(())
}
