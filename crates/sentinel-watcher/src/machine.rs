//! The watcher without its sockets: observations in, decisions out, time only as an argument.
//!
//! ```text
//!  events, polls, verdicts, hints ──> observing half ──────────> acting half ──> actions
//!                                     sentinel: what each says    decide: who is primary, who waits
//!                                     node: what each is          belief: which claim is true
//! ```
//! The observing half only remembers. The acting half looks at all that is remembered, after every input, and
//! asks for whatever follows from it; it has no other memory than the [`Episode`] that is going on.

mod belief;
mod decide;
mod episode;
mod event;
mod node;
mod note;
mod paces;
mod problem;
#[cfg(test)]
mod replay;
mod replicas;
mod report;
mod sentinel;
#[cfg(test)]
mod stories;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::address_map::AddressMap;
use crate::config::Lag;
use crate::health::{Failover, FailoverCounts, Health, ReplicaHealth, SentinelHealth};
use crate::hint::{Hint, Suspicion};
use crate::limits;
use crate::sabotage::{Sabotage, is_sabotaged};
use crate::topology::{Epoch, HostPort, Shard};
use crate::verify::Verdict;

use self::belief::Claim;
use self::episode::{Episode, Progress};
use self::node::Node;
use self::problem::unverifiable;
use self::sentinel::{Change, Sentinel};

pub(crate) use self::event::Event;
pub(crate) use self::note::Note;
pub(crate) use self::report::{PollFailure, Report, ReportedAttempt, ReportedReplica, ReportedSentinel};

/// What the machine learns.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// Nothing but that time passes.
    Tick,
    /// A sentinel's events reach us from now on.
    Subscribed(HostPort),
    /// They no longer do.
    Unsubscribed(HostPort),
    /// One event about our master.
    Heard { sentinel: HostPort, event: Event },
    /// The outcome of a poll asked at `asked`.
    Polled {
        sentinel: HostPort,
        asked: Instant,
        outcome: Result<Report, PollFailure>,
    },
    /// The outcome of a probe.
    Probed { node: HostPort, verdict: Verdict },
    /// The data plane suspects something.
    Hinted(Hint),
    /// An operator wants all writes to wait, or no longer.
    Paused(bool),
    /// An operator has this primary handed over, or no longer.
    HandedOver(Option<HostPort>),
    /// An operator has changed the rules, and names these sentinels.
    Ruled(Rules, Vec<HostPort>),
}

/// What the machine asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Keep a sentinel subscribed and polled from now on.
    Watch(HostPort),
    /// No longer.
    Forget(HostPort),
    /// Poll a sentinel at once.
    PollNow(HostPort),
    /// Poll all sentinels at this interval from now on.
    PollEvery(Duration),
    /// Ask a node for its ROLE at once, then at this interval, replacing an earlier one.
    Probe { node: HostPort, every: Duration },
    /// Ask it at once.
    ProbeNow(HostPort),
    /// Ask it at once, over a fresh connection.
    ProbeAfresh(HostPort),
    /// No longer.
    Unprobe(HostPort),
    /// Publish this under the next epoch.
    Publish(Shard),
    /// Write a line.
    Log(Note),
}

/// What the operator has set.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) master: Arc<str>,
    pub(crate) address_map: AddressMap,
    pub(crate) max_replica_lag: Option<Lag>,
}

