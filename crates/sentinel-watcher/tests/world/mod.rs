//! A small world in memory: nodes that know their role, sentinels that say what they are told to say.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::BytesMut;
use resp_codec::{Command, RequestLimits, RequestScan, write};
use sentinel_watcher::{
    BoxIo, Credentials, Dial, Dialing, Health, HealthFeed, HintSender, HostPort, Phase, Secret, Shard,
    Steering, TopologyFeed, WatcherConfig, watcher,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// How long any test waits, in the world's time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Everything that can be dialled.
#[derive(Clone, Default)]
pub(crate) struct World(Arc<Mutex<Servers>>);

#[derive(Default)]
struct Servers {
    hosts: BTreeMap<HostPort, Host>,
    tasks: JoinSet<()>,
}

/// One server.
#[derive(Default)]
pub(crate) struct Host {
    pub(crate) manner: Manner,
    pub(crate) password: Option<&'static str>,
    pub(crate) part: Part,
    /// How many connections it took.
    pub(crate) dialled: usize,
    connections: Vec<Connection>,
    subscribers: Vec<mpsc::UnboundedSender<Vec<u8>>>,
}

/// What may happen to one connection.
#[derive(Clone, Default)]
struct Connection {
    cut: CancellationToken,
    lost: CancellationToken,
}

/// How a server treats connections.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Manner {
    #[default]
    Refuse,
    Answer,
    /// Takes connections and never answers, like a stopped process.
    Hang,
    /// Never even completes a connection.
    Swallow,
    /// Has too many clients: says so and closes.
    Full,
    /// Answers what no Redis would.
    Babble,
}

/// What a server is.
#[derive(Clone, Debug, Default)]
pub(crate) enum Part {
    #[default]
    Primary,
    Replica {
        of: u16,
    },
    Loading,
    Sentinel(Saying),
}

/// What a sentinel says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Saying {
    pub(crate) master: &'static str,
    pub(crate) primary: u16,
    pub(crate) epoch: u64,
    pub(crate) state: &'static str,
    pub(crate) replicas: Vec<u16>,
    pub(crate) others: Vec<u16>,
}

/// A watcher at work in a world.
pub(crate) struct Watching {
    pub(crate) feed: TopologyFeed,
    pub(crate) health: HealthFeed,
    pub(crate) hints: HintSender,
    pub(crate) cancel: CancellationToken,
    pub(crate) steering: Steering,
    tasks: JoinSet<()>,
}

pub(crate) fn at(port: u16) -> HostPort {
    HostPort::new("h", port)
}

// === impl World ===

impl World {
    /// Node 1 is primary, 2 and 3 follow it, sentinels 101 to 103 of master "x" agree on that.
    pub(crate) fn regular() -> Self {
        let world = Self::default();
        world.set(1, Part::Primary);
        world.set(2, Part::Replica { of: 1 });
        world.set(3, Part::Replica { of: 1 });
        for port in 101..=103 {
            let others = (101..=103).filter(|other| *other != port).collect();
            let saying = Saying {
                master: "x",
                primary: 1,
                epoch: 0,
                state: "",
                replicas: vec![2, 3],
                others,
            };
            world.set(port, Part::Sentinel(saying));
        }
        world
    }

    /// Starts a server, or changes what it is.
    pub(crate) fn set(&self, port: u16, part: Part) {
        self.change(port, |host| {
            host.part = part;
            host.manner = Manner::Answer;
        });
    }

    pub(crate) fn change<R>(&self, port: u16, change: impl FnOnce(&mut Host) -> R) -> R {
        change(self.servers().hosts.entry(at(port)).or_default())
    }

    pub(crate) fn manner(&self, port: u16, manner: Manner) {
        self.change(port, |host| host.manner = manner);
    }

    pub(crate) fn say(&self, port: u16, change: impl FnOnce(&mut Saying)) {
        self.change(port, |host| match &mut host.part {
            Part::Sentinel(saying) => change(saying),
            other => panic!("{other:?} is no sentinel"),
        });
    }

    /// Breaks all connections, as CLIENT KILL does.
    pub(crate) fn cut(&self, port: u16) {
        self.change(port, |host| {
            host.subscribers.clear();
            host.connections
                .drain(..)
                .for_each(|connection| connection.cut.cancel());
        });
    }

    /// The network forgets all connections, and tells neither end.
    pub(crate) fn lose(&self, port: u16) {
        self.change(port, |host| {
            host.subscribers.clear();
            host.connections
                .iter()
                .for_each(|connection| connection.lost.cancel());
        });
    }

    /// The process dies.
    pub(crate) fn kill(&self, port: u16) {
        self.manner(port, Manner::Refuse);
        self.cut(port);
    }

