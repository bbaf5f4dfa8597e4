//! The pieces of the hot path whose instructions are counted and whose time is measured, one [`Case`] each.

use std::hint::black_box;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use proxy_core::{ReadPolicy, Watch, bare};
use resp_codec::{Command, CommandSpec, Progress, ReplyScan, RequestLimits, RequestScan};
use sentinel_watcher::{Epoch, HostPort, Phase, Primary, Replica, Shard};
use testkit::client::encode;

use crate::hand_off;
use crate::in_memory::Bench;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// Finding the ends of requests, and their arguments.
    Scan,
    /// From a command's name to its row in the table.
    Lookup,
    /// Finding the ends of replies.
    Split,
    /// Finding the end of what MGET of ten keys answers, two of which are not there.
    SplitMany,
    /// From commands' specs to where they go: reads and writes, from the primary and from replicas.
    Plan,
    /// GETs of 50 clients appended to a shared connection, and its replies handed out to them.
    HandOff,
    /// The same with groups of 16.
    HandOffPipelined,
    /// GET through one worker, one client, one at a time: scan, plan, hand-off to the mux, reply.
    Get,
    /// The same with SET.
    Set,
    /// GET of 50 clients at once.
    GetFrom50,
    /// GET in pipelines of 16.
    GetPipelined,
    /// GET of 50 clients with the slow log on and one command in 1,000 sampled.
    GetFrom50Watched,
    /// GET in pipelines of 16, watched in the same way.
    GetPipelinedWatched,
    /// GET and SET by turns in pipelines of 16: no two like ones stand side by side.
    Mixed,
    /// MSET of ten keys, of 50 clients at once.
    Mset,
    /// GET of values of 1 KiB, of 50 clients at once.
    GetKib,
    /// The same with SET.
    SetKib,
    /// A client that comes, asks for one thing and goes.
    Churn,
    /// MULTI, two SETs and EXEC in one write: one block.
    Block,
    /// BLPOP, which borrows a connection of its own.
    Lease,
}

/// What goes through a worker in one round.
struct Traffic {
    clients: usize,
    value_bytes: usize,
    /// What each client sends in one write.
    requests: Vec<u8>,
    /// What it is answered with.
    replies: String,
    /// How many commands that are.
    commands: usize,
}

/// Commands in one run of a case.
pub const COMMANDS: usize = 800;

/// A case with all that it needs.
pub struct Prepared {
    case: Case,
    stage: Stage,
}

/// What a case happens on.
enum Stage {
    /// Bytes that it looks at.
    Bytes(Vec<u8>),
    /// What a plan is made from.
    Shard(Shard),
    HandOff(hand_off::Bench),
    Worker(Traffic, Bench),
}

const KEY: &str = "key:000000000001";
const OK: &str = "+OK\r\n";

/// Bytes of a short value.
const SHORT: usize = 16;

/// Long and short, early and late in the alphabet, in the cases that clients send them in.
const NAMES: [&[u8]; 8] = [
    b"GET",
    b"set",
    b"HGETALL",
    b"mset",
    b"ZRANGEBYSCORE",
    b"incr",
    b"XADD",
    b"expire",
];

// === impl Case ===

impl Case {
    /// Each of them.
    pub const ALL: [Self; 20] = [
        Self::Scan,
        Self::Lookup,
        Self::Split,
        Self::SplitMany,
        Self::Plan,
        Self::HandOff,
        Self::HandOffPipelined,
        Self::Get,
        Self::Set,
        Self::GetFrom50,
        Self::GetPipelined,
        Self::GetFrom50Watched,
        Self::GetPipelinedWatched,
        Self::Mixed,
        Self::Mset,
        Self::GetKib,
        Self::SetKib,
        Self::Churn,
        Self::Block,
        Self::Lease,
    ];