/// All that is known of one master.
pub(crate) struct Machine {
    rules: Rules,
    /// Of the present step.
    now: Instant,
    /// What the present step asks for.
    actions: Vec<Action>,
    sentinels: BTreeMap<HostPort, Sentinel>,
    nodes: BTreeMap<HostPort, Node>,
    /// As last published.
    shard: Shard,
    /// Of the last publication.
    epoch: Epoch,
    /// How many times the primary moved to another address.
    reign: u64,
    /// The last primary that a config-epoch confirmed. Its sentinels may be away: it still counts.
    confirmed: Option<Claim>,
    /// The switch that is going on, from its first sign until it is confirmed or called off.
    episode: Option<Episode>,
    /// How many there were.
    episodes: u64,
    /// An operator wants all writes to wait.
    paused: bool,
    /// The primary that an operator has handed over: its writes wait.
    handed_over: Option<HostPort>,
    /// A majority's claim against a higher epoch, and since when.
    dissent: Option<(Claim, Instant)>,
    /// Higher claims that a majority has overruled.
    overruled: BTreeSet<Claim>,
    /// When the first report of all came.
    first_report: Option<Instant>,
    /// The interval last asked for.
    poll_every: Duration,
    /// When time alone will change something.
    wake: Option<Instant>,
    failovers: FailoverCounts,
    /// The newest last.
    past_failovers: VecDeque<Failover>,
}

// === impl Machine ===

impl Machine {
    /// A machine that knows nothing but `seeds`, and what it asks for first.
    pub(crate) fn new(rules: Rules, seeds: &[HostPort], now: Instant) -> (Self, Vec<Action>) {
        let seeds = seeds.iter().take(limits::SENTINELS);
        let sentinels: BTreeMap<_, _> = seeds.map(|seed| (seed.clone(), Sentinel::new(true))).collect();
        let mut actions = vec![Action::PollEvery(limits::POLL_MOVING)];
        actions.extend(sentinels.keys().cloned().map(Action::Watch));
        let machine = Self {
            rules,
            now,
            actions: Vec::new(),
            sentinels,
            nodes: BTreeMap::new(),
            shard: Shard::unknown(),
            epoch: Epoch(0),
            reign: 0,
            confirmed: None,
            episode: None,
            episodes: 0,
            paused: false,
            handed_over: None,
            dissent: None,
            overruled: BTreeSet::new(),
            first_report: None,
            poll_every: limits::POLL_MOVING,
            wake: None,
            failovers: FailoverCounts::default(),
            past_failovers: VecDeque::new(),
        };
        (machine, actions)
    }

    /// Learns one thing at `now`, which must not go back, and says what follows.
    pub(crate) fn step(&mut self, input: Input, now: Instant) -> Vec<Action> {
        self.now = now;
        self.observe(input);
        self.decide();
        std::mem::take(&mut self.actions)
    }

    /// When [`Input::Tick`] is due, if no other input comes before.
    pub(crate) const fn wake(&self) -> Option<Instant> {
        self.wake
    }

    /// Commands are about to flow again: nothing holds them but that the primary has not answered since.
    pub(crate) fn is_clearing(&self) -> bool {
        self.episode
            .as_ref()
            .is_some_and(|episode| matches!(episode.progress, Progress::Clearing(_)))
    }

    /// What `/readyz` and `/metrics` show.
    pub(crate) fn health(&self) -> Health {
        let sentinels = self.sentinels.iter().map(|(address, sentinel)| SentinelHealth {
            address: address.clone(),
            state: sentinel.state(),
            config_epoch: sentinel.report.as_ref().map_or(0, |report| report.epoch),
        });
        let replicas = self.shard.replicas.iter().map(|replica| ReplicaHealth {
            address: replica.address.clone(),
            usable: replica.usable,
            lag_bytes: self.nodes.get(&replica.address).and_then(Node::lag_bytes),
        });
        let reports = || {
            self.sentinels
                .values()
                .filter_map(|sentinel| sentinel.report.as_ref())
        };
        Health {
            sentinels: sentinels.collect(),
            quorum: reports().map(|report| report.quorum).max(),
            down_after: reports().map(|report| report.down_after).max(),
            config_epoch: self.claims().iter().map(|claim| claim.epoch).max().unwrap_or(0),
            replicas: replicas.collect(),
            problem: self.problem(),
            failovers: self.failovers,
            failover: self.episode.as_ref().map(|episode| episode.failover(None)),
            past_failovers: self.past_failovers.clone(),
        }
    }

