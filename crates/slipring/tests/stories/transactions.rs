//! Clients on connections of their own: transactions talked step by step, so that a failover finds many of them in
//! the middle, and writes of a client that is subscribed (RESP3), which travel beside its messages.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use testkit::load::Operation;
use testkit::{Client, Node, Proxy, Reply};

use super::support::{LAST_TURN, ask};

const PAUSE: Duration = Duration::from_millis(2);
const TALKING: usize = 4;
const COMPARING: usize = 3;
const SUBSCRIBED: usize = 2;

/// The clients at work.
pub(crate) struct Transactions {
    stopping: Arc<AtomicBool>,
    talking: Vec<JoinHandle<Result<Tally>>>,
    comparing: Vec<JoinHandle<Result<Tally>>>,
    subscribed: Vec<JoinHandle<Result<Tally>>>,
}

/// When a primary left, and when another came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    /// It was killed, frozen or asked to leave between these two, perhaps between a reply and the same write's way to its
    /// replicas; `None`: it stayed.
    pub(crate) broke: Option<[Instant; 2]>,
    /// The other one was promoted.
    pub(crate) promoted: Instant,
}

/// What one client's writes came to.
#[derive(Debug, Default)]
struct Tally {
    /// Executed by the replies: when sent, when answered.
    executed: BTreeMap<u64, (Instant, Instant)>,
    /// Answered with the unknown outcome.
    unknown: Vec<u64>,
    /// EXECs answered with null.
    conflicts: usize,
}

/// A moment before or after another, in words.
pub(crate) struct Since(pub(crate) Instant, pub(crate) Instant);

// === impl Transactions ===

impl Transactions {
    /// Starts clients that MULTI, others that WATCH and count in one common key, and others that write while subscribed.
    pub(crate) fn start(proxy: &Proxy) -> Result<Self> {
        let stopping = Arc::new(AtomicBool::new(false));
        let spawn = |count, work: fn(usize, &mut Client, &AtomicBool) -> Result<Tally>| -> Result<Vec<_>> {
            let one = |number| {
                let (mut client, stopping) = (proxy.client()?, Arc::clone(&stopping));
                Ok(thread::spawn(move || work(number, &mut client, &stopping)))
            };
            (0..count).map(one).collect()
        };
        Ok(Self {
            talking: spawn(TALKING, talk)?,
            comparing: spawn(COMPARING, compare)?,
            subscribed: spawn(SUBSCRIBED, write_subscribed)?,
            stopping,
        })
    }

    /// Stops the clients, none of which may have lost its connection or seen any error but the unknown outcome, and
    /// checks what `primary` holds: everything that was executed, whole, and once. Returns how many outcomes are unknown.
    pub(crate) fn finish(self, primary: &Node, moved: Move) -> Result<usize> {
        self.stopping.store(true, Ordering::Relaxed);
        let tallies = |threads: Vec<JoinHandle<Result<Tally>>>| -> Result<Vec<Tally>> {
            let joined = threads.into_iter().map(|thread| thread.join());
            joined
                .map(|tally| tally.expect("it returns what goes wrong"))
                .collect()
        };
        let talking = tallies(self.talking)?;
        let comparing = tallies(self.comparing)?;
        let subscribed = tallies(self.subscribed)?;
        let mut held = primary.client()?;
        for (number, tally) in talking.iter().enumerate() {
            let pushed = check_list(&mut held, &format!("talk:{number}"), tally, moved)?;
            let counted = number_at(&mut held, &format!("talk:{number}:count"))?;
            ensure!(
                counted == pushed,
                "talk:{number} is torn: {counted} counted, {pushed} pushed"
            );
        }
        for (number, tally) in subscribed.iter().enumerate() {
            check_list(&mut held, &format!("subscribed:{number}"), tally, moved)?;
        }
        check_values(&comparing, number_at(&mut held, "compared")?, moved)?;
        let all = || talking.iter().chain(&comparing).chain(&subscribed);
        ensure!(
            all().all(|tally| tally.executed.len() > 5),
            "hardly any transaction"
        );
        ensure!(
            comparing.iter().any(|tally| tally.conflicts > 0),
            "no WATCH ever noticed anything"
        );
        Ok(all().map(|tally| tally.unknown.len()).sum())
    }
}

/// MULTI, RPUSH of an id, INCR, EXEC; each in its own write, with a rest between.
fn talk(number: usize, client: &mut Client, stopping: &AtomicBool) -> Result<Tally> {
    let mut tally = Tally::default();
    for id in 0.. {
        if stopping.load(Ordering::Relaxed) {
            break;
        }
        let push = format!("RPUSH talk:{number} {id}");
        let count = format!("INCR talk:{number}:count");
        for line in ["MULTI", &push, &count] {
            let reply = ask(client, line)?;
            ensure!(matches!(reply.text(), Some("OK" | "QUEUED")), "{line}: {reply:?}");
            thread::sleep(PAUSE);
        }
        tally.exchange(client, id, "EXEC", |reply| reply.items().len() == 2)?;
    }
    Ok(tally)
}

