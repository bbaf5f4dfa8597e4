//! What a node knows and its successor does not: scripts, the cursors of scans, who monitors.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use testkit::{Client, Cluster, Flavor, on_each_server};

use super::support::{PATIENCE, ask, before, counts, monitors, refuses, says, steady};

/// All that a scan finds from `cursor` on, and the cursor after so many steps.
fn scan(
    client: &mut Client,
    command: &[&str],
    mut cursor: String,
    steps: usize,
    found: &mut BTreeSet<String>,
) -> Result<String> {
    for _ in 0..steps {
        let mut words = command.to_vec();
        words.insert(if command[0] == "SCAN" { 1 } else { 2 }, &cursor);
        let reply = client.command(&words)?;
        let [next, part] = reply.items() else {
            anyhow::bail!("{words:?}: {reply:?}");
        };
        found.extend(part.texts());
        cursor = next.text().context("a cursor")?.to_owned();
        if cursor == "0" {
            break;
        }
    }
    Ok(cursor)
}

fn failover(cluster: &Cluster) -> Result<()> {
    let old = cluster.primary()?.port();
    cluster.failover_planned()?;
    cluster.wait_switched(cluster.shard(), old, PATIENCE)?;
    Ok(())
}

fn loaded(client: &mut Client, text: &str) -> Result<String> {
    let digest = client.command(&["SCRIPT", "LOAD", text])?;
    Ok(digest.text().with_context(|| format!("{digest:?}"))?.to_owned())
}

on_each_server! {
    fn scripts_scans_and_monitors_survive_a_move(flavor: Flavor) -> Result<()> {
        let cluster = steady(flavor).start()?;
        let proxy = before(&cluster)?;
        let mut client = proxy.client()?;

        // What only the node was told stays between the client and the node.
        let unseen = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";
        refuses(&mut client, &format!("EVALSHA {unseen} 0"), "NOSCRIPT")?;
        let mut digests = Vec::new();
        for number in 1..=6 {
            let text = format!("return redis.call('INCRBY', KEYS[1], {number})");
            if number % 2 == 0 {
                digests.push(loaded(&mut client, &text)?);
            } else {
                ensure!(client.command(&["EVAL", &text, "1", "warm"])?.integer().is_some());
                digests.push(loaded(&mut cluster.primary()?.client()?, &text)?);
            }
        }
        let one = |number: usize| format!("EVALSHA {} 1 n", digests[number - 1]);
        let mut subscriber = proxy.client()?;
        ask(&mut subscriber, "HELLO 3")?;
        ask(&mut subscriber, "SUBSCRIBE c")?;
        let seventh = "return redis.call('INCRBY', KEYS[1], 70)";
        ensure!(subscriber.command(&["EVAL", seventh, "1", "warm"])?.integer().is_some());
        let seventh = loaded(&mut cluster.primary()?.client()?, seventh)?;
        let mut transaction = proxy.client()?;
        says(&mut transaction, "MULTI", "OK")?;
        says(&mut transaction, &one(1), "QUEUED")?;

        for number in 0..2000 {
            client.send(&["SET", &format!("key:{number}"), "v"])?;
            client.send(&["HSET", "hash", &format!("field:{number}"), "v"])?;
        }
        for _ in 0..4000 {
            ensure!(client.read()?.error().is_none());
        }
        let (mut keys, mut fields) = (BTreeSet::new(), BTreeSet::new());
        let (of_keys, of_fields) = (["SCAN", "COUNT", "20", "MATCH", "key:*"], ["HSCAN", "hash", "COUNT", "20"]);
        let key_cursor = scan(&mut client, &of_keys, "0".to_owned(), 50, &mut keys)?;
        let field_cursor = scan(&mut client, &of_fields, "0".to_owned(), 50, &mut fields)?;
        ensure!(keys.len() > 500 && keys.len() < 1500, "{}", keys.len());

        let mut monitor = proxy.client()?;
        says(&mut monitor, "MONITOR", "OK")?;

        failover(&cluster)?;

        // In a pipeline, between writes: each in its order.
        let pipeline: Vec<Vec<String>> = [one(2), "SET n 10".to_owned(), one(3), "INCR n".to_owned()]
            .iter()
            .map(|line| line.split(' ').map(str::to_owned).collect())
            .collect();
        let replies = client.pipeline(&pipeline)?;
        ensure!(replies[2].integer() == Some(13) && replies[3].integer() == Some(14), "{replies:?}");
        // A transaction that was open.
        let executed = ask(&mut transaction, "EXEC")?;
        ensure!(executed.items().len() == 1 && executed.items()[0].integer() == Some(15), "{executed:?}");
        // One that comes whole.
        let block: Vec<Vec<String>> = ["MULTI", &one(4), &one(5), "EXEC"]
            .iter()
            .map(|line| line.split(' ').map(str::to_owned).collect())
            .collect();
        let replies = client.pipeline(&block)?;
        ensure!(replies[3].items().iter().map(|reply| reply.integer()).eq([Some(19), Some(24)]), "{replies:?}");
        // Of a subscriber.
        counts(&mut subscriber, &format!("EVALSHA {seventh} 1 other"), 70)?;
        // Watching, on a lease.
        says(&mut client, "WATCH w", "OK")?;
        ensure!(ask(&mut client, &one(6))?.integer() == Some(30));
        says(&mut client, "UNWATCH", "OK")?;

        scan(&mut client, &of_keys, key_cursor, 5000, &mut keys)?;
        scan(&mut client, &of_fields, field_cursor, 5000, &mut fields)?;
        ensure!(keys.len() == 2000, "{} of 2000 keys", keys.len());
        let fields = fields.iter().filter(|field| field.starts_with("field:")).count();
        ensure!(fields == 2000, "{fields} of 2000 fields");

        proxy.process().wait_until("the monitor to be on the new primary", || {
            let clients = ask(&mut cluster.primary()?.client()?, "CLIENT LIST")?;
            ensure!(clients.text().is_some_and(|lines| lines.contains(" flags=O ")), "{clients:?}");
            Ok(())
        })?;
        says(&mut client, "SET monitored value", "OK")?;
        monitors(&mut monitor, r#""SET" "monitored" "value""#)?;

        refuses(&mut client, &format!("EVALSHA {unseen} 0"), "NOSCRIPT")?;
        says(&mut cluster.primary()?.client()?, "SCRIPT FLUSH", "OK")?;
        refuses(&mut client, &one(2), "NOSCRIPT")?;
        says(&mut proxy.client()?, "SCRIPT FLUSH", "OK")?;
        for number in 1..=6 {
            refuses(&mut client, &one(number), "NOSCRIPT")?;
        }
        Ok(())
    }
}
