//! The harness itself against real servers: what it promises to the stories must be so.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testkit::client::Cause;
use testkit::{Client, Cluster, Flavor, Login, Node, on_each_server};

const SWITCH_TIMEOUT: Duration = Duration::from_secs(20);

on_each_server! {
    fn boots_and_switches_as_planned_and_when_killed(flavor: Flavor) -> Result<()> {
        let started = Instant::now();
        let cluster = Cluster::builder(flavor).brisk().failover_timeout(SWITCH_TIMEOUT / 8).start()?;
        eprintln!("{flavor}: three nodes and three sentinels after {:?}", started.elapsed());
        let shard = cluster.shard();
        let first = cluster.primary()?.port();
        ensure!(first == shard.nodes[0].port() && shard.replicas().len() == 2);

        let (promoted, at) = shard.promotion_during(first, SWITCH_TIMEOUT, || cluster.failover_planned())?;
        let second = cluster.wait_switched(shard, first, SWITCH_TIMEOUT)?;
        eprintln!("{flavor}: the sentinels agreed {:?} after the promotion", at.elapsed());
        ensure!(promoted.port() == second.port());

        // The old primary is made a replica somewhat later; only then can the next failover start well.
        cluster.wait_ready()?;
        let killed = Instant::now();
        let (third, at) = shard.promotion_during(second.port(), SWITCH_TIMEOUT, || {
            second.kill();
            Ok(())
        })?;
        eprintln!("{flavor}: promoted {:?} after the kill", at.duration_since(killed));
        ensure!(cluster.wait_switched(shard, second.port(), SWITCH_TIMEOUT)?.port() == third.port());

        second.restart()?;
        second.wait_in_sync()?;
        ensure!(second.role()? == "slave");
        Ok(())
    }

    fn a_stopped_primary_is_replaced_and_made_a_replica_when_it_comes_back(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor).brisk().start()?;
        let shard = cluster.shard();
        let old = cluster.primary()?;
        old.stop()?;
        // Its kernel still takes connections, but nothing answers.
        let mut client = Client::connect(old.address())?;
        client.set_timeout(Duration::from_millis(100))?;
        ensure!(client.command(&["PING"]).is_err_and(|broken| broken.cause == Cause::Timeout));
        cluster.wait_switched(shard, old.port(), SWITCH_TIMEOUT)?;
        old.cont()?;
        old.wait_in_sync()?;
        ensure!(old.role()? == "slave");
        Ok(())
    }

    fn logins_are_asked_for_everywhere(flavor: Flavor) -> Result<()> {
        for (nodes, sentinels) in [
            (Login::password("secret"), Login::password("watch")),
            (Login::user("app", "secret"), Login::user("eye", "watch")),
        ] {
            let cluster =
                Cluster::builder(flavor).node_login(nodes).sentinel_login(sentinels).start()?;
            for address in [cluster.shard().nodes[0].address(), cluster.sentinels[0].address()] {
                let reply = Client::connect(address)?.command(&["PING"])?;
                ensure!(reply.error().is_some_and(|error| error.starts_with("NOAUTH")), "{reply:?}");
            }
            let first = cluster.primary()?.port();
            cluster.failover_planned()?;
            cluster.wait_switched(cluster.shard(), first, SWITCH_TIMEOUT)?;
        }
        Ok(())
    }

    fn two_masters_switch_apart_under_hostnames(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor).masters(&["one", "two"]).nodes(2).hostnames().start()?;
        let named = cluster.sentinels[0].command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "two"])?;
        ensure!(named.texts()[0] == "localhost", "{named:?}");
        let (one, two) = (cluster.shard_of("one"), cluster.shard_of("two"));
        let unmoved = cluster.primary_of(one)?.port();
        cluster.failover_planned_of(two)?;
        cluster.wait_switched(two, two.nodes[0].port(), SWITCH_TIMEOUT)?;
        ensure!(cluster.primary_of(one)?.port() == unmoved);
        Ok(())
    }

    fn a_server_that_cannot_start_says_why(flavor: Flavor) -> Result<()> {
        let error = Node::builder(flavor.server()?).config("no-such-setting 1").start().expect_err("it cannot start");
        ensure!(format!("{error:#}").contains("no-such-setting"), "{error:#}");
        Ok(())
    }

    fn a_client_sees_every_byte(flavor: Flavor) -> Result<()> {
        let node = Node::builder(flavor.server()?).start()?;
        let mut client = node.client()?;
        client.send_raw(b"PING\r\n*1\r\n$4\r\nPING\r\n")?;
        ensure!(client.read_raw()? == b"+PONG\r\n" && client.read_raw()? == b"+PONG\r\n");
        let value = vec![0xff; 1 << 20];
        client.command(&[b"SET".as_slice(), b"\0key\r\n", &value])?;
        let many: Vec<_> = (0..100).map(|_| vec![b"GET".as_slice(), b"\0key\r\n"]).collect();
        ensure!(client.pipeline(&many)?.iter().all(|reply| *reply == testkit::Reply::Bulk(value.clone())));
        client.send(&["QUIT"])?;
        ensure!(client.read_to_end() == (b"+OK\r\n".to_vec(), Cause::Closed));
        Ok(())
    }
}

/// Nothing survives a test process that is killed outright; this test is its own victim, started again as a child.
#[test]
fn nothing_survives_a_killed_test_process() -> Result<()> {
    const ROLE: &str = "TESTKIT_VICTIM";
    if std::env::var_os(ROLE).is_some() {
        let node = Node::builder(Flavor::Redis.server()?).start()?;
        println!("port={}", node.port());
        sleep(Duration::from_secs(60));
        return Ok(());
    }
    if !Flavor::Redis.runs_here() {
        return Ok(());
    }
    let folder = testkit::process::scratch("victim")?;
    let victim = testkit::process::Process::start_with_env(
        "victim",
        &std::env::current_exe()?,
        ["--exact", "nothing_survives_a_killed_test_process", "--nocapture"]
            .map(str::to_owned)
            .to_vec(),
        vec![(ROLE.to_owned(), "1".to_owned())],
        folder.path().join("log"),
    )?;
    let port: u16 = testkit::wait::wait_for("the victim's node", Duration::from_secs(20), || {
        let log = victim.log();
        let port = log
            .lines()
            .find_map(|line| line.split("port=").nth(1)?.parse().ok());
        port.ok_or_else(|| anyhow::anyhow!(log))
    })?;
    ensure!(Client::connect(("127.0.0.1", port)).is_ok());
    victim.kill();
    testkit::wait::wait_for("the end of the victim's node", Duration::from_secs(5), || {
        ensure!(Client::connect(("127.0.0.1", port)).is_err(), "it still listens");
        Ok(())
    })
}
