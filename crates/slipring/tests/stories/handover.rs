//! PROXY over RESP: what operators ask and order, and a failover that loses nothing.

use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use testkit::client::Cause;
use testkit::load::Outcome;
use testkit::{Client, Cluster, Flavor, Load, Node, Proxy, on_each_server};

use super::record::told_failover;
use super::support::{PATIENCE, ask, before, outward, refuses, says, slipring, steady, words};

on_each_server! {
    /// Clients of this slipring, clients of another one, and writers who go around both: each acknowledged write is kept.
    fn nothing_is_lost_by_anybody(flavor: Flavor) -> Result<()> {
        let cluster = steady(flavor).start()?;
        let (proxy, other) = (before(&cluster)?, before(&cluster)?);
        let old = cluster.primary()?;
        let loads = [("one", proxy.address()), ("two", other.address())];
        let loads = loads.map(|(name, address)| (name, Load::builder(address).name(name).clients(16).start()));
        let around = Around::start(old)?;
        sleep(Duration::from_secs(1));

        let said = order(&proxy, "PROXY FAILOVER mymaster TIMEOUT 8000")?;
        let over = Instant::now();
        ensure!(said[0].starts_with("OK ") && said.len() == 2, "{said:?}");
        sleep(Duration::from_secs(1));
        let last = cluster.primary()?;
        ensure!(said[0] == format!("OK {} serves instead of {}", last.address(), old.address()), "{said:?}");
        ensure!(old.role()? == "slave", "the old primary goes its own way");
        for (name, load) in loads {
            let history = load?.finish();
            let verdict = history.verify(&mut last.client()?)?;
            ensure!(verdict.is_clean(), "{verdict:?}");
            let all = history.phase(&verdict, history.started, history.ended);
            ensure!(all.errors.is_empty() && all.dropped == 0, "{all:?}");
            // The other slipring has no warning: what it has in flight when the primary pauses stays without an answer.
            let in_flight = history.operations.iter().filter(|one| matches!(one.outcome, Outcome::Unknown(_)));
            ensure!(name == "two" || all.unknown.is_empty(), "{name}: {all:?}");
            ensure!(in_flight.clone().all(|one| one.sent < over), "{name}: {all:?}");
            ensure!(all.unknown_count() * 20 < all.acknowledged_writes, "{name}: {all:?}");
        }
        let (acknowledged, refusal) = around.finish()?;
        ensure!(refusal.starts_with("READONLY"), "{refusal}");
        let held = last.command(&["LRANGE", "around", "0", "-1"])?.texts().len();
        ensure!(acknowledged > 100 && held == acknowledged, "{held} of {acknowledged} are there");
        let told = told_failover(&proxy, "planned")?;
        ensure!(told["first_sign"] == "an operator asked for a failover", "{told:#}");
        ensure!(told["outcomes_unknown"] == 0, "{told:#}");
        Ok(())
    }

    /// TO names the replica; priorities are as before afterwards. Orders right before do not get into its way.
    fn the_operator_chooses(flavor: Flavor) -> Result<()> {
        let cluster = steady(flavor).brisk().start()?;
        let proxy = before(&cluster)?;
        let load = Load::builder(proxy.address()).clients(8).start()?;
        for turn in 0..2 {
            // The one that Sentinel would take last: names decide where offsets are the same.
            let mut replicas = cluster.shard().replicas();
            replicas.sort_by_key(|node| node.command(&["INFO", "server"]).map(|info| run_id(info.text())).ok());
            let to = replicas.pop().context("two replicas")?;
            let failover = format!("FAILOVER TO {}", to.address());
            let orders = ["PAUSE", "RESUME", "RECONNECT", "RELOAD", &failover];
            let mut operator = proxy.client()?;
            operator.set_timeout(Duration::from_secs(40))?;
            operator.send_raw(orders.map(|line| format!("PROXY {line}\r\n")).concat().as_bytes())?;
            let said: Vec<_> = orders.iter().map(|_| operator.read()).collect::<Result<_, _>>()?;
            let starts = ["OK", "OK", "OK", "OK, nothing is changed", &format!("OK {} ", to.address())];
            let fits = said.iter().zip(starts).all(|(said, start)| said.texts().first().is_some_and(|line| line.starts_with(start)));
            ensure!(fits, "turn {turn}: {said:?}");
            cluster.wait_ready()?;
            ensure!(cluster.primary()?.port() == to.port(), "another one serves");
            ensure!(priorities(&cluster) == ["100"; 3], "{:?}", priorities(&cluster));
        }
        let history = load.finish();
        let verdict = history.verify(&mut cluster.primary()?.client()?)?;
        ensure!(verdict.is_clean(), "{verdict:?}");
        let all = history.phase(&verdict, history.started, history.ended);
        ensure!(all.errors.is_empty() && all.unknown.is_empty() && all.dropped == 0, "{all:?}");
        Ok(())
    }

    /// At whatever step it fails, writes flow again, everybody's, and nothing remains of it.
    fn what_fails_is_undone(flavor: Flavor) -> Result<()> {
        let cluster = steady(flavor).brisk().start()?;
        let proxy = before(&cluster)?;
        let primary = cluster.primary()?;
        let replicas = cluster.shard().replicas();
        let mut client = proxy.client()?;
        let fails = |line: &str, why: &str| -> Result<()> {
            let before = priorities(&cluster);
            let mut operator = proxy.client()?;
            let reply = ask(&mut operator, line)?;
            let error = reply.error().with_context(|| format!("{line}: {reply:?}"))?;
            ensure!(error.contains(why), "{line}: {error}, expected {why}");
            let mut around = primary.client()?;
            says(&mut around, "SET around yes", "OK")?;
            says(&mut proxy.client()?, "SET through yes", "OK")?;
            ensure!(priorities(&cluster) == before, "{line}: {before:?} are {:?}", priorities(&cluster));
            Ok(())
        };
        fails("PROXY FAILOVER TO 127.0.0.1:1", "is no replica of mymaster")?;
        replicas[0].command(&["CONFIG", "SET", "replica-priority", "0"])?;
        replicas[1].command(&["CONFIG", "SET", "replica-priority", "0"])?;
        proxy.process().wait_until("priorities to be known", || {
            let known = order(&proxy, "PROXY SHOW TOPOLOGY")?;
            ensure!(known.iter().filter(|line| line.ends_with("priority=0")).count() == 2, "{known:?}");
            Ok(())
        })?;
        fails("PROXY FAILOVER", "there is no replica to promote")?;
        for replica in &replicas {
            replica.command(&["CONFIG", "SET", "replica-priority", "100"])?;
        }
        proxy.process().wait_until("priorities to be known", || {
            let known = order(&proxy, "PROXY SHOW TOPOLOGY")?;
            ensure!(known.iter().filter(|line| line.ends_with("priority=100")).count() == 2, "{known:?}");
            Ok(())
        })?;
        // Frozen, it does not catch up: that is found out while writes wait already, or before.
        replicas[0].stop()?;
        let started = Instant::now();
        fails("PROXY FAILOVER TIMEOUT 900", &replicas[0].address().to_string())?;
        ensure!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
        replicas[0].cont()?;
        proxy.process().wait_until("both replicas", || {
            ensure!(proxy.metric("slipring_replica_usable", &[])? == 2.0, "one is away still");
            Ok(())
        })?;
        // Sentinels that could not agree on anything.
        for sentinel in &cluster.sentinels {
            sentinel.command(&["SENTINEL", "SET", "mymaster", "quorum", "9"])?;
        }
        fails("PROXY FAILOVER", "no sentinel can fail over")?;
        for sentinel in &cluster.sentinels {
            sentinel.command(&["SENTINEL", "SET", "mymaster", "quorum", "2"])?;
        }
        says(&mut client, "GET through", "yes")
    }

    fn writes_are_paused_and_reads_are_not(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor).nodes(2).sentinels(1).start()?;
        let proxy = before(&cluster)?;
        let (mut operator, mut client) = (proxy.client()?, proxy.client()?);
        says(&mut client, "SET key value", "OK")?;
        ensure!(order(&proxy, "PROXY PAUSE")? == ["OK"], "paused");
        ensure!(proxy.get("/readyz")?.0 == 503, "{:?}", order(&proxy, "PROXY SHOW TOPOLOGY")?);
        let mut writer = proxy.client()?;
        writer.send(&words("SET key other"))?;
        sleep(Duration::from_millis(300));
        says(&mut client, "GET key", "value")?;
        says(&mut client, "PING", "PONG")?;
        refuses(&mut operator, "PROXY FAILOVER", "ERR no failover: the primary is not in place")?;
        ensure!(ask(&mut operator, "PROXY RESUME")?.texts() == ["OK"], "resumed");
        ensure!(writer.read()?.text() == Some("OK"), "the write that waited");
        says(&mut client, "GET key", "other")
    }

    fn who_may_ask_and_order(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor).nodes(2).sentinels(1).start()?;
        let primary = cluster.primary()?;
        primary.command(&words("ACL SETUSER admin on >secret ~* &* +@all"))?;
        primary.command(&words("ACL SETUSER mortal on >secret ~* &* +@all"))?;
        let proxy = slipring()
            .sentinels(&cluster)
            .flag("--admin-users", "root,admin")
            .everywhere()
            .flag("--protected-mode", "no")
            .start()?;
        let mut local = proxy.client()?;
        let help = ask(&mut local, "PROXY HELP")?.texts();
        ensure!(help.iter().any(|line| line.starts_with("PROXY FAILOVER")), "{help:?}");
        ensure!(ask(&mut local, "PROXY SHOW FAILOVERS")?.texts() == ["none since the start"], "no failover yet");
        let shown = ask(&mut local, "proxy show topology mymaster")?.texts();
        ensure!(shown[0].starts_with("master=mymaster phase=serving"), "{shown:?}");
        refuses(&mut local, "PROXY SHOW FAILOVERS nobody", "ERR no such master; there is mymaster")?;
        refuses(&mut local, "PROXY NONSENSE", "ERR unknown subcommand")?;
        // As any other command it keeps its place among the others.
        local.send_raw(b"SET a 1\r\nPROXY SHOW\r\nGET a\r\n")?;
        ensure!(local.read()?.text() == Some("OK"), "SET");
        ensure!(local.read()?.error().is_some(), "PROXY SHOW");
        ensure!(local.read()?.text() == Some("1"), "GET");
        ensure!(ask(&mut local, "PROXY RESUME")?.error().is_none(), "on its own machine everybody may");

        let mut remote = Client::connect((outward()?, proxy.address().port()))?;
        for (what, part) in [
            ("TOPOLOGY", "primary="),
            ("CLIENTS", "addr="),
            ("POOLS", "role=primary"),
            ("CONFIG", "admin-users = root,admin"),
            ("STATS", "clients_accepted_total "),
            ("FAILOVERS", "none since the start"),
        ] {
            let shown = ask(&mut remote, &format!("PROXY SHOW {what}"))?;
            ensure!(shown.texts().iter().any(|line| line.contains(part)), "asking is free: {what}: {shown:?}");
        }
        for order in ["KILL TYPE normal", "RECONNECT", "DRAIN", "RELOAD"] {
            refuses(&mut remote, &format!("PROXY {order}"), "NOPERM")?;
        }
        refuses(&mut remote, "PROXY RESUME", "NOPERM")?;
        says(&mut remote, "AUTH mortal secret", "OK")?;
        refuses(&mut remote, "PROXY FAILOVER", "NOPERM")?;
        says(&mut remote, "AUTH admin secret", "OK")?;
        ensure!(ask(&mut remote, "PROXY RESUME")?.error().is_none(), "an admin may");
        let mut bystander = proxy.client()?;
        says(&mut bystander, "PING", "PONG")?;
        let id = ask(&mut bystander, "CLIENT ID")?;
        let killed = ask(&mut remote, &format!("PROXY KILL ID {}", id.integer().unwrap_or_default()))?.texts();
        ensure!(killed == ["OK, 1 closed"], "{killed:?}");
        ensure!(bystander.read_to_end() == (Vec::new(), Cause::Closed), "it is closed");
        ensure!(ask(&mut remote, "PROXY RECONNECT")?.texts() == ["OK"], "an admin may");
        says(&mut remote, "SET a 2", "OK")?;
        // The signals do the same to all masters.
        for (signal, status) in [(Signal::SIGUSR1, 503), (Signal::SIGUSR2, 200)] {
            proxy.process().signal(signal)?;
            proxy.process().wait_until("the signal to be obeyed", || {
                ensure!(proxy.get("/readyz")?.0 == status, "not yet");
                Ok(())
            })?;
        }
        ensure!(ask(&mut remote, "PROXY DRAIN")?.texts() == ["OK"], "an admin may");
        ensure!(proxy.process().wait(PATIENCE)?.code() == Some(0), "it drains");
        // Without that flag, nobody from elsewhere gets this far where the nodes ask for no password.
        let guarded = slipring().sentinels(&cluster).everywhere().start()?;
        says(&mut guarded.client()?, "SET a 1", "OK")?;
        let mut remote = Client::connect((outward()?, guarded.address().port()))?;
        let (refusal, _) = remote.read_to_end();
        ensure!(refusal.starts_with(b"-DENIED Redis is running in protected mode"), "{refusal:?}");
        let refused = guarded.metric("slipring_clients_refused_total", &["reason=\"protected\""])?;
        ensure!(refused == 1.0, "{refused}");
        primary.command(&words("ACL SETUSER default resetpass >pass"))?;
        Ok(())
    }
}

