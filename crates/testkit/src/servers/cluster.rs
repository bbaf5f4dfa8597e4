//! Shards of one primary and its replicas, and the sentinels that watch them all.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};

use super::{Flavor, Login, Node, Sentinel, Watched};
use crate::wait::{STEP_TIMEOUT, wait_for};

/// One set of sentinels and the shards that they watch; stopped and removed when dropped.
#[derive(Debug)]
pub struct Cluster {
    /// In the order of the masters' names.
    pub shards: Vec<Shard>,
    /// All watch every shard.
    pub sentinels: Vec<Sentinel>,
}

/// What sentinels call a master: one primary and its replicas.
#[derive(Debug)]
pub struct Shard {
    /// The master's name.
    pub name: String,
    /// The first is the primary at the start.
    pub nodes: Vec<Node>,
}

/// What a cluster is to be.
#[derive(Clone, Debug)]
pub struct ClusterBuilder {
    flavor: Flavor,
    masters: Vec<String>,
    nodes: usize,
    sentinels: usize,
    down_after: Duration,
    failover_timeout: Duration,
    node_login: Option<Login>,
    sentinel_login: Option<Login>,
    hostnames: bool,
    pace: Pace,
    node_config: Vec<String>,
    sentinel_config: Vec<String>,
}

/// How often sentinels look at nodes while all is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// Every ten seconds, as in production.
    Usual,
    /// Several times a second.
    Brisk,
}

// === impl ClusterBuilder ===

impl ClusterBuilder {
    /// The masters' names. Without the call, `mymaster` alone.
    #[must_use]
    pub fn masters(mut self, names: &[&str]) -> Self {
        self.masters = names.iter().map(|&name| name.to_owned()).collect();
        self
    }

    /// How many nodes each master has, its primary among them. Without the call, 3.
    #[must_use]
    pub fn nodes(mut self, count: usize) -> Self {
        self.nodes = count;
        self
    }

    /// How many sentinels; a majority of them is the quorum. Without the call, 3.
    #[must_use]
    pub fn sentinels(mut self, count: usize) -> Self {
        self.sentinels = count;
        self
    }

    /// The silence after which a sentinel calls a node down. Without the call, a second.
    #[must_use]
    pub fn down_after(mut self, down_after: Duration) -> Self {
        self.down_after = down_after;
        self
    }

    /// How long a failover may take; twice that is between two attempts. Without the call, 10 seconds.
    #[must_use]
    pub fn failover_timeout(mut self, failover_timeout: Duration) -> Self {
        self.failover_timeout = failover_timeout;
        self
    }

    /// What all nodes ask for.
    #[must_use]
    pub fn node_login(mut self, login: Login) -> Self {
        self.node_login = Some(login);
        self
    }

    /// What all sentinels ask for.
    #[must_use]
    pub fn sentinel_login(mut self, login: Login) -> Self {
        self.sentinel_login = Some(login);
        self
    }

    /// Everything calls everything `localhost`, and sentinels announce that name instead of 127.0.0.1.
    #[must_use]
    pub fn hostnames(mut self) -> Self {
        self.hostnames = true;
        self
    }

    /// Sentinels notice within a second what they notice in ten in production: a primary that is none any longer, and a
    /// replica's priority. For what is not about their pace.
    #[must_use]
    pub fn brisk(mut self) -> Self {
        self.pace = Pace::Brisk;
        self
    }

    /// A line for every node's configuration.
    #[must_use]
    pub fn node_config(mut self, line: &str) -> Self {
        self.node_config.push(line.to_owned());
        self
    }

    /// A line for every sentinel's configuration.
    #[must_use]
    pub fn sentinel_config(mut self, line: &str) -> Self {
        self.sentinel_config.push(line.to_owned());
        self
    }

    /// Starts everything and waits until every replica is in sync and every sentinel knows all the others.
    ///
    /// # Errors
    /// When the server is missing or something does not come up, with the tail of its log.
    pub fn start(&self) -> Result<Cluster> {
        let mut cluster = Cluster {
            shards: self.start_shards()?,
            sentinels: Vec::new(),
        };
        // Only now, so that their first look at each replica, good for ten seconds, finds it in sync.
        cluster.sentinels = self.start_sentinels(&cluster.shards)?;
        cluster.sentinels.iter().try_for_each(Sentinel::recover_soon)?;
        if self.pace == Pace::Brisk {
            cluster.sentinels.iter().try_for_each(Sentinel::hurry)?;
        }
        cluster.wait_ready()?;
        Ok(cluster)
    }

