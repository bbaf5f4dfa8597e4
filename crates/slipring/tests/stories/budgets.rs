//! Connections towards the node: few for many clients, one of its own for whoever needs one, and an end to those.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use testkit::{Client, Cluster, Flavor, Node, Proxy, on_each_server};

use super::support::{PATIENCE, ask, before, counts, refuses, same_answers, says, slipring};

/// Connections of the node that come from no sentinel, no replica and not from here.
fn connections(node: &Node) -> Result<usize> {
    let list = node.command(&["CLIENT", "LIST"])?;
    let list = list.text().context("a list")?;
    let ours =
        |line: &&str| line.contains(" name= ") && line.contains(" flags=N ") && !line.contains(" cmd=client");
    Ok(list.lines().filter(ours).count())
}

fn answer_within_patience(client: &mut Client) -> Result<testkit::Reply> {
    client.set_timeout(PATIENCE)?;
    Ok(client.read()?)
}

fn until_blocked(proxy: &Proxy, node: &Node, count: usize) -> Result<()> {
    proxy
        .process()
        .wait_until("the node's clients to be blocked", || {
            let blocked = node.info("blocked_clients")?;
            ensure!(blocked == count.to_string(), "{blocked} are");
            Ok(())
        })
}

/// The default of `--pool-size` is enough for a thousand; they are served in the order in which they came.
fn all_blocked_at_once(clients: &mut [Client], proxy: &Proxy, node: &Node) -> Result<()> {
    let mut watching = node.client()?;
    let command = testkit::client::encode(&["BLPOP", "queue", "0"]);
    for (number, client) in clients.iter_mut().enumerate() {
        client.send_raw(&command)?;
        let blocked = format!("blocked_clients:{}\r\n", number + 1);
        let until = Instant::now() + PATIENCE;
        while !ask(&mut watching, "INFO clients")?
            .text()
            .unwrap_or_default()
            .contains(&blocked)
        {
            ensure!(Instant::now() < until, "client {number} is not blocked");
        }
    }
    let elements: Vec<String> = (0..clients.len()).map(|number| number.to_string()).collect();
    let push: Vec<&str> = ["RPUSH", "queue"]
        .into_iter()
        .chain(elements.iter().map(String::as_str))
        .collect();
    proxy.client()?.command(&push)?;
    for (client, element) in clients.iter_mut().zip(&elements) {
        let popped = answer_within_patience(client)?;
        ensure!(
            popped.items()[1].text() == Some(element),
            "{popped:?} for the one that came as {element}"
        );
    }
    Ok(())
}

/// Each is a subscriber to the node, too, and gets every message in order.
fn all_on_one_channel(clients: &mut [Client], proxy: &Proxy, node: &Node) -> Result<()> {
    let command = testkit::client::encode(&["SUBSCRIBE", "news"]);
    for client in clients.iter_mut() {
        client.send_raw(&command)?;
    }
    for client in clients.iter_mut() {
        answer_within_patience(client)?;
    }
    let counted = node.command(&["PUBSUB", "NUMSUB", "news"])?;
    ensure!(
        counted.items()[1].integer() == Some(clients.len() as i64),
        "{counted:?}"
    );
    let mut publisher = proxy.client()?;
    for number in 0..10 {
        counts(
            &mut publisher,
            &format!("PUBLISH news {number}"),
            clients.len() as i64,
        )?;
    }
    for client in clients {
        for number in 0..10 {
            let message = answer_within_patience(client)?;
            ensure!(
                message.items()[2].text() == Some(&number.to_string()),
                "{message:?} in the place of {number}"
            );
        }
    }
    Ok(())
}