/// What an operator is told.
fn order(proxy: &Proxy, line: &str) -> Result<Vec<String>> {
    let mut operator = proxy.client()?;
    operator.set_timeout(Duration::from_secs(40))?;
    let reply = ask(&mut operator, line)?;
    ensure!(
        reply.error().is_none(),
        "{line}: {reply:?}\n{}",
        proxy.process().log_tail()
    );
    Ok(reply.texts())
}

/// The nodes' priorities; of those that are not frozen.
fn priorities(cluster: &Cluster) -> Vec<String> {
    let asked = |node: &Node| {
        node.command(&["CONFIG", "GET", "replica-priority"])
            .ok()?
            .texts()
            .pop()
    };
    cluster.shard().nodes.iter().filter_map(asked).collect()
}

fn run_id(info: Option<&str>) -> String {
    let line = info.and_then(|info| info.lines().find(|line| line.starts_with("run_id:")));
    line.unwrap_or_default().to_owned()
}

/// Somebody who writes to the primary itself, until it refuses.
struct Around(thread::JoinHandle<Result<(usize, String)>>);

impl Around {
    fn start(primary: &Node) -> Result<Self> {
        let mut client = primary.client()?;
        client.set_timeout(Duration::from_secs(20))?;
        Ok(Self(thread::spawn(move || {
            for id in 0.. {
                let reply = client.command(&["RPUSH", "around", &id.to_string()])?;
                if let Some(error) = reply.error() {
                    return Ok((id, error.to_owned()));
                }
                sleep(Duration::from_millis(1));
            }
            unreachable!("it writes for ever")
        })))
    }

    /// How many of its writes were acknowledged, and what the last one was refused with.
    fn finish(self) -> Result<(usize, String)> {
        self.0.join().expect("it returns what goes wrong")
    }
}
