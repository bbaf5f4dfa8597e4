//! The pieces of the hot path whose instructions are counted and whose time is measured, one [`Case`] each.

use std::hint::black_box;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use proxy_core::Watch;
use resp_codec::{Command, CommandSpec, Progress, ReplyScan, RequestLimits, RequestScan};
use testkit::client::encode;

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
    /// What a case without a worker looks at.
    input: Vec<u8>,
    worker: Option<(Traffic, Bench)>,
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
    pub const ALL: [Self; 17] = [
        Self::Scan,
        Self::Lookup,
        Self::Split,
        Self::SplitMany,
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
        let worker = match self.traffic() {
            Some(traffic) => {
                let bench = Bench::start(traffic.clients, traffic.value_bytes, self.watch())?;
                Some((traffic, bench))
            }
            None => None,
        };
        let pair = match self {
            Self::Scan => [encode(&["GET", KEY]), encode(&["SET", KEY, "xxxxxxxxxxxxxxxx"])].concat(),
            Self::Split => (value(SHORT) + OK).into_bytes(),
            Self::SplitMany => format!("*10\r\n{}$-1\r\n$-1\r\n", value(SHORT).repeat(8))
                .repeat(2)
                .into_bytes(),
            _ => Vec::new(),
        };
        Ok(Prepared {
            case: self,
            input: pair.repeat(COMMANDS / 2),
            worker,
        })
    }

    /// What goes through a worker, where the case has one.
    fn traffic(self) -> Option<Traffic> {
        let get = encode(&["GET", KEY]);
        let set = |len| encode(&["SET", KEY, &"x".repeat(len)]);
        let (clients, value_bytes, requests, replies, commands) = match self {
            Self::Scan | Self::Lookup | Self::Split | Self::SplitMany => return None,
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
        let Some((traffic, bench)) = &mut self.worker else {
            return self.run_alone();
        };
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

    fn run_alone(&self) -> Result<()> {
        let mut left = self.input.as_slice();
        let mut found = 0;
        match self.case {
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
}

fn value(len: usize) -> String {
    format!("${len}\r\n{}\r\n", "x".repeat(len))
}
