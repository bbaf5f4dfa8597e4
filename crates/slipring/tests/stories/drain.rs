//! SIGTERM: what is under way is answered, nobody new is let in, and the exit status is 0.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use testkit::client::Cause;
use testkit::load::{History, Kind, Operation, Outcome};
use testkit::{Client, Cluster, Flavor, Load, Node, on_each_server};

use super::support::{PATIENCE, ask, before, command_stats, says, slipring};

on_each_server! {
    fn requests_under_way_are_answered(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor).nodes(2).sentinels(1).start()?;
        let proxy = before(&cluster)?;
        let mut idle = proxy.client()?;
        says(&mut idle, "SET key value", "OK")?;
        let mut blocked = proxy.client()?;
        blocked.send(&["BLPOP", "nothing", "1.2"])?;
        let mut talking = proxy.client()?;
        says(&mut talking, "MULTI", "OK")?;
        says(&mut talking, "SET talked yes", "QUEUED")?;
        let mut subscriber = proxy.client()?;
        ask(&mut subscriber, "SUBSCRIBE channel")?;
        // The node is made to be busy, so that slipring owes an answer.
        let mut holder = cluster.primary()?.client()?;
        holder.send(&["DEBUG", "SLEEP", "0.8"])?;
        sleep(Duration::from_millis(50));
        let mut waiting = proxy.client()?;
        let received = || proxy.metric("slipring_received_bytes_total", &["side=\"client\""]);
        let so_far = received()?;
        let requests = b"GET key\r\nECHO behind\r\n";
        waiting.send_raw(requests)?;
        proxy.process().wait_until("slipring to have read them", || {
            ensure!(received()? >= so_far + requests.len() as f64, "not yet");
            Ok(())
        })?;

        let asked = Instant::now();
        proxy.process().signal(Signal::SIGTERM)?;
        proxy.process().wait_until("the listener to close", || {
            ensure!(Client::connect(proxy.address()).is_err(), "it still accepts");
            Ok(())
        })?;
        ensure!(waiting.read()?.text() == Some("value"), "the request under way");
        ensure!(waiting.read()?.text() == Some("behind"), "the request behind it");
        ensure!(waiting.read_to_end() == (Vec::new(), Cause::Closed), "an end that is none");
        ensure!(blocked.read()? == testkit::Reply::Null, "the blocked command");
        ensure!(blocked.read_to_end() == (Vec::new(), Cause::Closed), "an end that is none");
        ensure!(idle.read_to_end() == (Vec::new(), Cause::Closed), "an end that is none");
        // Whoever is in the middle of a transaction may end it.
        let executed = ask(&mut talking, "EXEC");
        if let Ok(reply) = &executed {
            ensure!(reply.items().len() == 1, "{reply:?}");
        }
        let status = proxy.process().wait(PATIENCE)?;
        ensure!(status.code() == Some(0), "{status}");
        // Long before --drain-timeout: nobody has anything left to do.
        ensure!(asked.elapsed() < Duration::from_secs(10), "it took {:?}", asked.elapsed());
        let (rest, cause) = subscriber.read_to_end();
        ensure!(rest.is_empty() && cause == Cause::Closed, "the subscriber: {cause:?} after {rest:?}");
        Ok(())
    }

    fn a_load_sees_an_orderly_end(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor).nodes(2).sentinels(1).start()?;
        let proxy = slipring().sentinels(&cluster).flag("--drain-timeout", "5s").start()?;
        let load = Load::builder(proxy.address()).clients(24).start()?;
        sleep(Duration::from_millis(700));
        let before = Instant::now();
        let status = proxy.terminate(PATIENCE)?;
        let took = before.elapsed();
        let history = load.finish();
        ensure!(status.code() == Some(0), "{status}");
        ensure!(took < Duration::from_secs(7), "it took {took:?}");
        let verdict = history.verify(&mut cluster.primary()?.client()?)?;
        ensure!(verdict.is_clean(), "{verdict:?}");
        let all = history.phase(&verdict, history.started, history.ended);
        // A client may send while its connection is being closed; what was answered was answered rightly.
        ensure!(all.errors.is_empty() && all.unknown.is_empty() && all.stale == 0, "{all:?}");
        ensure!(all.acknowledged_writes > 200, "{all:?}");
        nothing_under_way_was_dropped(&history, cluster.primary()?)
    }
}

/// What slipring has read is answered: the node has executed what was acknowledged, and nothing else. (A request that
/// crosses the end of its connection is never read.)
fn nothing_under_way_was_dropped(history: &History, node: &Node) -> Result<()> {
    let told = |kinds: &[Kind]| {
        let acknowledged = history
            .operations
            .iter()
            .filter(|one| one.outcome == Outcome::Acknowledged);
        acknowledged.filter(|one| kinds.contains(&one.kind)).count() as u64
    };
    let executed = command_stats(node)?;
    for (name, kinds) in [
        ("set", &[Kind::Set][..]),
        ("rpush", &[Kind::Push, Kind::Enqueue, Kind::Transaction]),
        ("incr", &[Kind::Count, Kind::Transaction]),
        ("exec", &[Kind::Transaction]),
        ("publish", &[Kind::Publish]),
    ] {
        let (executed, told) = (executed.get(name).copied().unwrap_or(0), told(kinds));
        ensure!(
            executed == told,
            "{name}: executed {executed} times, acknowledged {told} times"
        );
    }
    let answered = |one: &Operation| one.outcome == Outcome::Acknowledged;
    let torn = history.operations.iter().find(|dropped| {
        let mut together = history
            .operations
            .iter()
            .filter(|one| (one.client, one.sent) == (dropped.client, dropped.sent));
        !answered(dropped) && dropped.kind != Kind::Receive && together.any(answered)
    });
    ensure!(
        torn.is_none(),
        "sent in one write with what was answered: {torn:?}"
    );
    Ok(())
}