    /// A sentinel publishes an event.
    pub(crate) fn tell(&self, port: u16, channel: &str, payload: &str) {
        let mut message = BytesMut::new();
        write::command(
            &mut message,
            &[b"pmessage", b"*", channel.as_bytes(), payload.as_bytes()],
        );
        self.change(port, |host| {
            host.subscribers
                .retain(|subscriber| subscriber.send(message.to_vec()).is_ok());
            assert!(!host.subscribers.is_empty(), "nobody listens to {port}");
        });
    }

    pub(crate) fn config(&self, sentinels: &[u16]) -> WatcherConfig {
        WatcherConfig::new("x", sentinels.iter().copied().map(at).collect())
    }

    pub(crate) fn watch(&self, config: WatcherConfig) -> Watching {
        let dial = || Arc::new(self.clone());
        let (watcher, feed, hints, health) = watcher(config, dial(), dial());
        let cancel = CancellationToken::new();
        let steering = watcher.steering();
        let mut tasks = JoinSet::new();
        tasks.spawn(watcher.run(cancel.clone()));
        Watching {
            feed,
            health,
            hints,
            cancel,
            steering,
            tasks,
        }
    }

    fn servers(&self) -> MutexGuard<'_, Servers> {
        self.0.lock().expect("no test panics with the lock held")
    }

    /// Answers requests until the connection is cut.
    async fn serve(self, me: HostPort, mut io: DuplexStream, connection: Connection) {
        let (sender, mut pushes) = mpsc::unbounded_channel::<Vec<u8>>();
        let (mut buffer, mut scan, mut authenticated) = (BytesMut::new(), RequestScan::default(), false);
        if self.change(me.port, |host| host.manner == Manner::Full) {
            let _ = io.write_all(b"-ERR max number of clients reached\r\n").await;
            return;
        }
        loop {
            tokio::select! {
                biased;
                () = connection.cut.cancelled() => return,
                () = connection.lost.cancelled() => return std::future::pending().await,
                Some(push) = pushes.recv() => {
                    if io.write_all(&push).await.is_err() {
                        return;
                    }
                }
                read = io.read_buf(&mut buffer) => if !matches!(read, Ok(1..)) {
                    return;
                }
            }
            while let Some(found) = scan
                .advance(&buffer, &RequestLimits::AUTHENTICATED)
                .expect("well-formed")
            {
                let frame = buffer.split_to(found.len).freeze();
                let args: Vec<_> = Command::new(frame, found)
                    .args()
                    .map(|arg| String::from_utf8_lossy(arg).into_owned())
                    .collect();
                let reply = self.reply(&me, &args, &mut authenticated, &sender);
                if io.write_all(&reply).await.is_err() {
                    return;
                }
            }
        }
    }

    fn reply(
        &self,
        me: &HostPort,
        args: &[String],
        authenticated: &mut bool,
        pushes: &mpsc::UnboundedSender<Vec<u8>>,
    ) -> Vec<u8> {
        let mut servers = self.servers();
        let host = servers.hosts.get_mut(me).expect("it was dialled");
        // As a command's name, it is the same in any spelling.
        let mut args = args.to_vec();
        args.first_mut()
            .into_iter()
            .for_each(|name| name.make_ascii_uppercase());
        let words: Vec<_> = args.iter().map(String::as_str).collect();
        if host.manner == Manner::Hang {
            return Vec::new();
        }
        if host.manner == Manner::Babble {
            return b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec();
        }
        if let ["AUTH", .., password] = words[..] {
            *authenticated = host.password == Some(password);
            return match *authenticated {
                true => b"+OK\r\n".to_vec(),
                false => b"-WRONGPASS invalid username-password pair or user is disabled.\r\n".to_vec(),
            };
        }
        if host.password.is_some() && !*authenticated {
            return b"-NOAUTH Authentication required.\r\n".to_vec();
        }
        if words == ["PSUBSCRIBE", "*"] {
            host.subscribers.push(pushes.clone());
        }
        answer(&host.part, &words, me.port).into_bytes()
    }
}