/// With `--share-subscriptions` the node counts one, and all hear it, in their own versions.
fn sharing_one_subscription(cluster: &Cluster) -> Result<()> {
    let proxy = slipring()
        .sentinels(cluster)
        .flag("--workers", "1")
        .env("SLIPRING_SHARE_SUBSCRIPTIONS", "true")
        .start()?;
    let mut clients = (0..100).map(|_| proxy.client()).collect::<Result<Vec<_>>>()?;
    for (number, client) in clients.iter_mut().enumerate() {
        if number % 2 == 1 {
            ask(client, "HELLO 3")?;
        }
        for line in ["SUBSCRIBE daily", "PSUBSCRIBE d?ily", "SSUBSCRIBE shard"] {
            ensure!(ask(client, line)?.items().len() == 3, "{line}");
        }
    }
    let mut publisher = proxy.client()?;
    ensure!(ask(&mut publisher, "PUBSUB NUMSUB daily")?.items()[1].integer() == Some(1));
    ensure!(ask(&mut publisher, "PUBSUB SHARDNUMSUB shard")?.items()[1].integer() == Some(1));
    counts(&mut publisher, "PUBSUB NUMPAT", 1)?;
    for (line, heard) in [("PUBLISH daily 1", 2), ("SPUBLISH shard 2", 1)] {
        counts(&mut publisher, line, heard)?;
    }
    let expected = [
        vec!["message", "daily", "1"],
        vec!["pmessage", "d?ily", "daily", "1"],
        vec!["smessage", "shard", "2"],
    ];
    for client in &mut clients {
        for words in &expected {
            let message = answer_within_patience(client)?;
            ensure!(message.texts() == *words, "{message:?} in the place of {words:?}");
        }
    }
    // What takes a connection of its own takes the subscriptions along.
    ensure!(ask(&mut clients[1], "CLIENT TRACKING ON")?.text() == Some("OK"));
    counts(&mut publisher, "SPUBLISH shard 3", 2)?;
    for client in &mut clients {
        ensure!(answer_within_patience(client)?.texts() == ["smessage", "shard", "3"]);
    }
    Ok(())
}

const TIMEOUTS: &str = "
    BLPOP l -1
    BLPOP l abc
    BLPOP l 1e400
    BLPOP l 0.01
    BLPOP l 0x1p-6
    BRPOP l inf
    BRPOP l m 0.02
    BLMOVE l m LEFT RIGHT 0.01
    BLMOVE l m UP RIGHT 0.01
    BRPOPLPUSH l m 0.01
    BLMPOP 0.01 1 l LEFT
    BLMPOP -1 1 l LEFT
    BLMPOP 0.01 2 l LEFT
    BZPOPMIN z 0.01
    BZPOPMAX z nan
    BZMPOP 0.01 1 z MIN
    XREAD BLOCK 10 STREAMS s $
    XREAD BLOCK -1 STREAMS s $
    XREAD BLOCK 1.5 STREAMS s $
    XREADGROUP GROUP g c BLOCK 10 STREAMS s >
    XREADGROUP GROUP g c BLOCK abc STREAMS s >
    WAIT 0 -1
    WAIT abc 10
    WAIT 1
    MULTI
    BLPOP l 0
    XREAD BLOCK 0 STREAMS s $
    BZPOPMIN z 0
    EXEC
";

