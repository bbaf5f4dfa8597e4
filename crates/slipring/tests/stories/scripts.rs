//! Scripts: one that runs for ever does not take slipring with it.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testkit::{Client, Cluster, Flavor, Proxy, on_each_server};

use super::support::{PATIENCE, ask, counts, refuses, says, slipring};

const FOR_EVER: [&str; 3] = ["EVAL", "while true do end", "0"];
const WRITES_FOR_EVER: [&str; 4] = [
    "EVAL",
    "redis.call('SET', KEYS[1], 1) while true do end",
    "1",
    "written",
];

/// One node that says `-BUSY` early, and a sentinel that does not mind; all clients share one connection.
fn busy_cluster(flavor: Flavor) -> Result<(Cluster, Proxy)> {
    let cluster = Cluster::builder(flavor)
        .nodes(1)
        .sentinels(1)
        .down_after(Duration::from_secs(60))
        .node_config("lua-time-limit 20")
        .start()?;
    let proxy = slipring().sentinels(&cluster).flag("--workers", "1").start()?;
    Ok((cluster, proxy))
}

fn client_on_nine(proxy: &Proxy) -> Result<Client> {
    let mut client = proxy.client()?;
    says(&mut client, "SELECT 9", "OK")?;
    says(&mut client, "PING", "PONG")?;
    Ok(client)
}

/// Asks until the answer is another than `-BUSY`.
fn until_idle(client: &mut Client) -> Result<()> {
    let started = Instant::now();
    while ask(client, "PING")?.text() != Some("PONG") {
        ensure!(started.elapsed() < PATIENCE, "the node stays busy");
        sleep(Duration::from_millis(10));
    }
    Ok(())
}

on_each_server! {
    fn a_script_that_runs_for_ever_is_killed_through_slipring(flavor: Flavor) -> Result<()> {
        let (_cluster, proxy) = busy_cluster(flavor)?;
        let mut looping = client_on_nine(&proxy)?;
        let (mut queued, mut late) = (client_on_nine(&proxy)?, client_on_nine(&proxy)?);
        looping.send(&FOR_EVER)?;
        // On the same connection of slipring's, at once: the node does not read it until the script ends.
        queued.send(&["GET", "k"])?;
        sleep(Duration::from_millis(300));
        refuses(&mut late, "SET k v", "BUSY")?;
        refuses(&mut late, "PING", "BUSY")?;
        let got = queued.read()?;
        ensure!(got.error().is_some_and(|error| error.starts_with("BUSY")), "{got:?}");
        refuses(&mut proxy.client()?, "INCR n", "BUSY")?;
        says(&mut late, "SCRIPT KILL", "OK")?;
        let killed = looping.read()?;
        ensure!(killed.error().is_some_and(|error| error.contains("killed by user")), "{killed:?}");
        until_idle(&mut late)?;
        says(&mut looping, "SET k v", "OK")?;
        says(&mut queued, "GET k", "v")?;
        refuses(&mut late, "SCRIPT KILL", "NOTBUSY")
    }

    fn a_function_that_runs_for_ever_is_asked_after_and_killed(flavor: Flavor) -> Result<()> {
        let (_cluster, proxy) = busy_cluster(flavor)?;
        let (mut looping, mut late) = (client_on_nine(&proxy)?, client_on_nine(&proxy)?);
        let library = "#!lua name=loops\nredis.register_function('forever', function() while true do end end)";
        ensure!(looping.command(&["FUNCTION", "LOAD", library])?.text() == Some("loops"));
        looping.send(&["FCALL", "forever", "0"])?;
        sleep(Duration::from_millis(300));
        let stats = ask(&mut late, "FUNCTION STATS")?;
        let running = stats.items().get(1).map(testkit::Reply::texts).unwrap_or_default();
        ensure!(running.iter().any(|text| text == "forever"), "{stats:?}");
        refuses(&mut late, "GET k", "BUSY")?;
        says(&mut late, "FUNCTION KILL", "OK")?;
        ensure!(looping.read()?.error().is_some());
        until_idle(&mut late)
    }

    fn a_script_that_has_written_is_ended_by_shutdown_alone(flavor: Flavor) -> Result<()> {
        let (cluster, proxy) = busy_cluster(flavor)?;
        let (mut looping, mut late) = (client_on_nine(&proxy)?, client_on_nine(&proxy)?);
        looping.send(&WRITES_FOR_EVER)?;
        sleep(Duration::from_millis(300));
        refuses(&mut late, "SCRIPT KILL", "UNKILLABLE")?;
        refuses(&mut late, "SHUTDOWN NOSAVE", "UNKNOWN outcome")?;
        let lost = looping.read()?;
        ensure!(lost.error().is_some_and(|error| error.starts_with("UNKNOWN outcome")), "{lost:?}");
        ensure!(cluster.shards[0].nodes[0].command(&["PING"]).is_err(), "the node lives");
        Ok(())
    }

    fn short_scripts_share_their_connection(flavor: Flavor) -> Result<()> {
        let (_cluster, proxy) = busy_cluster(flavor)?;
        let mut clients = (0..8).map(|_| proxy.client()).collect::<Result<Vec<_>>>()?;
        for round in 1..=20 {
            for client in &mut clients {
                client.send(&["EVAL", "return redis.call('INCRBY', KEYS[1], ARGV[1])", "1", "n", "1"])?;
            }
            for client in &mut clients {
                ensure!(client.read()?.integer().is_some(), "round {round}");
            }
        }
        counts(&mut clients[0], "INCR n", 161)?;
        let leases = proxy.metrics()?;
        ensure!(!leases.lines().any(|line| line.starts_with("slipring_leases_total") && !line.ends_with(" 0")), "{leases}");
        Ok(())
    }
}
