//! A failover that loses nothing: an operator asks for it.
//!
//! ```text
//!  others' priorities   so that Sentinel prefers the replica that was asked for        (only with TO; writes flow)
//!  hold                 our clients' writes wait; what is in flight is answered
//!  CLIENT PAUSE WRITE   everybody else's writes wait, too
//!  offsets              every replica that may be promoted has all that the primary acknowledged
//!  SENTINEL FAILOVER    from here on it is a failover like any other, and the machine releases
//!  REPLICAOF, UNPAUSE   the old primary follows at once: who waits there is refused instead of forgotten
//! ```
//! Whatever fails, everything that was done is undone.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use resp_codec::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use crate::address_map::AddressMap;
use crate::dial::Dial;
use crate::limits;
use crate::link::{Link, Manners};
use crate::machine::Input;
use crate::steering::{HandedOver, Handover, Quiet};
use crate::topology::{Epoch, HostPort, Phase, Shard, TopologyFeed};
use crate::verify::Verdict;

/// One handover, with all that it needs.
pub(super) struct Conductor {
    pub(super) handover: Handover,
    pub(super) outcome: oneshot::Sender<Result<HandedOver, String>>,
    pub(super) master: Arc<str>,
    /// Those that answer.
    pub(super) sentinels: Vec<HostPort>,
    /// How many there are in all.
    pub(super) sentinels_known: usize,
    pub(super) down_after: Duration,
    pub(super) address_map: AddressMap,
    pub(super) sentinel_dial: Arc<dyn Dial>,
    pub(super) sentinel_manners: Manners,
    pub(super) node_dial: Arc<dyn Dial>,
    pub(super) node_manners: Manners,
    pub(super) feed: TopologyFeed,
    pub(super) inputs: mpsc::Sender<Input>,
    pub(super) quiet: Arc<Quiet>,
}

/// What has been done, and must be undone.
#[derive(Default)]
struct Done {
    /// Nodes whose priority was changed, and what it was.
    priorities: Vec<(HostPort, String)>,
    /// The primary makes writers wait.
    paused: Option<HostPort>,
}

/// Why it does not go on.
type Reason = String;

// === impl Conductor ===

impl Conductor {
    pub(super) async fn run(self) {
        let mut done = Done::default();
        let outcome = self.conduct(&mut done).await;
        let _ = self.inputs.send(Input::HandedOver(None)).await;
        let mut remarks = Vec::new();
        if let Some(primary) = &done.paused
            && let Err(error) = self.tell_node(primary, &[b"CLIENT", b"UNPAUSE"]).await
            && outcome.is_err()
        {
            remarks.push(format!(
                "{primary} could not be told to go on ({error}): its pause ends by itself"
            ));
        }
        for (node, priority) in &done.priorities {
            if let Err(error) = self.set_priority(node, priority).await {
                remarks.push(format!(
                    "{node} keeps a changed replica-priority instead of {priority}: {error}"
                ));
            }
        }
        let outcome = match outcome {
            Ok(mut done) => {
                done.remarks.extend(remarks);
                Ok(done)
            }
            Err(reason) => Err([vec![reason], remarks].concat().join("; ")),
        };
        match &outcome {
            Ok(done) => tracing::info!(
                master = &*self.master, from = %done.from, to = %done.to, held_ms = done.held.as_millis(),
                offset = done.offset, remarks = done.remarks.join("; "), "handed over"
            ),
            Err(reason) => tracing::warn!(master = &*self.master, reason, "not handed over"),
        }
        let _ = self.outcome.send(outcome);
    }

    async fn conduct(&self, done: &mut Done) -> Result<HandedOver, Reason> {
        let shard = self.feed.load().shard(0).clone();
        let (Phase::Serving, false, Some(primary)) = (shard.phase, shard.provisional, &shard.primary) else {
            return Err("the primary is not in place: wait until it serves".to_owned());
        };
        let from = primary.address.clone();
        let targets = self.targets(&shard)?;
        let sentinel = self.a_sentinel().await?;
        if let Some(to) = &self.handover.to {
            self.prefer(to, &shard, &sentinel, done).await?;
        }
        let mut nodes = Nodes::dial(self, &from, targets).await?;
        nodes.are_near(Instant::now() + self.handover.timeout).await?;

        let held = Instant::now();
        let deadline = held + self.handover.timeout;
        self.hold(&from, deadline).await?;
        done.paused = Some(from.clone());
        let pause = (self.handover.timeout + limits::HANDOVER_CONFIRMATION)
            .as_millis()
            .to_string();
        nodes
            .primary
            .tell(&[b"CLIENT", b"PAUSE", pause.as_bytes(), b"WRITE"])
            .await?;
        // A pause that lasts makes sentinels miss the primary: what they publish there waits with it.
        let offset = nodes
            .have_all(deadline.min(Instant::now() + self.down_after / 2))
            .await?;
        self.order_failover(&sentinel).await?;
        let to = self.switched(&from, deadline).await?;
        let waited = held.elapsed();
        let remarks = self.lead_back(&from, &to).await;
        Ok(HandedOver {
            from,
            to,
            held: waited,
            offset,
            remarks,
        })
    }