/// WATCH, GET, MULTI, SET to one more, EXEC: whoever is overtaken must learn of it.
fn compare(_: usize, client: &mut Client, stopping: &AtomicBool) -> Result<Tally> {
    let mut tally = Tally::default();
    while !stopping.load(Ordering::Relaxed) {
        let watched = ask(client, "WATCH compared")?;
        ensure!(watched.text() == Some("OK"), "WATCH: {watched:?}");
        let value = number_at(client, "compared")? + 1;
        thread::sleep(PAUSE);
        for line in ["MULTI", &format!("SET compared {value}")] {
            let reply = ask(client, line)?;
            ensure!(matches!(reply.text(), Some("OK" | "QUEUED")), "{line}: {reply:?}");
        }
        tally.exchange(client, value, "EXEC", |reply| reply.items().len() == 1)?;
    }
    Ok(tally)
}

/// RPUSH of an id on a connection that is subscribed to something.
fn write_subscribed(number: usize, client: &mut Client, stopping: &AtomicBool) -> Result<Tally> {
    let mut tally = Tally::default();
    ensure!(ask(client, "HELLO 3")?.error().is_none(), "HELLO 3");
    ensure!(
        matches!(ask(client, "SUBSCRIBE silence")?, Reply::Push(_)),
        "SUBSCRIBE"
    );
    for id in 0.. {
        if stopping.load(Ordering::Relaxed) {
            break;
        }
        let line = format!("RPUSH subscribed:{number} {id}");
        tally.exchange(client, id, &line, |reply| reply.integer().is_some())?;
        thread::sleep(PAUSE);
    }
    Ok(tally)
}

// === impl Tally ===

impl Tally {
    /// The command that decides, and what became of it.
    fn exchange(
        &mut self,
        client: &mut Client,
        id: u64,
        line: &str,
        right: fn(&Reply) -> bool,
    ) -> Result<()> {
        let sent = Instant::now();
        match ask(client, line)? {
            Reply::Null => self.conflicts += 1,
            Reply::Error(text) if text.starts_with("UNKNOWN ") => self.unknown.push(id),
            reply if right(&reply) => drop(self.executed.insert(id, (sent, Instant::now()))),
            reply => bail!("{line}: {reply:?}"),
        }
        Ok(())
    }
}

/// All that was executed is in the list, once, and nothing that was not. Returns the list's length.
fn check_list(held: &mut Client, key: &str, tally: &Tally, moved: Move) -> Result<u64> {
    let list = ask(held, &format!("LRANGE {key} 0 -1"))?;
    let mut times: BTreeMap<u64, usize> = BTreeMap::new();
    for id in list.texts() {
        *times.entry(id.parse()?).or_default() += 1;
    }
    for (id, (sent, done)) in &tally.executed {
        ensure!(
            times.contains_key(id) || moved.took(*sent, *done),
            "{id} is not in {key}: sent {:?}, answered {:?} after the promotion",
            Since(*sent, moved.promoted),
            Since(*done, moved.promoted),
        );
    }
    for (id, count) in &times {
        let known = tally.executed.contains_key(id) || tally.unknown.contains(id);
        ensure!(known && *count == 1, "{id} is in {key} {count} times");
    }
    Ok(times.len() as u64)
}

/// No value was written by two transactions, the second of which would not have seen the first.
fn check_values(tallies: &[Tally], last: u64, moved: Move) -> Result<()> {
    let mut seen = BTreeMap::new();
    let executed = tallies.iter().flat_map(|tally| &tally.executed);
    for (value, &(sent, done)) in executed.filter(|(_, (sent, done))| !moved.took(*sent, *done)) {
        ensure!(
            *value <= last,
            "{value} was written, and in the end there is {last}"
        );
        if let Some((before_sent, before_done)) = seen.insert(*value, (sent, done)) {
            bail!(
                "{value} was written twice: sent {:?} and {:?}, answered {:?} and {:?} after the promotion",
                Since(before_sent, moved.promoted),
                Since(sent, moved.promoted),
                Since(before_done, moved.promoted),
                Since(done, moved.promoted)
            );
        }
    }
    Ok(())
}

/// The number stored there; 0 where nothing is.
fn number_at(client: &mut Client, key: &str) -> Result<u64> {
    match ask(client, &format!("GET {key}"))? {
        Reply::Null => Ok(0),
        reply => Ok(reply.text().context("no number")?.parse()?),
    }
}

// === impl Move ===

impl Move {
    /// What was acknowledged so may have gone with the broken primary, whoever stands before it.
    pub(crate) fn took(self, sent: Instant, done: Instant) -> bool {
        self.broke.is_some_and(|[from, to]| {
            sent < to && done + LAST_TURN > from && done < self.promoted + LAST_TURN
        })
    }
}

impl Move {
    /// The acknowledged write is not there: that must be the broken primary's doing.
    pub(crate) fn must_have_taken(self, lost: &Operation) -> Result<()> {
        let [from, to] = self.broke.unwrap_or([self.promoted; 2]);
        ensure!(
            self.took(lost.sent, lost.done),
            "lost: sent {:?} and answered {:?} after the break, which took {:?} and was {:?} before the promotion: {lost:?}",
            Since(lost.sent, from),
            Since(lost.done, from),
            to - from,
            self.promoted - from
        );
        Ok(())
    }
}

impl fmt::Debug for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < self.1 {
            f.write_str("-")?;
        }
        self.0.max(self.1).duration_since(self.0.min(self.1)).fmt(f)
    }
}
