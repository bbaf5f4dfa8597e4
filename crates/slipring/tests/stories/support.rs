//! What several stories share.

use std::collections::{BTreeMap, BTreeSet};
use std::net::UdpSocket;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use testkit::client::{Cause, encode};
use testkit::load::{History, Hold, Kind, Outcome, Verdict};
use testkit::proxy::ProxyBuilder;
use testkit::servers::ClusterBuilder;
use testkit::{Client, Cluster, Flavor, Node, Proxy, Reply};

use super::transactions::Move;

/// Past any failover, on a machine busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Redis writes the replies of one turn of its loop before it writes to its replicas: a kill or a freeze in between
/// takes with it what was acknowledged in that turn, whoever stands in front. So long may a turn be, on a busy machine.
pub(crate) const LAST_TURN: Duration = Duration::from_secs(1);

/// slipring, to be started.
pub(crate) fn slipring() -> ProxyBuilder {
    Proxy::builder(env!("CARGO_BIN_EXE_slipring"))
}

/// A cluster whose primary is to break. Sentinel redials a new primary once a second: with a down-after of one second it
/// would now and then call that one down at once, and fail over again.
pub(crate) fn breakable(flavor: Flavor) -> Result<Cluster> {
    Cluster::builder(flavor)
        .down_after(Duration::from_secs(2))
        .start()
}

/// A cluster that fails over when it is told to, and that no stalled machine makes do so.
pub(crate) fn steady(flavor: Flavor) -> ClusterBuilder {
    Cluster::builder(flavor).down_after(Duration::from_secs(20))
}

/// slipring before this cluster, ready.
pub(crate) fn before(cluster: &Cluster) -> Result<Proxy> {
    slipring().sentinels(cluster).start()
}

/// One command written as a line, without quotes.
pub(crate) fn ask(client: &mut Client, line: &str) -> Result<Reply> {
    client.command(&words(line)).with_context(|| line.to_owned())
}

/// A client in MONITOR is told sooner or later of a command whose words, quoted, end so.
pub(crate) fn monitors(monitor: &mut Client, words: &str) -> Result<()> {
    loop {
        let line = monitor.read()?;
        let text = line.text().unwrap_or_default();
        ensure!(!text.is_empty(), "{line:?}");
        if text.ends_with(words) {
            return Ok(());
        }
    }
}

/// One command that must be answered with this text.
pub(crate) fn says(client: &mut Client, line: &str, text: &str) -> Result<()> {
    let reply = ask(client, line)?;
    ensure!(
        reply.text() == Some(text),
        "{line}: {reply:?} instead of {text:?}"
    );
    Ok(())
}

/// One command that must be answered with this error, or one that begins so.
pub(crate) fn refuses(client: &mut Client, line: &str, start: &str) -> Result<()> {
    let reply = ask(client, line)?;
    let right = reply.error().is_some_and(|error| error.starts_with(start));
    ensure!(right, "{line}: {reply:?} instead of an error {start:?}");
    Ok(())
}

/// One command that must be answered with this number.
pub(crate) fn counts(client: &mut Client, line: &str, number: i64) -> Result<()> {
    let reply = ask(client, line)?;
    ensure!(
        reply.integer() == Some(number),
        "{line}: {reply:?} instead of {number}"
    );
    Ok(())
}

/// The words of a line; `""` stands for an empty one.
pub(crate) fn words(line: &str) -> Vec<&str> {
    line.split_whitespace()
        .map(|word| if word == "\"\"" { "" } else { word })
        .collect()
}

/// Each command on both connections: the answers must be the same to the byte.
pub(crate) fn same_answers(plain: &mut Client, proxied: &mut Client, script: &str) -> Result<()> {
    let mut differing = Vec::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let raw = |client: &mut Client| -> Result<Vec<u8>> {
            client.send(&words(line))?;
            Ok(client.read_raw()?)
        };
        let want = raw(plain).with_context(|| format!("{line}, asked of the node"))?;
        let got = raw(proxied).with_context(|| format!("{line}, asked of slipring"))?;
        if got != want {
            let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            differing.push(format!(
                "{line}\n  node:     {:?}\n  slipring: {:?}",
                shown(&want),
                shown(&got)
            ));
        }
    }
    ensure!(differing.is_empty(), "{}", differing.join("\n"));
    Ok(())
}

/// All commands in one write on both connections: `replies` of them, the same to the byte.
pub(crate) fn same_batch(
    plain: &mut Client,
    proxied: &mut Client,
    script: &str,
    replies: usize,
) -> Result<()> {
    let lines = script.lines().map(str::trim).filter(|line| !line.is_empty());
    let bytes: Vec<u8> = lines.flat_map(|line| encode(&words(line))).collect();
    let raw = |client: &mut Client| -> Result<Vec<u8>> {
        client.send_raw(&bytes)?;
        let frames = (0..replies)
            .map(|_| Ok(client.read_raw()?))
            .collect::<Result<Vec<_>>>()?;
        Ok(frames.concat())
    };
    let want = raw(plain).with_context(|| format!("{script}, asked of the node"))?;
    let got = raw(proxied).with_context(|| format!("{script}, asked of slipring"))?;
    let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(
        got == want,
        "{script}\n  node:     {:?}\n  slipring: {:?}",
        shown(&want),
        shown(&got)
    );
    Ok(())
}