impl Dial for World {
    fn dial<'a>(&'a self, to: &'a HostPort) -> Dialing<'a> {
        Box::pin(async move {
            let manner = self
                .servers()
                .hosts
                .get(to)
                .map(|host| host.manner)
                .unwrap_or_default();
            match manner {
                Manner::Refuse => return Err(io::ErrorKind::ConnectionRefused.into()),
                Manner::Swallow => std::future::pending().await,
                Manner::Answer | Manner::Full | Manner::Hang | Manner::Babble => {}
            }
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            let connection = Connection::default();
            let mut servers = self.servers();
            servers
                .tasks
                .spawn(self.clone().serve(to.clone(), theirs, connection.clone()));
            let host = servers.hosts.get_mut(to).expect("it has a manner");
            host.dialled += 1;
            host.connections.push(connection);
            Ok(Box::new(ours) as BoxIo)
        })
    }
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

fn array(items: &[String]) -> String {
    format!("*{}\r\n{}", items.len(), items.concat())
}

fn table(fields: &[(&str, &str)]) -> String {
    let flat: Vec<_> = fields
        .iter()
        .flat_map(|(name, value)| [bulk(name), bulk(value)])
        .collect();
    array(&flat)
}

fn answer(part: &Part, words: &[&str], port: u16) -> String {
    match (part, words) {
        (Part::Loading, ["PING"]) => "-LOADING Redis is loading the dataset in memory\r\n".to_owned(),
        (_, ["PING"]) => "+PONG\r\n".to_owned(),
        (Part::Primary | Part::Loading, ["ROLE"]) => {
            array(&[bulk("master"), ":7\r\n".to_owned(), array(&[])])
        }
        (Part::Replica { of }, ["ROLE"]) => {
            let numbers = (format!(":{of}\r\n"), ":7\r\n".to_owned());
            array(&[bulk("slave"), bulk("h"), numbers.0, bulk("connected"), numbers.1])
        }
        (Part::Sentinel(_), ["PSUBSCRIBE", "*"]) => {
            array(&[bulk("psubscribe"), bulk("*"), ":1\r\n".to_owned()])
        }
        (Part::Sentinel(_), ["SENTINEL", "MYID"]) => bulk(&format!("id-{port}")),
        (Part::Sentinel(saying), ["SENTINEL", question, master]) if *master == saying.master => {
            sentinel_answer(saying, question)
        }
        (Part::Sentinel(_), ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", _]) => "*-1\r\n".to_owned(),
        (Part::Sentinel(_), ["SENTINEL", ..]) => "-ERR No such master with that name\r\n".to_owned(),
        (_, words) => format!("-ERR unknown command '{}'\r\n", words[0]),
    }
}

fn sentinel_answer(saying: &Saying, question: &str) -> String {
    match question {
        "GET-MASTER-ADDR-BY-NAME" => array(&[bulk("h"), bulk(&saying.primary.to_string())]),
        "MASTER" => table(&[
            ("flags", "master"),
            ("config-epoch", &saying.epoch.to_string()),
            ("failover-state", saying.state),
            ("quorum", "2"),
            ("down-after-milliseconds", "1000"),
        ]),
        "REPLICAS" => {
            let replica = |port: &u16| {
                let port = port.to_string();
                table(&[
                    ("ip", "h"),
                    ("port", &port),
                    ("flags", "slave"),
                    ("slave-priority", "100"),
                ])
            };
            array(&saying.replicas.iter().map(replica).collect::<Vec<_>>())
        }
        "SENTINELS" => {
            let sentinel = |port: &u16| {
                table(&[
                    ("ip", "h"),
                    ("port", &port.to_string()),
                    ("runid", &format!("id-{port}")),
                ])
            };
            array(&saying.others.iter().map(sentinel).collect::<Vec<_>>())
        }
        other => format!("-ERR Unknown subcommand '{other}'\r\n"),
    }
}

// === impl Watching ===

impl Watching {
    /// Waits for a shard that is `wanted`; how long it took.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&Shard) -> bool) -> Duration {
        let start = Instant::now();
        let waiting = async {
            while !wanted(self.feed.load().shard(0)) {
                self.feed.changed().await;
            }
        };
        if timeout(PATIENCE, waiting).await.is_err() {
            panic!("still {:?}, {:?}", self.feed.load().shard(0), self.health.load());
        }
        start.elapsed()
    }

    /// Waits until `port` serves.
    pub(crate) async fn until_serving(&mut self, port: u16) -> Duration {
        self.until(|shard| shard.phase == Phase::Serving && is_primary(shard, port))
            .await
    }

    /// Waits for a health that is `wanted`.
    pub(crate) async fn until_health(&mut self, wanted: impl Fn(&Health) -> bool) {
        let waiting = async {
            while !wanted(&self.health.load()) {
                self.health.changed().await;
            }
        };
        if timeout(PATIENCE, waiting).await.is_err() {
            panic!("still {:?}", self.health.load());
        }
    }

    pub(crate) fn problem(&self) -> String {
        self.health.load().problem.clone().unwrap_or_default()
    }

    pub(crate) fn phase(&self) -> Phase {
        self.feed.load().shard(0).phase
    }

    /// Waits for the watcher to end.
    pub(crate) async fn ended(&mut self) {
        let ended = timeout(PATIENCE, self.tasks.join_next()).await;
        ended.expect("it ends").expect("it ran").expect("without a panic");
    }
}

pub(crate) fn is_primary(shard: &Shard, port: u16) -> bool {
    shard
        .primary
        .as_ref()
        .is_some_and(|primary| primary.address == at(port))
}

pub(crate) fn credentials(password: &str) -> Option<Credentials> {
    Some(Credentials {
        username: None,
        password: Secret::new(password.as_bytes()),
    })
}
