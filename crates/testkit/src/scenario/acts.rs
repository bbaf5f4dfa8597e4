//! What is done to whom in each scenario.

use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{Act, Lab, Scenario, Stage, Told};
use crate::client::{Client, REPLY_TIMEOUT};
use crate::load::Load;
use crate::netns::Divided;
use crate::reply::Reply;
use crate::servers::{Cluster, Node, Sentinel, Shard, Watched};
use crate::wait::{STEP_TIMEOUT, wait_for};

/// How long a load runs before anything happens, and behind all that happens.
const CALM: Duration = Duration::from_secs(1);
const BEHIND: Duration = Duration::from_secs(2);

pub(super) fn play(scenario: Scenario, lab: &Lab) -> Result<Told> {
    match scenario {
        Scenario::Planned => planned(lab, scenario, 1),
        Scenario::TenPlanned => planned(lab, scenario, 10),
        Scenario::Kill => breaking(lab, scenario, kill, |_| Ok(())),
        Scenario::Freeze => breaking(lab, scenario, Node::stop, |old| {
            sleep(Duration::from_millis(700));
            old.cont()
        }),
        Scenario::Partition => partition(lab),
        Scenario::ReplicaKilled => replica_killed(lab),
        Scenario::LeaderKilled => leader_killed(lab),
        Scenario::SentinelsLost => sentinels_lost(lab),
        Scenario::Loading => loading(lab),
        Scenario::BeforeCluster => before_cluster(lab),
        Scenario::RepliesDestroyed => replies_destroyed(lab),
    }
}

fn kill(node: &Node) -> Result<()> {
    node.kill();
    Ok(())
}

// === impl Act ===

impl Act {
    /// Something begins that nobody is to notice.
    fn unnoticed() -> Self {
        Self {
            began: Instant::now(),
            broke: None,
            promoted: None,
            stale: false,
            in_doubt: false,
        }
    }

    fn in_doubt(mut self) -> Self {
        self.in_doubt = true;
        self
    }

    /// Does what breaks something.
    fn break_by(&mut self, deed: impl FnOnce() -> Result<()>) -> Result<()> {
        let before = Instant::now();
        deed()?;
        self.broke = Some([before, Instant::now()]);
        Ok(())
    }
}

fn planned(lab: &Lab, scenario: Scenario, times: usize) -> Result<Told> {
    let stage = Stage::set(lab)?;
    let shard = stage.cluster.shard();
    let load = stage.load()?;
    sleep(CALM);
    let act = Act::unnoticed();
    for _ in 0..times {
        let old = stage.cluster.primary()?;
        // Always the same sentinel, which refuses until its last one is over: two that lead at once undo each other's.
        let leader = stage.cluster.sentinels.first().context("a sentinel")?;
        let order = || {
            wait_for("a failover", STEP_TIMEOUT, || {
                leader.command(&["SENTINEL", "FAILOVER", "mymaster"]).map(drop)
            })
        };
        shard.promotion_during(old.port(), STEP_TIMEOUT, order)?;
        let new = stage.cluster.wait_switched(shard, old.port(), STEP_TIMEOUT)?;
        if times > 1 {
            // Sentinel would do so ten seconds later.
            old.command(&["REPLICAOF", "127.0.0.1", &new.port().to_string()])?;
            let others = shard.nodes.iter().filter(|node| node.port() != new.port());
            others.into_iter().try_for_each(Node::wait_in_sync)?;
        }
    }
    sleep(BEHIND);
    stage.judge(scenario, load, &act, stage.cluster.primary()?)
}

fn breaking(
    lab: &Lab,
    scenario: Scenario,
    deed: impl FnOnce(&Node) -> Result<()>,
    behind: impl FnOnce(&Node) -> Result<()>,
) -> Result<Told> {
    let stage = Stage::set(lab)?;
    let old = stage.cluster.primary()?;
    let load = stage.load()?;
    sleep(CALM);
    let mut act = Act::unnoticed().in_doubt();
    let break_it = || act.break_by(|| deed(old));
    let (new, at) = stage
        .cluster
        .shard()
        .promotion_during(old.port(), STEP_TIMEOUT, break_it)?;
    act.promoted = Some(at);
    behind(old)?;
    sleep(BEHIND);
    stage.judge(scenario, load, &act, new)
}