    /// Who may be promoted: each must have everything before anybody is asked to promote.
    fn targets(&self, shard: &Shard) -> Result<Vec<HostPort>, Reason> {
        let promotable = || shard.replicas.iter().filter(|replica| replica.priority != 0);
        match &self.handover.to {
            Some(to) => match shard.replicas.iter().find(|replica| replica.address == *to) {
                None => Err(format!("{to} is no replica of {}", self.master)),
                Some(replica) if replica.priority == 0 => {
                    Err(format!("{to} is never to be promoted: its replica-priority is 0"))
                }
                Some(replica) if !replica.usable => Err(format!("{to} does not follow the primary now")),
                Some(_) => Ok(vec![to.clone()]),
            },
            None => match promotable().find(|replica| !replica.usable) {
                Some(behind) => Err(format!(
                    "{} may be promoted and does not follow the primary now: name another replica with TO",
                    behind.address
                )),
                None if promotable().next().is_none() => Err("there is no replica to promote".to_owned()),
                None => Ok(promotable().map(|replica| replica.address.clone()).collect()),
            },
        }
    }

    /// A sentinel that will be asked for the failover.
    async fn a_sentinel(&self) -> Result<HostPort, Reason> {
        let mut last = "none answers".to_owned();
        for sentinel in &self.sentinels {
            match self
                .ask_sentinel(sentinel, &[b"SENTINEL", b"CKQUORUM", self.master.as_bytes()])
                .await
            {
                Ok(Value::Error(error)) => last = format!("{sentinel}: {error}"),
                Ok(_) => return Ok(sentinel.clone()),
                Err(error) => last = format!("{sentinel}: {error}"),
            }
        }
        Err(format!("no sentinel can fail over: {last}"))
    }

    /// Makes `to` the one that `sentinel` would promote, by giving the others a worse priority.
    async fn prefer(
        &self,
        to: &HostPort,
        shard: &Shard,
        sentinel: &HostPort,
        done: &mut Done,
    ) -> Result<(), Reason> {
        let own = self.priority(to).await?;
        let others = shard.replicas.iter().filter(|replica| replica.address != *to);
        let others: Vec<_> = others.map(|replica| replica.address.clone()).collect();
        for rival in &others {
            let before = self.priority(rival).await?;
            if before == 0 || before > own {
                continue;
            }
            done.priorities.push((rival.clone(), before.to_string()));
            self.set_priority(rival, &own.saturating_add(1).to_string())
                .await?;
        }
        // A sentinel learns of it, and of what was changed before, at its next INFO, within ten seconds.
        let deadline = Instant::now() + limits::HANDOVER_PRIORITIES;
        while !self.prefers(sentinel, to, own, &others).await? {
            if Instant::now() >= deadline {
                return Err(format!(
                    "sentinel {sentinel} does not take notice of the replicas' priorities"
                ));
            }
            sleep(limits::POLL_MOVING).await;
        }
        Ok(())
    }

    /// The node's own word: what sentinels say may be ten seconds old.
    async fn priority(&self, node: &HostPort) -> Result<u32, Reason> {
        let mut asked = Node::dial(self, node).await?;
        let answer = asked.tell(&[b"CONFIG", b"GET", b"replica-priority"]).await?;
        let pair = answer.as_array();
        let priority = pair.and_then(|pair| pair.get(1)?.as_str()?.parse().ok());
        priority.ok_or_else(|| format!("{node} does not tell its replica-priority"))
    }

    /// Whether the sentinel knows that `to` has the priority `own`, and all others a worse one.
    async fn prefers(
        &self,
        sentinel: &HostPort,
        to: &HostPort,
        own: u32,
        others: &[HostPort],
    ) -> Result<bool, Reason> {
        let replicas = self
            .ask_sentinel(sentinel, &[b"SENTINEL", b"REPLICAS", self.master.as_bytes()])
            .await?;
        let fits = |replica: &Value| {
            let port = u16::try_from(replica.get("port")?.as_int()?).ok()?;
            let address = self
                .address_map
                .reach(HostPort::new(replica.get("ip")?.as_str()?, port));
            let priority = u32::try_from(replica.get("slave-priority")?.as_int()?).ok()?;
            let worse = priority == 0 || priority > own || !others.contains(&address);
            Some(if address == *to { priority == own } else { worse })
        };
        Ok(replicas
            .as_array()
            .is_some_and(|all| all.iter().all(|one| fits(one) == Some(true))))
    }

