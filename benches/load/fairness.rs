//! The workload `fairness`: how long small requests take beside a client that asks for much, through each front.

use std::fmt::{self, Display};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use testkit::Client;
use testkit::client::encode;

use super::front::{Front, Setup};
use super::interrupt::Interrupt;
use super::lab::{KEY, Lab};
use super::options::Options;
use super::peer::Peer;
use super::progress::progress;
use super::sample::median;
use super::workload::Kind;

/// Small requests through one front beside one neighbour.
#[derive(Debug, Serialize)]
pub(super) struct FairnessResult {
    pub(super) neighbour: Neighbour,
    pub(super) peer: Peer,
    /// Medians of the rounds, in milliseconds.
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    /// Its p99 over that of Redis addressed directly: the median of the ratios within a round.
    pub(super) p99_to_direct: Option<f64>,
    /// Small requests answered in each round.
    pub(super) requests: Vec<usize>,
}

/// Who else is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Neighbour {
    Nobody,
    /// Reads values of 1 MiB, one after the other.
    LargeReader,
    /// Sends a thousand GETs at once, again and again.
    DeepPipeline,
    /// Has asked for 100 values of 1 MiB and reads none.
    NonReader,
    /// Sends a byte of a large request now and then.
    SlowSender,
}

const NEIGHBOURS: [Neighbour; 5] = [
    Neighbour::Nobody,
    Neighbour::LargeReader,
    Neighbour::DeepPipeline,
    Neighbour::NonReader,
    Neighbour::SlowSender,
];

/// Clients that send small requests, each the next once the last was answered.
const PROBES: usize = 4;

const LARGE_KEY: &str = "fairness:large";
const LARGE_BYTES: usize = 1 << 20;

/// The latencies of one round, in order.
struct Latencies(Vec<Duration>);

/// Measures every front beside every neighbour, in interleaved rounds.
pub(super) fn run(lab: &Lab, options: &Options, interrupt: &Interrupt) -> Result<Vec<FairnessResult>> {
    lab.fill(16)?;
    lab.redis
        .command(&[b"SET", LARGE_KEY.as_bytes(), &vec![b'x'; LARGE_BYTES]])?;
    let fronts: Vec<_> = options
        .peers_facing(&Kind::Fairness)
        .map(|peer| Front::start(lab, peer, Setup::plain(16)))
        .collect::<Result<_>>()?;
    let mut results = Vec::new();
    for neighbour in NEIGHBOURS {
        let mut rounds: Vec<Vec<Latencies>> = fronts.iter().map(|_| Vec::new()).collect();
        for round in 1..=options.rounds {
            for (front, rounds) in fronts.iter().zip(&mut rounds) {
                interrupt.check()?;
                progress(&format!("fairness: {neighbour}, round {round}, {}", front.peer));
                let seconds = Duration::from_secs_f64(options.seconds);
                rounds.push(
                    measure(front, neighbour, seconds)
                        .with_context(|| format!("{neighbour}, {}", front.peer))?,
                );
            }
        }
        let direct = fronts.iter().position(|front| front.peer == Peer::Direct);
        for (front, own) in fronts.iter().zip(&rounds) {
            let direct = direct.and_then(|at| rounds.get(at));
            results.push(FairnessResult {
                neighbour,
                peer: front.peer,
                p50_ms: median(own.iter().map(|round| round.ms(50))),
                p99_ms: median(own.iter().map(|round| round.ms(99))),
                p99_to_direct: direct.map(|direct| {
                    median(
                        own.iter()
                            .zip(direct)
                            .map(|(own, direct)| own.ms(99) / direct.ms(99)),
                    )
                }),
                requests: own.iter().map(|round| round.0.len()).collect(),
            });
        }
    }
    progress("");
    Ok(results)
}

fn measure(front: &Front, neighbour: Neighbour, seconds: Duration) -> Result<Latencies> {
    let socket = TcpStream::connect(front.address)?;
    let other = socket.try_clone()?;
    thread::scope(|scope| {
        let busy = scope.spawn(move || neighbour.live(socket));
        let until = Instant::now() + seconds;
        let probes: Vec<_> = (0..PROBES)
            .map(|_| scope.spawn(move || probe(front.address, until)))
            .collect();
        let mut all = Vec::new();
        for probe in probes {
            all.extend(probe.join().expect("it returns what goes wrong")?);
        }
        other.shutdown(Shutdown::Both)?;
        busy.join().expect("it ends with its socket");
        all.sort_unstable();
        Ok(Latencies(all))
    })
}

fn probe(address: SocketAddr, until: Instant) -> Result<Vec<Duration>> {
    let mut client = Client::connect(address)?;
    let request = encode(&["GET", KEY]);
    let mut latencies = Vec::new();
    while Instant::now() < until {
        let sent = Instant::now();
        client.send_raw(&request)?;
        let reply = client.read()?;
        latencies.push(sent.elapsed());
        ensure!(reply.text().is_some(), "{reply:?}");
    }
    Ok(latencies)
}

// === impl Neighbour ===

impl Neighbour {
    /// Does what it does until its socket is shut down.
    fn live(self, mut socket: TcpStream) {
        let small = encode(&["GET", KEY]);
        let large = encode(&["GET", LARGE_KEY]);
        match self {
            Self::Nobody => {}
            Self::LargeReader => {
                // `$1048576\r\n`, the value, `\r\n`.
                exchange(&mut socket, &large, 10 + LARGE_BYTES + 2);
            }
            Self::DeepPipeline => {
                // `$16\r\n`, the value, `\r\n`.
                exchange(&mut socket, &small.repeat(1000), 1000 * (5 + 16 + 2));
            }
            // The measurement keeps its socket open.
            Self::NonReader => drop(socket.write_all(&large.repeat(100))),
            Self::SlowSender => {
                let head = format!("*3\r\n$3\r\nSET\r\n$4\r\nslow\r\n${LARGE_BYTES}\r\n");
                let mut sent = socket.write_all(head.as_bytes());
                while sent.is_ok() {
                    thread::sleep(Duration::from_millis(20));
                    sent = socket.write_all(b"x");
                }
            }
        }
    }
}

/// Sends `request` and reads `bytes` of replies, again and again.
fn exchange(socket: &mut TcpStream, request: &[u8], bytes: usize) {
    let mut buf = vec![0; bytes];
    while socket.write_all(request).is_ok() && socket.read_exact(&mut buf).is_ok() {}
}

impl Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nobody => "nobody",
            Self::LargeReader => "one that reads 1 MiB values",
            Self::DeepPipeline => "one with pipelines of 1,000",
            Self::NonReader => "one that reads nothing",
            Self::SlowSender => "one that sends a byte at a time",
        })
    }
}

// === impl Latencies ===

impl Latencies {
    fn ms(&self, percent: usize) -> f64 {
        let at = self.0.len() * percent / 100;
        self.0
            .get(at)
            .map_or(0.0, |latency| latency.as_secs_f64() * 1000.0)
    }
}