fn partition(lab: &Lab) -> Result<Told> {
    let divided = Divided::make()?;
    let (here, there) = (divided.here.to_string(), divided.primary.host.to_string());
    let server = lab.flavor.server()?;
    let node = Node::builder(server.clone())
        .login(lab.login.clone())
        .config("bind 0.0.0.0");
    let primary = node.clone().within(&divided.primary).start()?;
    let replica = || {
        node.clone()
            .replica_of(&there, primary.port())
            .config(&format!("replica-announce-ip {here}"))
    };
    let replicas = [replica().start()?, replica().start()?];
    replicas.iter().try_for_each(Node::wait_in_sync)?;
    let watched = Watched {
        name: "mymaster".to_owned(),
        host: there,
        port: primary.port(),
        login: lab.login.clone(),
    };
    let sentinel = Sentinel::builder(server)
        .watch(watched)
        .down_after(lab.down_after)
        .login(lab.login.clone())
        .config("bind 0.0.0.0");
    let sentinels = (0..3)
        .map(|_| sentinel.clone().spawn())
        .collect::<Result<Vec<_>>>()?;
    let cluster = Cluster {
        shards: vec![Shard {
            name: "mymaster".to_owned(),
            nodes: [primary].into_iter().chain(replicas).collect(),
        }],
        sentinels,
    };
    cluster.wait_ready()?;
    let list: Vec<_> = cluster
        .sentinels
        .iter()
        .map(|sentinel| format!("{here}:{}", sentinel.port()))
        .collect();
    let proxy = lab
        .proxy()
        .within(&divided.proxy)
        .flag("--protected-mode", "no")
        .flag("--sentinels", &list.join(","))
        .start()?;
    let stage = Stage {
        lab: lab.clone(),
        cluster,
        proxy,
    };
    let load = stage.load()?;
    sleep(CALM);
    let mut act = Act::unnoticed().in_doubt();
    let port = stage.cluster.shard().nodes[0].port();
    let cut = || act.break_by(|| divided.cut());
    let (new, at) = stage.cluster.shard().promotion_during(port, STEP_TIMEOUT, cut)?;
    act.promoted = Some(at);
    sleep(BEHIND);
    let told = stage.judge(Scenario::Partition, load, &act, new);
    // Before the namespaces that it runs in.
    drop(stage);
    told
}

fn replica_killed(lab: &Lab) -> Result<Told> {
    let cluster = lab.cluster().start()?;
    let proxy = lab
        .proxy()
        .sentinels(&cluster)
        .flag("--read-policy", "replica")
        .start()?;
    let stage = Stage {
        lab: lab.clone(),
        cluster,
        proxy,
    };
    let usable = |count: f64| {
        wait_for("usable replicas", STEP_TIMEOUT, || {
            let usable = stage.proxy.metric("slipring_replica_usable", &[])?;
            ensure!(usable == count, "{usable} are usable");
            Ok(())
        })
    };
    usable(2.0)?;
    let load = stage.load()?;
    sleep(CALM);
    let mut act = Act::unnoticed();
    act.stale = true;
    let replica = *stage.cluster.shard().replicas().first().context("a replica")?;
    replica.kill();
    usable(1.0)?;
    sleep(BEHIND);
    replica.restart()?;
    usable(2.0)?;
    sleep(CALM);
    stage.judge(Scenario::ReplicaKilled, load, &act, stage.cluster.primary()?)
}

/// Ends before the sentinels find out: they turn the candidate back some fifteen seconds later.
fn leader_killed(lab: &Lab) -> Result<Told> {
    let stage = Stage::set(lab)?;
    let old = stage.cluster.primary()?;
    let load = stage.load()?;
    sleep(CALM);
    let mut act = Act::unnoticed();
    let leader = stage.cluster.sentinels.first().context("a sentinel")?;
    let order = || leader.command(&["SENTINEL", "FAILOVER", "mymaster"]).map(drop);
    let (new, at) = stage
        .cluster
        .shard()
        .promotion_during(old.port(), STEP_TIMEOUT, order)?;
    leader.kill();
    act.promoted = Some(at);
    sleep(BEHIND);
    stage.judge(Scenario::LeaderKilled, load, &act, new)
}

fn sentinels_lost(lab: &Lab) -> Result<Told> {
    let stage = Stage::set(lab)?;
    let (sentinels, shard) = (&stage.cluster.sentinels, stage.cluster.shard());
    let load = stage.load()?;
    sleep(CALM);
    let act = Act::unnoticed();
    for sentinel in sentinels {
        sentinel.kill();
        sleep(CALM / 2);
    }
    sleep(CALM);
    for sentinel in sentinels {
        sentinel.restart()?;
    }
    stage.cluster.wait_ready()?;
    wait_for("slipring to watch them all", STEP_TIMEOUT, || {
        let watched = stage
            .proxy
            .metric("slipring_sentinels", &["state=\"watching\""])?;
        ensure!(watched == 3.0, "it watches {watched}");
        Ok(())
    })?;
    let hung = sentinels.last().context("a sentinel")?;
    hung.stop()?;
    let old = shard.nodes[0].port();
    let (new, _) = shard.promotion_during(old, STEP_TIMEOUT, || stage.cluster.failover_planned())?;
    sleep(BEHIND);
    hung.cont()?;
    sleep(CALM);
    stage.judge(Scenario::SentinelsLost, load, &act, new)
}

