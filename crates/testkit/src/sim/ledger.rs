//! What all sessions were told of their writes, against what the nodes have done.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sentinel_watcher::{HostPort, Phase, Primary};
use tokio::time::Instant;

use super::blame::{Dread, blame};
use super::node::Node;
use super::replication::Upheaval;
use super::world::{LATENCY_MILLIS, Published, World};

/// What a client was told of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was acknowledged.
    Done,
    /// Nobody knows.
    Unknown,
    /// It was not executed.
    Refused,
}

/// The writes of all sessions.
#[derive(Default)]
pub struct Ledger {
    /// What was appended to the common log, in the order of each session.
    pushed: RefCell<Vec<Pushed>>,
    /// What was put into the common queue, and the stamp of when it was taken out.
    jobs: RefCell<BTreeMap<String, Option<u64>>>,
}

struct Pushed {
    id: String,
    fate: Fate,
    asked: Instant,
    told: Instant,
}

/// Where and when a write was executed.
struct Executed {
    node: HostPort,
    at: Instant,
}

/// How late anything may be that was on its way.
pub const ON_THE_WAY: Duration = Duration::from_millis(4 * LATENCY_MILLIS);

/// How long after a promotion clients may go on writing to the old primary, where all sentinels and nodes are heard.
const PROMPT: Duration = Duration::from_millis(250);

// === impl Fate ===

impl Fate {
    /// What `shown` says, if it is no error of another kind.
    #[must_use]
    pub fn of(shown: &str, good: &str) -> Self {
        let refusals = [
            "-MASTERDOWN",
            "-READONLY",
            "-LOADING",
            "-NOREPLICAS",
            "-EXECABORT",
        ];
        if shown.starts_with("-UNKNOWN outcome") {
            Self::Unknown
        } else if !shown.starts_with(good) && refusals.iter().any(|refusal| shown.starts_with(refusal)) {
            Self::Refused
        } else {
            Self::Done
        }
    }
}

// === impl Ledger ===

impl Ledger {
    /// A session was told what became of `id`, which it asked for at `asked`; the node may have answered at `told` or
    /// later.
    pub fn note(&self, id: String, fate: Fate, asked: Instant, told: Instant) {
        self.pushed.borrow_mut().push(Pushed {
            id,
            fate,
            asked,
            told,
        });
    }

    /// The sessions that were told at `until` or later of writes that they had asked for between `from` and `until`.
    pub fn waiting(&self, from: Instant, until: Instant) -> BTreeSet<String> {
        let pushed = self.pushed.borrow();
        let waiting = pushed
            .iter()
            .filter(|one| one.asked > from && one.asked < until && one.told >= until);
        waiting.map(|one| session_of(&one.id)).collect()
    }

    /// A job was queued, or may have been.
    pub fn offer(&self, id: String) {
        self.jobs.borrow_mut().entry(id).or_insert(None);
    }

    /// A job was taken.
    pub fn take(&self, id: &str, stamp: u64, world: &World) {
        // It may be taken before its own session has heard that it was queued.
        let taken = &mut *self.jobs.borrow_mut();
        let before = taken.insert(id.to_owned(), Some(stamp)).flatten();
        if before.is_some_and(|before| before == world.stamp()) {
            blame(Dread::Repeated, format!("job {id} was taken twice"));
        }
    }

    /// Finds fault, once all is calm.
    pub fn audit(&self, world: &World) {
        let executed = self.executions(world);
        let history = world.published();
        let Some(primary) = world.primary() else {
            return blame(Dread::Stall, "no primary in the end".to_owned());
        };
        let log = primary.list("log");
        let mut last = BTreeMap::new();
        for pushed in self.pushed.borrow().iter() {
            let Pushed { id, fate, .. } = pushed;
            let done = executed.get(id.as_str()).map_or(&[][..], Vec::as_slice);
            let place = log.iter().position(|entry| entry == id);
            if done.len() > 1 || log.iter().filter(|entry| *entry == id).count() > 1 {
                blame(Dread::Repeated, format!("{id} was executed {} times", done.len()));
            }
            match (fate, done.first()) {
                (Fate::Refused, Some(_)) => {
                    blame(Dread::Repeated, format!("{id} was refused, and executed"));
                }
                (Fate::Done, None) => blame(
                    Dread::Misdelivered,
                    format!("{id} was acknowledged and never executed"),
                ),
                (Fate::Done, Some(done)) if place.is_none() => {
                    if let Some(guilt) = guilt_of_loss(pushed, done, world, &history) {
                        blame(Dread::Lost, format!("{id}: {guilt}"));
                    }
                }
                _ => {}
            }
            // Of whom nobody knows what became, it may be executed late: once its node comes to it.
            let Some(place) = place.filter(|_| *fate != Fate::Unknown) else {
                continue;
            };
            let before = last.insert(session_of(id), place);
            if before.is_some_and(|before| before > place) {
                blame(
                    Dread::Disorder,
                    format!("{id} overtook what its session sent before"),
                );
            }
        }
        for node in &world.nodes {
            for complaint in node.complaints() {
                let dread = if complaint.contains("WATCH") {
                    Dread::Lost
                } else {
                    Dread::DirtyLease
                };
                blame(dread, format!("{}: {complaint}", node.address()));
            }
        }
    }