on_each_server! {
    fn timeouts_are_the_nodes_affair(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor).nodes(2).sentinels(1).start()?;
        let proxy = before(&cluster)?;
        for version in ["2", "3"] {
            let mut plain = cluster.primary()?.client()?;
            let mut proxied = proxy.client()?;
            for client in [&mut plain, &mut proxied] {
                ask(client, &format!("HELLO {version}"))?;
            }
            ask(&mut cluster.primary()?.client()?, "XGROUP CREATE s g $ MKSTREAM")?;
            same_answers(&mut plain, &mut proxied, TIMEOUTS)?;
        }
        Ok(())
    }

    fn blocked_clients_use_up_their_own_budget_alone(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor).nodes(1).sentinels(1).start()?;
        let proxy = slipring()
            .sentinels(&cluster)
            .flag("--workers", "1")
            .flag("--pool-size", "2")
            .flag("--lease-wait-timeout", "200ms")
            .start()?;
        let mut blocked = [proxy.client()?, proxy.client()?];
        for client in &mut blocked {
            client.send(&["BLPOP", "queue", "0"])?;
        }
        until_blocked(&proxy, cluster.primary()?, 2)?;
        let mut other = proxy.client()?;
        refuses(&mut other, "BLPOP queue 0", "ERR no free connection for blocking commands (--pool-size, --lease-wait-timeout)")?;
        says(&mut other, "WATCH w", "OK")?;
        says(&mut other, "MULTI", "OK")?;
        says(&mut other, "RPUSH queue a b", "QUEUED")?;
        ensure!(ask(&mut other, "EXEC")?.items().len() == 1);
        for client in &mut blocked {
            ensure!(answer_within_patience(client)?.items().len() == 2);
        }
        ensure!(ask(&mut other, "SUBSCRIBE c")?.items().len() == 3);
        ensure!(proxy.metric("slipring_leases_total", &["blocking"])? == 2.0);
        ensure!(proxy.metric("slipring_leases_total", &["transaction"])? == 1.0);
        ensure!(proxy.metric("slipring_leases_total", &["subscription"])? == 1.0);
        // The other budgets end, too, and a session that is refused goes on.
        let mut more = [proxy.client()?, proxy.client()?, proxy.client()?];
        ensure!(ask(&mut more[0], "SUBSCRIBE c")?.items().len() == 3);
        refuses(&mut more[1], "SUBSCRIBE c", "ERR no free connection for subscriptions and streams")?;
        let mut third = proxy.client()?;
        for client in &mut more[1..] {
            says(client, "WATCH w", "OK")?;
        }
        refuses(&mut third, "WATCH w", "ERR no free connection for transactions")?;
        says(&mut more[1], "UNWATCH", "OK")?;
        says(&mut third, "WATCH w", "OK")?;
        says(&mut third, "PING", "PONG")
    }

    fn a_thousand_clients_share_one_connection_a_worker(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor).nodes(1).sentinels(1).start()?;
        let proxy = slipring().sentinels(&cluster).flag("--workers", "2").flag("--spread-after", "1").start()?;
        let node = cluster.primary()?;
        let alone = connections(node)?;
        let mut clients = (0..1000).map(|_| proxy.client()).collect::<Result<Vec<_>>>()?;
        for client in &mut clients {
            client.send(&["INCR", "n"])?;
        }
        for client in &mut clients {
            ensure!(answer_within_patience(client)?.integer().is_some());
        }
        let sharing = connections(node)?;
        ensure!(sharing <= alone + 2, "{alone} connections without clients, {sharing} with a thousand");
        // Ten take one of their own, and give it back; then others take the same.
        for round in 0..3 {
            let ten = clients.iter_mut().skip(round * 10).take(10);
            let mut popping: Vec<_> = ten.collect();
            for client in &mut popping {
                client.send(&["BLPOP", "queue", "0"])?;
            }
            until_blocked(&proxy, node, 10)?;
            let blocked = connections(node)?;
            ensure!(blocked <= alone + 2 + 10 + round, "{blocked} in round {round}");
            node.command(&["RPUSH", "queue", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10"])?;
            for client in &mut popping {
                ensure!(answer_within_patience(client)?.items().len() == 2);
            }
        }
        counts(&mut clients[500], "INCR n", 1001)?;
        all_blocked_at_once(&mut clients, &proxy, node)?;
        all_on_one_channel(&mut clients, &proxy, node)?;
        drop(clients);
        sharing_one_subscription(&cluster)
    }

    fn wait_tells_the_truth_about_a_frozen_replica(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor)
            .nodes(2)
            .sentinels(1)
            .down_after(Duration::from_secs(60))
            .start()?;
        let proxy = before(&cluster)?;
        let mut writer = proxy.client()?;
        says(&mut writer, "SET k 1", "OK")?;
        counts(&mut writer, "WAIT 1 10000", 1)?;
        let primary = cluster.primary()?.port();
        let replica = cluster.shard().nodes.iter().find(|node| node.port() != primary).context("a replica")?;
        replica.stop()?;
        says(&mut writer, "SET k 2", "OK")?;
        counts(&mut writer, "WAIT 1 300", 0)?;
        counts(&mut writer, "WAIT 0 300", 0)?;
        replica.cont()?;
        counts(&mut writer, "WAIT 1 10000", 1)?;
        if flavor == Flavor::Redis {
            // Redis 7.0 does not know WAITAOF.
            return Ok(());
        }
        replica.command(&["CONFIG", "SET", "appendonly", "yes"])?;
        let synced = ask(&mut writer, "WAITAOF 0 1 20000")?;
        ensure!(synced.items()[1].integer() == Some(1), "{synced:?}");
        replica.stop()?;
        says(&mut writer, "SET k 3", "OK")?;
        let synced = ask(&mut writer, "WAITAOF 0 1 300")?;
        ensure!(synced.items()[1].integer() == Some(0), "{synced:?}");
        replica.cont()
    }
}