    fn observe(&mut self, input: Input) {
        match input {
            Input::Tick => {}
            Input::Subscribed(sentinel) => {
                self.change_sentinel(&sentinel, |sentinel| sentinel.subscribed = true);
                self.ask(Action::PollNow(sentinel));
            }
            Input::Unsubscribed(sentinel) => {
                self.change_sentinel(&sentinel, |sentinel| sentinel.subscribed = false);
                self.ask(Action::PollNow(sentinel));
            }
            Input::Heard { sentinel, event } => self.hear(sentinel, event),
            Input::Polled {
                sentinel,
                asked,
                outcome,
            } => self.polled(&sentinel, asked, outcome),
            Input::Probed { node, verdict } => self.judge(&node, verdict),
            Input::Hinted(hint) => self.suspect(hint),
            Input::Paused(paused) => self.paused = paused,
            Input::HandedOver(primary) => self.handed_over = primary,
            Input::Ruled(rules, seeds) => self.rule(rules, &seeds),
        }
    }

    /// A sentinel that is configured no longer stays for as long as another one names it.
    fn rule(&mut self, rules: Rules, seeds: &[HostPort]) {
        self.rules = rules;
        for (address, sentinel) in &mut self.sentinels {
            sentinel.configured = seeds.contains(address);
        }
        for seed in seeds {
            if self.sentinels.len() < limits::SENTINELS && !self.sentinels.contains_key(seed) {
                self.sentinels.insert(seed.clone(), Sentinel::new(true));
                self.ask(Action::Watch(seed.clone()));
            }
        }
    }

    fn hear(&mut self, address: HostPort, event: Event) {
        let event = event.reached_through(&self.rules.address_map);
        let now = self.now;
        let mut change = Change::Nothing;
        self.change_sentinel(&address, |sentinel| change = sentinel.hear(event, now));
        match change {
            Change::Nothing => {}
            Change::Candidate(candidate) => {
                self.log(Note::Candidate {
                    sentinel: address.clone(),
                    candidate,
                });
            }
            Change::Aborted(abort) => {
                self.log(Note::Aborted {
                    sentinel: address.clone(),
                    reason: abort.reason(),
                });
            }
        }
        // Events carry no epoch and may be the last thing this sentinel says: ask at once.
        self.ask(Action::PollNow(address));
    }

    fn polled(&mut self, address: &HostPort, asked: Instant, outcome: Result<Report, PollFailure>) {
        let now = self.now;
        match outcome {
            Ok(report) => {
                self.first_report.get_or_insert(now);
                let report = report.reached_through(&self.rules.address_map);
                self.change_sentinel(address, |sentinel| sentinel.answered(report, asked, now));
                self.discover(address);
            }
            Err(failure) => self.change_sentinel(address, |sentinel| sentinel.failed(failure, now)),
        }
    }

    fn judge(&mut self, address: &HostPort, mut verdict: Verdict) {
        if let Verdict::Replica(following) = &mut verdict {
            following.of = self.rules.address_map.reach(following.of.clone());
        }
        let reigning = self.primary() == Some(address);
        let offset = self
            .primary()
            .and_then(|primary| self.nodes.get(primary))
            .and_then(|node| node.offset(self.now));
        let (now, reign) = (self.now, self.reign);
        let Some(node) = self.nodes.get_mut(address) else {
            return;
        };
        let news = node.verdict() != Some(&verdict);
        node.hear(verdict.clone(), offset, reign, now);
        if let (true, Some(before), Verdict::Primary { offset: after }) = (reigning, offset, &verdict)
            && *after < before.bytes
        {
            self.log(Note::Restarted {
                primary: address.clone(),
                before: before.bytes,
                after: *after,
            });
        }
        if let (true, Some(problem)) = (news, unverifiable(address, &verdict)) {
            self.log(Note::Unverifiable {
                node: address.clone(),
                problem,
            });
        }
    }