    /// Starts the nodes alone and waits until every replica is in sync.
    ///
    /// # Errors
    /// As [`ClusterBuilder::start`].
    pub fn start_shards(&self) -> Result<Vec<Shard>> {
        let shards = self
            .masters
            .iter()
            .map(|name| self.spawn_shard(name))
            .collect::<Result<Vec<_>>>()?;
        for replica in shards.iter().flat_map(|shard| &shard.nodes[1..]) {
            replica.wait_in_sync()?;
        }
        Ok(shards)
    }

    /// Starts the sentinels of these shards without waiting.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn start_sentinels(&self, shards: &[Shard]) -> Result<Vec<Sentinel>> {
        let server = self.flavor.server()?;
        let builder = shards.iter().fold(Sentinel::builder(server), |builder, shard| {
            builder.watch(Watched {
                name: shard.name.clone(),
                host: self.host().to_owned(),
                port: shard.nodes[0].port(),
                login: self.node_login.clone(),
            })
        });
        let builder = builder
            .quorum(self.sentinels / 2 + 1)
            .down_after(self.down_after)
            .failover_timeout(self.failover_timeout)
            .login(self.sentinel_login.clone())
            .hostnames(self.hostnames);
        let builder = self
            .sentinel_config
            .iter()
            .fold(builder, |builder, line| builder.config(line));
        (0..self.sentinels).map(|_| builder.clone().spawn()).collect()
    }

    fn spawn_shard(&self, name: &str) -> Result<Shard> {
        let mut builder = Node::builder(self.flavor.server()?).login(self.node_login.clone());
        for line in &self.node_config {
            builder = builder.config(line);
        }
        if self.hostnames {
            builder = builder.config(&format!("replica-announce-ip {}", self.host()));
        }
        let primary = builder.clone().start()?;
        let builder = builder.replica_of(self.host(), primary.port());
        let replicas = (1..self.nodes).map(|_| builder.clone().spawn());
        let nodes = [Ok(primary)].into_iter().chain(replicas).collect::<Result<_>>()?;
        Ok(Shard {
            name: name.to_owned(),
            nodes,
        })
    }

    fn host(&self) -> &'static str {
        if self.hostnames { "localhost" } else { "127.0.0.1" }
    }
}

// === impl Cluster ===

impl Cluster {
    /// Describes a cluster: one master `mymaster` of three nodes, and three sentinels.
    #[must_use]
    pub fn builder(flavor: Flavor) -> ClusterBuilder {
        ClusterBuilder {
            flavor,
            masters: vec!["mymaster".to_owned()],
            nodes: 3,
            sentinels: 3,
            down_after: Duration::from_secs(1),
            failover_timeout: Duration::from_secs(10),
            node_login: None,
            sentinel_login: None,
            hostnames: false,
            pace: Pace::Usual,
            node_config: Vec::new(),
            sentinel_config: Vec::new(),
        }
    }

    /// The sentinels as `--sentinels` takes them.
    #[must_use]
    pub fn sentinel_list(&self) -> String {
        self.sentinels
            .iter()
            .map(|sentinel| sentinel.address().to_string())
            .collect::<Vec<_>>()
            .join(",")
    }

    /// The first shard: of most clusters, the only one.
    ///
    /// # Panics
    /// For a cluster without masters.
    #[must_use]
    pub fn shard(&self) -> &Shard {
        self.shards.first().expect("a cluster has a master")
    }