    /// Makes our clients' writes wait, and waits for those under way.
    async fn hold(&self, from: &HostPort, deadline: Instant) -> Result<(), Reason> {
        let _asking = self.quiet.ask();
        let before = self.feed.load().epoch;
        let hold = Input::HandedOver(Some(from.clone()));
        self.inputs
            .send(hold)
            .await
            .map_err(|_| "the watcher ends".to_owned())?;
        let mut held: Option<Epoch> = None;
        loop {
            {
                let topology = self.feed.load();
                if topology.epoch > before && topology.shard(0).phase == Phase::Moving {
                    held.get_or_insert(topology.epoch);
                }
            }
            if held.is_some_and(|epoch| self.quiet.since_epoch(epoch)) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err("commands in flight were not answered in time".to_owned());
            }
            sleep(limits::PROBE_GAP).await;
        }
    }

    async fn order_failover(&self, sentinel: &HostPort) -> Result<(), Reason> {
        match self
            .ask_sentinel(sentinel, &[b"SENTINEL", b"FAILOVER", self.master.as_bytes()])
            .await?
        {
            Value::Error(error) => Err(format!("sentinel {sentinel} refuses: {error}")),
            _ => Ok(()),
        }
    }

    /// Waits until another primary serves.
    async fn switched(&self, from: &HostPort, deadline: Instant) -> Result<HostPort, Reason> {
        let mut feed = self.feed.clone();
        loop {
            {
                let topology = feed.load();
                let shard = topology.shard(0);
                if let (Phase::Serving, Some(primary)) = (shard.phase, &shard.primary)
                    && primary.address != *from
                {
                    return Ok(primary.address.clone());
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if timeout(left, feed.changed()).await.is_err() {
                return Err("Sentinel was asked, and has promoted nobody in time".to_owned());
            }
        }
    }

    /// Once sentinels agree on the new primary, the old one is made to follow it: Sentinel would do so ten seconds
    /// later, and until then it would acknowledge writes of those who do not know, and lose them.
    async fn lead_back(&self, from: &HostPort, to: &HostPort) -> Vec<String> {
        let mut remarks = Vec::new();
        if self.handover.to.as_ref().is_some_and(|wanted| wanted != to) {
            remarks.push(format!("Sentinel promoted {to} instead"));
        }
        let deadline = Instant::now() + limits::HANDOVER_CONFIRMATION;
        let announced = loop {
            if let Some(announced) = self.announced(to).await {
                break announced;
            }
            if Instant::now() >= deadline {
                remarks.push(format!(
                    "sentinels do not agree on it yet; {from} follows when Sentinel says so"
                ));
                return remarks;
            }
            sleep(limits::POLL_MOVING).await;
        };
        let port = announced.port.to_string();
        let follow: [&[u8]; 3] = [b"REPLICAOF", announced.host.as_bytes(), port.as_bytes()];
        if let Err(error) = self.tell_node(from, &follow).await {
            remarks.push(format!(
                "{error}: it takes others' writes, and loses them, until Sentinel demotes it"
            ));
        }
        remarks
    }

    /// How the sentinels call `to`, if all that answer call it primary and they are a majority.
    async fn announced(&self, to: &HostPort) -> Option<HostPort> {
        let mut names = Vec::new();
        for sentinel in &self.sentinels {
            let question: [&[u8]; 3] = [b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", self.master.as_bytes()];
            let Ok(answer) = self.ask_sentinel(sentinel, &question).await else {
                continue;
            };
            let parts = answer.as_array()?;
            let port = parts.get(1)?.as_str()?.parse().ok()?;
            names.push(HostPort::new(parts.first()?.as_str()?, port));
        }
        let agreed = names
            .iter()
            .all(|name| self.address_map.reach(name.clone()) == *to);
        names
            .pop()
            .filter(|_| agreed && (names.len() + 1) * 2 > self.sentinels_known)
    }

    async fn set_priority(&self, node: &HostPort, priority: &str) -> Result<(), Reason> {
        self.tell_node(
            node,
            &[b"CONFIG", b"SET", b"replica-priority", priority.as_bytes()],
        )
        .await
    }

    async fn tell_node(&self, node: &HostPort, command: &[&[u8]]) -> Result<(), Reason> {
        Node::dial(self, node).await?.tell(command).await.map(drop)
    }

    /// One question to a sentinel, over a connection of its own.
    async fn ask_sentinel(&self, sentinel: &HostPort, question: &[&[u8]]) -> Result<Value, Reason> {
        let explain = |error: io::Error| format!("sentinel {sentinel}: {error}");
        let manners = &self.sentinel_manners;
        let mut link = Link::dial(&*self.sentinel_dial, sentinel, manners.connect_timeout)
            .await
            .map_err(explain)?;
        introduced(&mut link, manners, question).await.map_err(explain)
    }
}

/// Asks `question` as whoever we are; the answer to AUTH does not matter where it is needless.
async fn introduced(link: &mut Link, manners: &Manners, question: &[&[u8]]) -> io::Result<Value> {
    let auth = manners.credentials.as_ref().map(|credentials| credentials.auth());
    let commands: Vec<&[&[u8]]> = auth.iter().map(Vec::as_slice).chain([question]).collect();
    let mut replies = link.ask(&commands, manners.answer_timeout).await?;
    replies.pop().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// A control connection to one node.
struct Node {
    address: HostPort,
    link: Link,
    answer_timeout: Duration,
}

/// The primary, and whoever may take its place.
struct Nodes {
    primary: Node,
    replicas: Vec<Node>,
}

// === impl Node ===

impl Node {
    async fn dial(conductor: &Conductor, address: &HostPort) -> Result<Self, Reason> {
        let manners = &conductor.node_manners;
        let explain = |error: io::Error| format!("{address}: {error}");
        let mut link = Link::dial(&*conductor.node_dial, address, manners.connect_timeout)
            .await
            .map_err(explain)?;
        introduced(&mut link, manners, &[b"PING"])
            .await
            .map_err(explain)?;
        Ok(Self {
            address: address.clone(),
            link,
            answer_timeout: manners.answer_timeout,
        })
    }

    /// One command that must not be refused.
    async fn tell(&mut self, command: &[&[u8]]) -> Result<Value, Reason> {
        let asked = self.link.ask(&[command], self.answer_timeout).await;
        let name = String::from_utf8_lossy(command.first().copied().unwrap_or_default()).into_owned();
        match asked.map(|mut replies| replies.pop()) {
            Ok(Some(Value::Error(error))) => Err(format!("{} refuses {name}: {error}", self.address)),
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Err(format!("{} does not answer {name}", self.address)),
            Err(error) => Err(format!("{} does not answer {name}: {error}", self.address)),
        }
    }

    async fn role(&mut self) -> Result<Verdict, Reason> {
        let role = self.tell(&[b"ROLE"]).await?;
        Ok(Verdict::read(None, &[role, Value::Null]))
    }
}

// === impl Nodes ===

impl Nodes {
    async fn dial(
        conductor: &Conductor,
        primary: &HostPort,
        replicas: Vec<HostPort>,
    ) -> Result<Self, Reason> {
        let mut nodes = Self {
            primary: Node::dial(conductor, primary).await?,
            replicas: Vec::new(),
        };
        for replica in &replicas {
            nodes.replicas.push(Node::dial(conductor, replica).await?);
        }
        Ok(nodes)
    }

    /// Waits, while writes flow, until no replica is far behind.
    async fn are_near(&mut self, deadline: Instant) -> Result<(), Reason> {
        self.reach(deadline, |offset| {
            offset.saturating_sub(limits::HANDOVER_NEAR_BYTES)
        })
        .await
        .map(drop)
    }

    /// Waits until every replica has what the primary has now.
    async fn have_all(&mut self, deadline: Instant) -> Result<u64, Reason> {
        self.reach(deadline, |offset| offset).await
    }

    async fn reach(&mut self, deadline: Instant, enough: impl Fn(u64) -> u64) -> Result<u64, Reason> {
        let Verdict::Primary { offset } = self.primary.role().await? else {
            return Err(format!("{} is not the primary any longer", self.primary.address));
        };
        for replica in &mut self.replicas {
            loop {
                match replica.role().await? {
                    Verdict::Replica(following) if following.linked && following.offset >= enough(offset) => {
                        break;
                    }
                    Verdict::Replica(_) if Instant::now() < deadline => sleep(limits::PROBE_GAP).await,
                    Verdict::Replica(_) => {
                        return Err(format!("{} does not catch up in time", replica.address));
                    }
                    _ => return Err(format!("{} is no replica any longer", replica.address)),
                }
            }
        }
        Ok(offset)
    }
}