    /// Where each entry of the log was executed, on behalf of a client.
    fn executions(&self, world: &World) -> BTreeMap<String, Vec<Executed>> {
        let mut executed = BTreeMap::<String, Vec<Executed>>::new();
        for node in &world.nodes {
            for prefix in ["RPUSH log ", "EVAL push 1 log ", "EVAL push-then-refuse 1 log "] {
                for line in node.executed(prefix) {
                    let id = line.text.rsplit(' ').next().unwrap_or_default().to_owned();
                    executed.entry(id).or_default().push(Executed {
                        node: node.address().clone(),
                        at: line.at,
                    });
                }
            }
        }
        executed
    }
}

fn session_of(id: &str) -> String {
    id.split('-').next().unwrap_or_default().to_owned()
}

/// Why an acknowledged write is lost through the proxy's fault; `None` where Redis lost it.
fn guilt_of_loss(
    pushed: &Pushed,
    done: &Executed,
    world: &World,
    history: &[Published],
) -> Option<&'static str> {
    let node = world.nodes.iter().find(|node| *node.address() == done.node)?;
    let after = |wanted: Upheaval| {
        let upheavals = node.upheavals();
        upheavals
            .iter()
            .any(|(at, upheaval)| *at >= done.at && *upheaval == wanted)
    };
    if after(Upheaval::Wiped) {
        return None;
    }
    let reigns = |published: &Published| {
        let primary = published.shard.primary.as_ref();
        primary.is_some_and(|primary| primary.address == done.node)
    };
    let sent_under = history
        .iter()
        .rposition(|published| published.at <= done.at && reigns(published));
    let Some(sent_under) = sent_under else {
        return Some("it was executed by a node that had never been primary");
    };
    let reign: &Primary = history[sent_under].shard.primary.as_ref()?;
    let ends = history[sent_under..]
        .iter()
        .position(|published| published.shard.primary.as_ref() != Some(reign));
    let Some(ends) = ends.map(|ends| ends + sent_under) else {
        // Demoted and back again, and nobody has heard of it.
        let resynced = after(Upheaval::Loaded);
        return (!resynced).then_some("its node is primary still");
    };
    if pushed.told.max(done.at) > history[ends].at + ON_THE_WAY {
        return Some("a former primary acknowledged it after the switch was known");
    }
    let held = history[..ends]
        .iter()
        .rposition(|published| published.shard.phase == Phase::Serving);
    let held = held.map_or(history[ends].at, |serving| history[serving + 1].at);
    if pushed.asked > held + ON_THE_WAY {
        return Some("it was asked for after the hold had begun, and sent to the old primary");
    }
    let next = history[ends].shard.primary.as_ref()?;
    let next = world.nodes.iter().find(|node| *node.address() == next.address)?;
    let reigned = history[sent_under].at..=history[ends].at;
    let promoted = seen_promotion(next, |at| reigned.contains(at))?;
    let well = world.was_well(promoted + PROMPT);
    (well && done.at > promoted + PROMPT).then_some("the promotion was known, and it went to the old primary")
}

/// The last promotion within some time that shows: a former primary that nobody has demoted said `master` before.
fn seen_promotion(node: &Node, within: impl Fn(&Instant) -> bool) -> Option<Instant> {
    let roles = [Upheaval::Promoted, Upheaval::Demoted];
    let mut upheavals = node.upheavals();
    upheavals.retain(|(_, upheaval)| roles.contains(upheaval));
    let last = upheavals
        .iter()
        .rposition(|(at, upheaval)| *upheaval == Upheaval::Promoted && within(at))?;
    let (_, before) = upheavals.get(last.checked_sub(1)?)?;
    (*before == Upheaval::Demoted).then_some(upheavals[last].0)
}