/// This machine's address towards others; nothing is sent.
pub(crate) fn outward() -> Result<std::net::IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect("192.0.2.1:9")?;
    Ok(socket.local_addr()?.ip())
}

/// How often a node has executed each command.
pub(crate) fn command_stats(node: &Node) -> Result<BTreeMap<String, u64>> {
    let info = node.command(&["INFO", "commandstats"])?;
    let stats = info.text().unwrap_or_default().lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
    });
    Ok(stats.collect())
}

/// How many writes of a load's kinds a node has executed.
pub(crate) fn writes_executed(node: &Node) -> Result<u64> {
    let stats = command_stats(node)?;
    let writes = ["set", "rpush", "incr", "exec", "blpop", "lpop"];
    Ok(writes.iter().filter_map(|name| stats.get(*name)).sum())
}

/// All that the primary holds it holds once, whole and in order; what it does not hold was acknowledged before commands waited, or
/// was under way then.
pub(crate) fn kept(history: &History, verdict: &Verdict, holds: &[Hold]) -> Result<()> {
    ensure!(verdict.is_right(), "{verdict:?}");
    let behind = history.lost_behind(verdict, holds);
    ensure!(behind.is_empty(), "{verdict:?}: {behind:?} of {holds:?}");
    let stale = history.stale_reads(verdict);
    ensure!(stale == 0, "{stale} reads older than the client's own writes");
    Ok(())
}

/// What BLPOP gave out, it gave out once; but for pops that the former primary took with it.
pub(crate) fn delivered_once(history: &History, verdict: &Verdict, moved: Move) -> Result<()> {
    for id in &verdict.redelivered {
        let pops: Vec<_> = history
            .operations
            .iter()
            .filter(|operation| operation.kind == Kind::Dequeue && operation.id == *id)
            .collect();
        ensure!(
            pops.len() == 2 && moved.took(pops[0].sent, pops[0].done),
            "popped twice; promoted at {:?}: {pops:?}",
            moved.promoted
        );
    }
    Ok(())
}

/// One subscriber on one connection, from before the story to after it.
pub(crate) struct Listener {
    thread: JoinHandle<Result<Vec<u64>>>,
    since: Instant,
}

impl Listener {
    /// Subscribes to what a [`testkit::Load`] publishes.
    pub(crate) fn start(proxy: &Proxy, resp3: bool) -> Result<Self> {
        let mut client = proxy.client()?;
        if resp3 {
            client.command(&["HELLO", "3"])?;
        }
        let confirmed = client.command(&["SUBSCRIBE", "load:channel"])?;
        ensure!(confirmed.items().len() == 3, "{confirmed:?}");
        // Messages come every few milliseconds: so long a silence is the load's end.
        client.set_timeout(PATIENCE / 2)?;
        let since = Instant::now();
        let thread = thread::spawn(move || {
            let mut heard = Vec::new();
            loop {
                match client.read() {
                    Ok(message) => match message.texts().get(2).map(String::as_str) {
                        Some("end") => return Ok(heard),
                        Some(id) => heard.push(id.parse()?),
                        None => bail!("no message: {message:?}"),
                    },
                    Err(error) if error.cause == Cause::Timeout => bail!("it never heard the end: {error}"),
                    Err(error) => bail!("the subscriber's connection: {error}"),
                }
            }
        });
        Ok(Self { thread, since })
    }

    /// Each message whose PUBLISH was acknowledged must have come, once and in order.
    pub(crate) fn finish(self, proxy: &Proxy, history: &History) -> Result<()> {
        let mut client = proxy.client()?;
        client.command(&["PUBLISH", "load:channel", "end"])?;
        let heard = self.thread.join().expect("it returns what goes wrong")?;
        ensure!(
            heard.is_sorted_by(|a, b| a < b),
            "not in order, or twice: {heard:?}"
        );
        let heard: BTreeSet<u64> = heard.into_iter().collect();
        let published = history.operations.iter().filter(|operation| {
            operation.kind == Kind::Publish
                && operation.outcome == Outcome::Acknowledged
                && operation.sent > self.since
        });
        let missed: Vec<u64> = published
            .clone()
            .map(|operation| operation.id)
            .filter(|id| !heard.contains(id))
            .collect();
        ensure!(published.count() > 50, "hardly anything was published");
        ensure!(
            missed.is_empty(),
            "published, acknowledged and not heard: {missed:?}"
        );
        Ok(())
    }
}
