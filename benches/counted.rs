//! The pieces of the hot path whose instructions are counted and whose time is measured, one [`Case`] each.

use std::hint::black_box;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use proxy_core::Watch;
use resp_codec::{Command, CommandSpec, Progress, ReplyScan, RequestLimits, RequestScan};

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
}

/// Commands in one run of a case.
pub const COMMANDS: usize = 800;

/// A case with all that it needs.
pub struct Prepared {
    case: Case,
    input: Vec<u8>,
    reply_bytes: usize,
    rounds: usize,
    bench: Option<Bench>,
}

const GET: &str = "*2\r\n$3\r\nGET\r\n$16\r\nkey:000000000001\r\n";
const SET: &str = "*3\r\n$3\r\nSET\r\n$16\r\nkey:000000000001\r\n$16\r\nxxxxxxxxxxxxxxxx\r\n";
const VALUE: &str = "$16\r\nxxxxxxxxxxxxxxxx\r\n";
const OK: &str = "+OK\r\n";

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
    pub const ALL: [Self; 10] = [
        Self::Scan,
        Self::Lookup,
        Self::Split,
        Self::Get,
        Self::Set,
        Self::GetFrom50,
        Self::GetPipelined,
        Self::GetFrom50Watched,
        Self::GetPipelinedWatched,
        Self::Mixed,
    ];

    /// Its name on a command line.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Scan => "scan",
            Self::Lookup => "lookup",
            Self::Split => "split",
            Self::Get => "get",
            Self::Set => "set",
            Self::GetFrom50 => "get-c50",
            Self::GetPipelined => "get-p16",
            Self::GetFrom50Watched => "get-c50-watched",
            Self::GetPipelinedWatched => "get-p16-watched",
            Self::Mixed => "mixed-p16",
        }
    }

    /// Makes it ready to run.
    ///
    /// # Errors
    /// When its worker cannot be built.
    pub fn prepare(self) -> Result<Prepared> {
        let (clients, request, reply, at_once) = match self {
            Self::Scan => (0, [GET, SET].concat(), String::new(), COMMANDS / 2),
            Self::Lookup => (0, String::new(), String::new(), COMMANDS),
            Self::Split => (0, [VALUE, OK].concat(), String::new(), COMMANDS / 2),
            Self::Get => (1, GET.to_owned(), VALUE.to_owned(), 1),
            Self::Set => (1, SET.to_owned(), OK.to_owned(), 1),
            Self::GetFrom50 | Self::GetFrom50Watched => (50, GET.to_owned(), VALUE.to_owned(), 1),
            Self::GetPipelined | Self::GetPipelinedWatched => (1, GET.to_owned(), VALUE.to_owned(), 16),
            Self::Mixed => (1, [GET, SET].concat(), [VALUE, OK].concat(), 8),
        };
        let commands = if self == Self::Mixed { 2 * at_once } else { at_once };
        Ok(Prepared {
            case: self,
            input: request.repeat(at_once).into_bytes(),
            reply_bytes: reply.len() * at_once,
            rounds: COMMANDS / (commands * clients.max(1)),
            bench: if clients == 0 {
                None
            } else {
                Some(Bench::start(clients, self.watch())?)
            },
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
        match &mut self.bench {
            Some(bench) => bench.exchange(&self.input, self.reply_bytes, self.rounds),
            None => self.run_alone(),
        }
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
            Case::Split => {
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