    /// Its name on a command line.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Scan => "scan",
            Self::Lookup => "lookup",
            Self::Split => "split",
            Self::SplitMany => "split-many",
            Self::Plan => "plan",
            Self::HandOff => "hand-off-c50",
            Self::HandOffPipelined => "hand-off-p16",
            Self::Get => "get",
            Self::Set => "set",
            Self::GetFrom50 => "get-c50",
            Self::GetPipelined => "get-p16",
            Self::GetFrom50Watched => "get-c50-watched",
            Self::GetPipelinedWatched => "get-p16-watched",
            Self::Mixed => "mixed-p16",
            Self::Mset => "mset-c50",
            Self::GetKib => "get-1k-c50",
            Self::SetKib => "set-1k-c50",
            Self::Churn => "churn",
            Self::Block => "multi",
            Self::Lease => "lease",
        }
    }

    /// Makes it ready to run.
    ///
    /// # Errors
    /// When its worker cannot be built.
    pub fn prepare(self) -> Result<Prepared> {
        let hand_off = |clients, group| {
            let request = encode(&["GET", KEY]);
            Stage::HandOff(hand_off::Bench::new(
                clients,
                &request,
                group,
                value(SHORT).as_bytes(),
            ))
        };
        let bytes = |pair: Vec<u8>| Stage::Bytes(pair.repeat(COMMANDS / 2));
        let stage = match (self, self.traffic()) {
            (_, Some(traffic)) => {
                let bench = Bench::start(traffic.clients, traffic.value_bytes, self.watch())?;
                Stage::Worker(traffic, bench)
            }
            (Self::Scan, _) => {
                bytes([encode(&["GET", KEY]), encode(&["SET", KEY, "xxxxxxxxxxxxxxxx"])].concat())
            }
            (Self::Split, _) => bytes((value(SHORT) + OK).into_bytes()),
            (Self::SplitMany, _) => {
                let reply = format!("*10\r\n{}$-1\r\n$-1\r\n", value(SHORT).repeat(8));
                bytes(reply.repeat(2).into_bytes())
            }
            (Self::Plan, _) => Stage::Shard(shard()),
            (Self::HandOff, _) => hand_off(50, 1),
            (Self::HandOffPipelined, _) => hand_off(1, 16),
            _ => Stage::Bytes(Vec::new()),
        };
        Ok(Prepared { case: self, stage })
    }

    /// What goes through a worker, where the case has one.
    fn traffic(self) -> Option<Traffic> {
        let get = encode(&["GET", KEY]);
        let set = |len| encode(&["SET", KEY, &"x".repeat(len)]);
        let (clients, value_bytes, requests, replies, commands) = match self {
            Self::Scan | Self::Lookup | Self::Split | Self::SplitMany => return None,
            Self::Plan | Self::HandOff | Self::HandOffPipelined => return None,
            Self::Get | Self::Churn => (1, SHORT, get, value(SHORT), 1),
            Self::Set => (1, SHORT, set(SHORT), OK.to_owned(), 1),
            Self::GetFrom50 | Self::GetFrom50Watched => (50, SHORT, get, value(SHORT), 1),
            Self::GetPipelined | Self::GetPipelinedWatched => {
                (1, SHORT, get.repeat(16), value(SHORT).repeat(16), 16)
            }
            Self::Mixed => {
                let (requests, replies) = ([get, set(SHORT)].concat(), value(SHORT) + OK);
                (1, SHORT, requests.repeat(8), replies.repeat(8), 16)
            }
            Self::Mset => {
                let pairs = [KEY, "xxxxxxxxxxxxxxxx"].repeat(10);
                (
                    50,
                    SHORT,
                    encode(&[&["MSET"], &pairs[..]].concat()),
                    OK.to_owned(),
                    1,
                )
            }
            Self::GetKib => (50, 1 << 10, get, value(1 << 10), 1),
            Self::SetKib => (50, SHORT, set(1 << 10), OK.to_owned(), 1),
            Self::Block => {
                let requests = [encode(&["MULTI"]), set(SHORT).repeat(2), encode(&["EXEC"])];
                (1, SHORT, requests.concat(), OK.repeat(4), 4)
            }
            Self::Lease => (1, SHORT, encode(&["BLPOP", KEY, "0"]), OK.to_owned(), 1),
        };
        Some(Traffic {
            clients,
            value_bytes,
            requests,
            replies,
            commands,
        })
    }

    fn watch(self) -> Watch {
        match self {
            Self::GetFrom50Watched | Self::GetPipelinedWatched => Watch {
                slower_than: Some(Duration::from_millis(10)),
                sample: Some(1000),
                spans: None,
            },
            _ => Watch::default(),
        }
    }
}