    /// The shard of that master.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn shard_of(&self, master: &str) -> &Shard {
        self.shards
            .iter()
            .find(|shard| shard.name == master)
            .expect("the test names a master that it asked for")
    }

    /// Waits until every sentinel sees all nodes well and all other sentinels: a failover can start.
    ///
    /// # Errors
    /// When one does not come to that, with the tail of its log.
    pub fn wait_ready(&self) -> Result<()> {
        for sentinel in &self.sentinels {
            for shard in &self.shards {
                sentinel.wait_ready(&shard.name, shard.nodes.len() - 1, self.sentinels.len() - 1)?;
            }
        }
        Ok(())
    }

    /// Starts a planned failover of the first shard (SENTINEL FAILOVER), and returns at once.
    ///
    /// # Errors
    /// When no living sentinel takes the order.
    pub fn failover_planned(&self) -> Result<()> {
        self.failover_planned_of(self.shard())
    }

    /// The same for any shard.
    ///
    /// # Errors
    /// As [`Cluster::failover_planned`].
    pub fn failover_planned_of(&self, shard: &Shard) -> Result<()> {
        let mut last = anyhow!("there are no sentinels");
        for sentinel in &self.sentinels {
            match sentinel.command(&["SENTINEL", "FAILOVER", &shard.name]) {
                Ok(_) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last.context(format!("no sentinel starts a failover of {}", shard.name)))
    }

    /// Waits until every sentinel that answers gives another port than `old` for the shard, and that node says that it is primary.
    ///
    /// # Errors
    /// When that does not come within `timeout`, with the tails of the sentinels' logs.
    pub fn wait_switched<'a>(&self, shard: &'a Shard, old: u16, timeout: Duration) -> Result<&'a Node> {
        wait_for(
            &format!("a primary of {} other than {old}", shard.name),
            timeout,
            || {
                let node = self.agreed_primary(shard)?;
                if node.port() == old {
                    bail!("it is still {old}")
                } else {
                    Ok(node)
                }
            },
        )
        .with_context(|| self.sentinel_logs())
    }

    /// The node of the first shard that the sentinels and itself call primary, waiting until they agree.
    ///
    /// # Errors
    /// When they do not, with the tails of the sentinels' logs.
    pub fn primary(&self) -> Result<&Node> {
        self.primary_of(self.shard())
    }

    /// The same for any shard.
    ///
    /// # Errors
    /// As [`Cluster::primary`].
    pub fn primary_of<'a>(&self, shard: &'a Shard) -> Result<&'a Node> {
        wait_for("agreement on the primary", STEP_TIMEOUT, || {
            self.agreed_primary(shard)
        })
        .with_context(|| self.sentinel_logs())
    }

    fn agreed_primary<'a>(&self, shard: &'a Shard) -> Result<&'a Node> {
        let living = self
            .sentinels
            .iter()
            .filter(|sentinel| sentinel.process().pid().is_some());
        let mut ports = living
            .map(|sentinel| sentinel.primary_port(&shard.name))
            .collect::<Result<Vec<_>>>()?;
        ports.dedup();
        let [port] = ports[..] else {
            bail!("the sentinels name {ports:?}")
        };
        let node = shard.node(port)?;
        match node.role()?.as_str() {
            "master" => Ok(node),
            role => bail!("{port}, named by the sentinels, says that it is a {role}"),
        }
    }

    fn sentinel_logs(&self) -> String {
        self.sentinels
            .iter()
            .map(|sentinel| sentinel.process().log_tail())
            .collect::<Vec<_>>()
            .join("\n")
    }
}

// === impl Shard ===

impl Shard {
    /// The node on that port.
    ///
    /// # Errors
    /// When it is none of ours.
    pub fn node(&self, port: u16) -> Result<&Node> {
        self.nodes
            .iter()
            .find(|node| node.port() == port)
            .ok_or_else(|| anyhow!("{port} is no node of {}", self.name))
    }

    /// The nodes that say that they are replicas.
    #[must_use]
    pub fn replicas(&self) -> Vec<&Node> {
        self.nodes
            .iter()
            .filter(|node| node.role().is_ok_and(|role| role == "slave"))
            .collect()
    }

    /// Runs `action` and says which node other than `old` became primary, and when: the moment that its ROLE said so,
    /// asked every few milliseconds, which is up to a second before most sentinels announce it.
    ///
    /// # Errors
    /// What `action` says, or that nothing was promoted within `timeout` of its end.
    pub fn promotion_during(
        &self,
        old: u16,
        timeout: Duration,
        action: impl FnOnce() -> Result<()>,
    ) -> Result<(&Node, Instant)> {
        let give_up = AtomicBool::new(false);
        thread::scope(|scope| {
            let give_up = &give_up;
            let candidates = self.nodes.iter().filter(|node| node.port() != old);
            let watches: Vec<_> = candidates
                .map(|node| scope.spawn(move || Some((node, watch_promotion(node, give_up)?))))
                .collect();
            let acted = action();
            if acted.is_ok() {
                let _ = wait_for("a promotion", timeout, || {
                    watches
                        .iter()
                        .any(|watch| watch.is_finished())
                        .then_some(())
                        .ok_or_else(|| anyhow!("none"))
                });
            }
            give_up.store(true, Ordering::Relaxed);
            let promoted = watches
                .into_iter()
                .filter_map(|watch| watch.join().expect("watching does not panic"))
                .next();
            acted?;
            promoted.ok_or_else(|| anyhow!("no node of {} was promoted within {timeout:?}", self.name))
        })
    }
}

/// The moment when the node's ROLE said `master`; `None` if `give_up` came first.
fn watch_promotion(node: &Node, give_up: &AtomicBool) -> Option<Instant> {
    const INTERVAL: Duration = Duration::from_millis(3);
    let mut connection = None;
    while !give_up.load(Ordering::Relaxed) {
        if connection.is_none() {
            connection = node.client().ok();
        }
        // A promotion kills the node's clients, so a lost connection is redialled.
        match connection.as_mut().map(|client| client.command(&["ROLE"])) {
            Some(Ok(role)) if role.texts().first().is_some_and(|role| role == "master") => {
                return Some(Instant::now());
            }
            Some(Ok(_)) => {}
            Some(Err(_)) | None => connection = None,
        }
        thread::sleep(INTERVAL);
    }
    None
}