fn loading(lab: &Lab) -> Result<Told> {
    let mut slow = lab
        .cluster()
        .nodes(1)
        .sentinels(1)
        .down_after(Duration::from_secs(30));
    // Two seconds for a hundred thousand keys, and a word now and then.
    for line in ["key-load-delay 20", "loading-process-events-interval-bytes 1024"] {
        slow = slow.node_config(line);
    }
    let cluster = slow.start()?;
    let proxy = lab.proxy().sentinels(&cluster).start()?;
    let stage = Stage {
        lab: lab.clone(),
        cluster,
        proxy,
    };
    let node = &stage.cluster.shard().nodes[0];
    node.command(&["DEBUG", "POPULATE", "100000"])?;
    node.command(&["SAVE"])?;
    let load = stage.load()?;
    sleep(CALM);
    let mut act = Act::unnoticed().in_doubt();
    act.break_by(|| {
        node.kill();
        Ok(())
    })?;
    node.process().restart()?;
    wait_for("the node to load", STEP_TIMEOUT, || {
        let answer = node.client()?.command(&["PING"])?;
        ensure!(
            answer.error().is_some_and(|error| error.starts_with("LOADING")),
            "it says {answer:?}"
        );
        Ok(())
    })?;
    node.wait_up()?;
    act.promoted = Some(Instant::now());
    sleep(BEHIND);
    stage.judge(Scenario::Loading, load, &act, node)
}

fn before_cluster(lab: &Lab) -> Result<Told> {
    let cluster = lab.cluster().start()?;
    let (nodes, sentinels) = (&cluster.shard().nodes, &cluster.sentinels);
    sentinels.iter().for_each(Sentinel::kill);
    nodes.iter().for_each(Node::kill);
    let proxy = lab.proxy().sentinels(&cluster).spawn()?;
    wait_for("slipring to listen", STEP_TIMEOUT, || proxy.client().map(drop))?;
    let mut act = Act::unnoticed();
    let builder = Load::builder(proxy.address())
        .clients(32)
        .login(lab.login.clone());
    let load = thread::scope(|scope| -> Result<Load> {
        let appear = scope.spawn(|| -> Result<Instant> {
            sleep(CALM);
            nodes.iter().try_for_each(Node::restart)?;
            sentinels.iter().try_for_each(Sentinel::restart)?;
            proxy.wait_ready()?;
            Ok(Instant::now())
        });
        // Its very first command waits until there is somebody to answer it.
        let load = builder.start()?;
        act.began = appear.join().expect("it returns what goes wrong")?;
        Ok(load)
    })?;
    sleep(BEHIND);
    let primary = cluster.primary()?.port();
    let stage = Stage {
        lab: lab.clone(),
        cluster,
        proxy,
    };
    stage.judge(
        Scenario::BeforeCluster,
        load,
        &act,
        stage.cluster.shard().node(primary)?,
    )
}

/// 35 commands are executed in the same turn of the node's loop in which their connections are closed.
fn replies_destroyed(lab: &Lab) -> Result<Told> {
    const IN_FLIGHT: usize = 35;
    let cluster = lab.cluster().down_after(Duration::from_secs(60)).start()?;
    let proxy = lab.proxy().sentinels(&cluster).start()?;
    let stage = Stage {
        lab: lab.clone(),
        cluster,
        proxy,
    };
    let node = stage.cluster.primary()?;
    let load = stage.load()?;
    sleep(CALM);
    let mut act = Act::unnoticed().in_doubt();
    let connect = || Client::connect_as(stage.proxy.address(), lab.login.as_ref(), REPLY_TIMEOUT);
    let mut clients = (0..IN_FLIGHT)
        .map(|_| Ok(connect()?))
        .collect::<Result<Vec<_>>>()?;
    let (mut unknown, mut acknowledged) = (Vec::new(), Vec::new());
    for round in 0..5 {
        // The node sleeps; what comes meanwhile it takes in order: the 35, then the kill.
        let (mut sleeper, mut killer) = (node.client()?, node.client()?);
        sleeper.send(&["DEBUG", "SLEEP", "0.2"])?;
        sleep(Duration::from_millis(50));
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(&["RPUSH", "destroyed", &format!("{round}:{number}")])?;
        }
        sleep(Duration::from_millis(50));
        killer.command(&["CLIENT", "KILL", "TYPE", "normal"])?;
        for (number, client) in clients.iter_mut().enumerate() {
            let id = format!("{round}:{number}");
            match client.read().context("a client's connection")? {
                Reply::Error(error) if error.starts_with("UNKNOWN outcome") => unknown.push(id),
                Reply::Integer(_) => acknowledged.push(id),
                other => anyhow::bail!("RPUSH is answered {other:?}"),
            }
        }
    }
    act.broke = Some([act.began, Instant::now()]);
    sleep(BEHIND);
    let mut told = stage.judge(Scenario::RepliesDestroyed, load, &act, node)?;
    let held = node.command(&["LRANGE", "destroyed", "0", "-1"])?.texts();
    let times = |id: &String| held.iter().filter(|held| *held == id).count();
    let executed = unknown.iter().filter(|id| times(id) > 0).count();
    let twice = held.iter().filter(|id| times(id) > 1).count();
    let lost = acknowledged.iter().filter(|id| times(id) == 0).count();
    for (kept, what) in [
        (twice == 0, format!("{twice} commands executed twice")),
        (lost == 0, format!("{lost} acknowledged commands lost")),
        (
            executed > 0,
            format!(
                "none of {} unknown outcomes was executed: it proves nothing",
                unknown.len()
            ),
        ),
    ] {
        if !kept {
            told.broken.push(what);
        }
    }
    told.unknown += unknown.len();
    Ok(told)
}
