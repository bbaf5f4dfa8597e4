//! What only sentinels and nodes that are at odds would say: servers in memory, each of which answers as it is told.

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use resp_codec::codec::CommandDecoder;
use resp_codec::{RequestLimits, write};
use sentinel_watcher::{BoxIo, Dial, Dialing, HostPort, WatcherConfig};
use tokio::io::DuplexStream;
use tokio::task::JoinSet;
use tokio_util::codec::Framed;

use super::{Checked, nodes, sentinels};

/// A server, by what it says.
#[derive(Clone)]
enum Server {
    Sentinel {
        primary: u16,
        replicas: Vec<u16>,
        others: Vec<u16>,
        flags: &'static str,
    },
    Primary {
        connected: usize,
    },
    Replica {
        link: &'static str,
    },
}

/// All that can be dialled, by port.
struct Servers {
    servers: BTreeMap<u16, Server>,
    tasks: Mutex<JoinSet<()>>,
}

/// One wrong set-up: what changes, what is found, how it is graded, and what mends it.
type Case = (fn(&mut Servers), &'static str, &'static str, &'static str);

const CASES: [Case; 8] = [
    (
        |servers| {
            (101..=103).for_each(|port| servers.sentinel(port, 1, &[], &[101, 102, 103]));
            servers.set(1, Server::Primary { connected: 0 });
        },
        "WRONG",
        "the primary has no replica",
        "start one with replicaof",
    ),
    (
        |servers| servers.set(2, Server::Replica { link: "down" }),
        "WRONG",
        "replica h:2: its link to the primary is down",
        "masteruser and masterauth",
    ),
    (
        |servers| (2..=3).for_each(|port| servers.set(port, Server::Replica { link: "down" })),
        "WRONG",
        "no replica can be promoted",
        "see what is said of each",
    ),
    (
        |servers| (101..=102).for_each(|port| servers.sentinel(port, 1, &[2, 3], &[101, 102])),
        "RISK",
        "there are 2 sentinels",
        "run three of them",
    ),
    (
        |servers| servers.sentinel(103, 2, &[1, 3], &[101, 102, 103]),
        "WRONG",
        "sentinels disagree about the primary: h:1, h:2",
        "wait for a failover to end",
    ),
    (
        |servers| {
            servers.sentinel(102, 1, &[2, 3], &[101, 102, 103]);
            if let Some(Server::Sentinel { flags, .. }) = servers.servers.get_mut(&102) {
                *flags = "s_down,master,disconnected";
            }
        },
        "WRONG",
        "sentinel h:102 cannot reach the primary (s_down)",
        "sentinel auth-pass",
    ),
    (
        |servers| servers.set(1, Server::Replica { link: "up" }),
        "WRONG",
        "primary h:1: it says that it is a replica",
        "REPLICAOF NO ONE",
    ),
    (
        |servers| servers.set(3, Server::Primary { connected: 0 }),
        "WRONG",
        "replica h:3: it says that it is a primary",
        "wait for the sentinels to reconfigure it",
    ),
];

#[tokio::test]
async fn what_sentinels_and_nodes_say_is_judged() {
    let right = Servers::regular().check().await;
    assert!(
        right.iter().all(|line| line.starts_with("ok ")),
        "nothing is wrong: {right:#?}"
    );
    for (change, grade, what, remedy) in CASES {
        let mut servers = Servers::regular();
        change(&mut servers);
        let said = servers.check().await;
        let told = said.iter().any(|found| {
            found.split_once("\n       -> ").is_some_and(|(found, mends)| {
                found.starts_with(grade) && found.contains(what) && mends.contains(remedy)
            })
        });
        assert!(told, "{grade} {what}: {remedy}\n{said:#?}");
    }
}

/// What most sentinels say is what the nodes are asked about.
#[tokio::test]
async fn where_sentinels_disagree_the_majoritys_nodes_are_asked() {
    let mut servers = Servers::regular();
    servers.sentinel(101, 2, &[1, 3], &[101, 102, 103]);
    let said = servers.check().await.join("\n");
    assert!(said.contains("ok     primary h:1 serves"), "{said}");
    assert!(said.contains("ok     replica h:2 is in sync"), "{said}");
}

// === impl Servers ===

impl Servers {
    /// Node 1 is primary, 2 and 3 follow it, sentinels 101 to 103 agree on that.
    fn regular() -> Self {
        let mut all = Self {
            servers: BTreeMap::new(),
            tasks: Mutex::default(),
        };
        all.set(1, Server::Primary { connected: 2 });
        (2..=3).for_each(|port| all.set(port, Server::Replica { link: "up" }));
        (101..=103).for_each(|port| all.sentinel(port, 1, &[2, 3], &[101, 102, 103]));
        all
    }

    fn set(&mut self, port: u16, server: Server) {
        self.servers.insert(port, server);
    }

    /// `all`: the sentinels that there are, itself included.
    fn sentinel(&mut self, port: u16, primary: u16, replicas: &[u16], all: &[u16]) {
        let others = all.iter().copied().filter(|other| *other != port);
        let server = Server::Sentinel {
            primary,
            replicas: replicas.to_vec(),
            others: others.collect(),
            flags: "master",
        };
        self.set(port, server);
    }

    /// All that `slipring check` prints of them, one string a finding.
    async fn check(&self) -> Vec<String> {
        let watched = WatcherConfig::new("m", vec![HostPort::new("h", 101)]);
        let checked = Checked {
            watched: &watched,
            node_tls: false,
            sentinel_tls: false,
        };
        let mut found = Vec::new();
        let view = sentinels::look(&checked, self, &mut found).await;
        nodes::look(&checked, self, &view.expect("a sentinel answers"), &mut found).await;
        found.iter().map(ToString::to_string).collect()
    }
}

impl Dial for Servers {
    fn dial<'a>(&'a self, to: &'a HostPort) -> Dialing<'a> {
        Box::pin(async move {
            let server = self.servers.get(&to.port).cloned();
            let server = server.ok_or(io::ErrorKind::ConnectionRefused)?;
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            self.tasks.lock().unwrap().spawn(serve(server, theirs));
            Ok(Box::new(ours) as BoxIo)
        })
    }
}

async fn serve(server: Server, io: DuplexStream) {
    let mut io = Framed::new(io, CommandDecoder::new(RequestLimits::AUTHENTICATED));
    while let Some(Ok(command)) = io.next().await {
        let words: Vec<_> = command.args().map(String::from_utf8_lossy).collect();
        let words: Vec<_> = words.iter().map(|word| &**word).collect();
        let _ = io.send(server.answer(&words)).await;
    }
}

// === impl Server ===

impl Server {
    fn answer(&self, words: &[&str]) -> Bytes {
        let mut out = BytesMut::new();
        match (self, words) {
            (_, ["PING"]) => write::simple(&mut out, "PONG"),
            (Self::Sentinel { primary, .. }, ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", _]) => {
                flat(&mut out, &["h", &primary.to_string()]);
            }
            (Self::Sentinel { flags, .. }, ["SENTINEL", "MASTER", _]) => {
                let state = ["flags", flags, "quorum", "2", "down-after-milliseconds", "5000"];
                flat(&mut out, &state);
            }
            (Self::Sentinel { replicas, .. }, ["SENTINEL", "REPLICAS", _]) => instances(&mut out, replicas),
            (Self::Sentinel { others, .. }, ["SENTINEL", "SENTINELS", _]) => instances(&mut out, others),
            (Self::Primary { .. }, ["ROLE"]) => flat(&mut out, &["master"]),
            (Self::Replica { .. }, ["ROLE"]) => flat(&mut out, &["slave"]),
            (Self::Primary { connected }, ["INFO", _]) => {
                let info = format!("role:master\r\nconnected_slaves:{connected}\r\n");
                write::bulk(&mut out, Some(info.as_bytes()));
            }
            (Self::Replica { link }, ["INFO", _]) => {
                let info = format!("role:slave\r\nmaster_link_status:{link}\r\nslave_priority:100\r\n");
                write::bulk(&mut out, Some(info.as_bytes()));
            }
            (_, ["CONFIG", "GET", "m*"]) => flat(&mut out, &["min-replicas-to-write", "1", "masterauth", ""]),
            _ => write::array_header(&mut out, 0),
        }
        out.freeze()
    }
}

fn flat(out: &mut BytesMut, words: &[&str]) {
    write::array_header(out, words.len());
    words
        .iter()
        .for_each(|word| write::bulk(out, Some(word.as_bytes())));
}

fn instances(out: &mut BytesMut, ports: &[u16]) {
    write::array_header(out, ports.len());
    for port in ports {
        flat(out, &["ip", "h", "port", &port.to_string()]);
    }
}