// === impl Prepared ===

impl Prepared {
    /// Sees [`COMMANDS`] commands through.
    ///
    /// # Errors
    /// When something else comes out than what goes in.
    pub fn run(&mut self) -> Result<()> {
        match &mut self.stage {
            Stage::Bytes(input) => look_through(self.case, input),
            Stage::Shard(shard) => plan(shard),
            Stage::HandOff(bench) => {
                let rounds = COMMANDS / bench.commands_of_a_round();
                (0..rounds).try_for_each(|_| bench.round())
            }
            Stage::Worker(traffic, bench) => {
                let (requests, reply_bytes) = (&traffic.requests, traffic.replies.len());
                let rounds = COMMANDS / (traffic.commands * traffic.clients);
                if self.case != Case::Churn {
                    return bench.exchange(requests, reply_bytes, rounds);
                }
                for _ in 0..rounds {
                    bench.exchange(requests, reply_bytes, 1)?;
                    bench.renew();
                }
                Ok(())
            }
        }
    }
}

/// Looks at [`COMMANDS`] names, requests or replies.
fn look_through(case: Case, mut left: &[u8]) -> Result<()> {
    let mut found = 0;
    match case {
        Case::Lookup => {
            for name in NAMES.iter().cycle().take(COMMANDS) {
                found += usize::from(CommandSpec::of(black_box(name)).id != CommandSpec::UNKNOWN.id);
            }
        }
        Case::Split | Case::SplitMany => {
            let mut scan = ReplyScan::default();
            while !left.is_empty() {
                let Progress::Complete { used, .. } = scan.feed(left)? else {
                    break;
                };
                left = left.get(used..).context("a scan past the end")?;
                found += 1;
            }
        }
        _ => {
            let mut scan = RequestScan::default();
            let limits = RequestLimits::AUTHENTICATED;
            while let Some(frame) = scan.advance(left, &limits)? {
                let (bytes, rest) = left.split_at(frame.len);
                found += usize::from(black_box(Command::new(bytes, frame)).argc() > 1);
                left = rest;
            }
        }
    }
    ensure!(found == COMMANDS, "{found} of {COMMANDS}");
    Ok(())
}

/// Plans [`COMMANDS`] commands: half of them write, and a quarter is read from replicas.
fn plan(shard: &Shard) -> Result<()> {
    let (get, set) = (CommandSpec::of(b"get"), CommandSpec::of(b"set"));
    let plans = [
        (get, ReadPolicy::Primary),
        (set, ReadPolicy::Primary),
        (get, ReadPolicy::PreferReplica),
        (set, ReadPolicy::PreferReplica),
    ];
    let mut shared = 0;
    for (turn, (spec, reads)) in plans.iter().cycle().take(COMMANDS).enumerate() {
        let is_shared = bare::is_shared(black_box(shard), *black_box(reads), black_box(spec), turn as u64);
        shared += usize::from(is_shared);
    }
    ensure!(shared == COMMANDS, "{shared} of {COMMANDS}");
    Ok(())
}

/// A primary and two replicas that may be read.
fn shard() -> Shard {
    let replica = |port| Replica {
        address: HostPort::new("replica", port),
        usable: true,
        lag_bytes: None,
        priority: 100,
    };
    Shard {
        phase: Phase::Serving,
        primary: Some(Primary {
            address: HostPort::new("primary", 6379),
            term: Epoch(1),
        }),
        replicas: vec![replica(6380), replica(6381)],
        ..Shard::unknown()
    }
}

fn value(len: usize) -> String {
    format!("${len}\r\n{}\r\n", "x".repeat(len))
}