    fn suspect(&mut self, hint: Hint) {
        let past = match (&self.shard.primary, hint.term) {
            (Some(primary), Some(term)) => primary.term != term,
            _ => false,
        };
        if past || !self.nodes.contains_key(&hint.node) {
            return;
        }
        self.ask(match hint.suspicion {
            Suspicion::ConnectionLost | Suspicion::Demoted => Action::ProbeNow(hint.node),
            Suspicion::DialFailed | Suspicion::Silent => Action::ProbeAfresh(hint.node),
        });
    }

    /// Changes what is known of a sentinel, and logs where it fares differently for it.
    fn change_sentinel(&mut self, address: &HostPort, change: impl FnOnce(&mut Sentinel)) {
        if is_sabotaged(Sabotage::FirstSentinelOnly) && self.sentinels.keys().next() != Some(address) {
            return;
        }
        let Some(sentinel) = self.sentinels.get_mut(address) else {
            return;
        };
        let before = sentinel.state();
        change(sentinel);
        let state = sentinel.state();
        if before != state {
            let problem = sentinel.problem(address, &self.rules.master);
            self.log(Note::Sentinel {
                address: address.clone(),
                state,
                problem,
            });
        }
    }

    /// Watches the sentinels that `from` names and nobody knew; forgets the second name of a known one.
    fn discover(&mut self, from: &HostPort) {
        let Some(report) = self
            .sentinels
            .get(from)
            .and_then(|sentinel| sentinel.report.as_ref())
        else {
            return;
        };
        let (others, own) = (report.others.clone(), report.id.clone());
        for other in others {
            let known = self.sentinels.contains_key(&other.address) || self.named(&other.id).next().is_some();
            if known || self.sentinels.len() >= limits::SENTINELS {
                continue;
            }
            self.sentinels.insert(other.address.clone(), Sentinel::new(false));
            self.log(Note::Discovered {
                sentinel: other.address.clone(),
            });
            self.ask(Action::Watch(other.address));
        }
        self.forget_strangers();
        let Some(id) = own else { return };
        // The operator's name for it wins, else the first.
        let keep = self
            .named(&id)
            .max_by_key(|(address, sentinel)| (sentinel.configured, Reverse(*address)));
        let Some(keep) = keep.map(|(address, _)| address.clone()) else {
            return;
        };
        let second = |(address, sentinel): &(&HostPort, &Sentinel)| **address != keep && !sentinel.configured;
        let seconds: Vec<_> = self
            .named(&id)
            .filter(second)
            .map(|(address, _)| address.clone())
            .collect();
        for second in seconds {
            self.sentinels.remove(&second);
            self.ask(Action::Forget(second));
        }
    }

    /// Forgets discovered sentinels that are gone, and that no other one names any longer.
    fn forget_strangers(&mut self) {
        let answering = self.sentinels.values().filter(|sentinel| sentinel.answers());
        let reports = answering.filter_map(|sentinel| sentinel.report.as_ref());
        let named: BTreeSet<_> = reports
            .flat_map(|report| &report.others)
            .map(|other| &other.address)
            .collect();
        let gone = |(address, sentinel): &(&HostPort, &Sentinel)| {
            !sentinel.configured && sentinel.gone() && !named.contains(address)
        };
        let gone: Vec<_> = self
            .sentinels
            .iter()
            .filter(gone)
            .map(|(address, _)| address.clone())
            .collect();
        for stranger in gone {
            self.sentinels.remove(&stranger);
            self.ask(Action::Forget(stranger));
        }
    }

    /// Sentinels that called themselves `id`.
    fn named(&self, id: &str) -> impl Iterator<Item = (&HostPort, &Sentinel)> {
        self.sentinels
            .iter()
            .filter(move |(_, sentinel)| sentinel.id() == Some(id))
    }

    fn ask(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn log(&mut self, note: Note) {
        self.ask(Action::Log(note));
    }

    /// What the sentinels that answer now claim.
    fn claims(&self) -> Vec<Claim> {
        self.sentinels.values().filter_map(Sentinel::claim).collect()
    }

    /// The published primary.
    fn primary(&self) -> Option<&HostPort> {
        self.shard.primary.as_ref().map(|primary| &primary.address)
    }
}
