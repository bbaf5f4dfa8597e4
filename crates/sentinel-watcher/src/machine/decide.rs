//! The acting half: who is primary, and may commands flow?
//!
//! ```text
//!              a sign                       the candidate says `master`            a higher epoch names it
//!  Serving ─────────────> Moving ──────────────────────────────> Serving, provisional ──────> Serving
//!     ^                     │  ^                                        │
//!     └── no sign is left, ─┘  └──────── it says `slave` again ─────────┘
//!         the primary answers
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::health::{Failover, FailoverKind};
use crate::limits;
use crate::machine::belief::{self, Claim};
use crate::machine::node::{Node, Reign};
use crate::machine::sentinel::{Answer, Attempt, Sentinel, Stage};
use crate::machine::{Action, Machine, Note};
use crate::topology::{Epoch, HostPort, Phase, Primary, Replica, Shard};
use crate::verify::Verdict;

/// A switch that is going on, from its first sign until it is confirmed or called off.
pub(super) struct Episode {
    /// When the first sign came.
    since: Instant,
    /// What it was.
    sign: Sign,
    /// A sentinel led an attempt in it.
    attempted: bool,
    /// The primary was down in it.
    down: bool,
    /// The primary said that it is a replica: it comes back, if it does, in a new term.
    demoted: bool,
    /// Who may be the next, and since when.
    candidates: BTreeMap<HostPort, Instant>,
    progress: Progress,
}

enum Progress {
    /// Commands wait: the signs persist.
    Held,
    /// Commands wait for the primary's word: no sign has been left since then.
    Clearing(Instant),
    /// Commands flow to the new primary, until its epoch is confirmed.
    Provisional(Failover),
}

/// Why commands wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// A sentinel leads a failover.
    Attempt,
    /// Sentinels name another primary.
    NamedElsewhere,
    /// Sentinels agree that it is down.
    ObjectivelyDown,
    /// It refused, or was silent on, a fresh connection of our own.
    Unreachable,
    /// It is up, and reads its data set.
    Loading,
    /// It says that it is a replica.
    Demoted,
}

/// Who is believed to be primary.
struct Belief {
    claim: Claim,
    /// It counts more than what was confirmed last.
    outranks: bool,
}

// === impl Machine ===

impl Machine {
    /// Looks at all that is known, and acts.
    pub(super) fn decide(&mut self) {
        self.wake = None;
        let before = self.shard.clone();
        self.expire_attempts();
        let belief = self.believe();
        let belief = belief.as_ref();
        self.adopt(belief);
        self.gather_candidates(belief);
        if let Some(next) = self.successor(belief) {
            self.enthrone(next);
            self.adopt(belief);
        }
        self.hold_or_release(belief);
        self.gather_candidates(belief);
        self.set_paces(belief);
        self.judge_replicas(&before);
        if differs(&self.shard, &before) {
            self.epoch = self.next_term();
            self.ask(Action::Publish(self.shard.clone()));
        }
    }

    /// A lost sentinel's attempt counts for a moment longer: its order may be on the way to the candidate.
    fn expire_attempts(&mut self) {
        let mut pending = Vec::new();
        for sentinel in self.sentinels.values_mut() {
            match sentinel.attempt_expires() {
                Some(at) if at <= self.now => sentinel.attempt = None,
                Some(at) => pending.push(at),
                None => {}
            }
        }
        pending.into_iter().for_each(|at| self.wake_at(at));
    }

    fn believe(&mut self) -> Option<Belief> {
        let mut claims = self.claims();
        let known = self.sentinels.len();
        self.overruled
            .retain(|claim| !belief::is_majority(claim, &claims, known));
        claims.retain(|claim| !self.overruled.contains(claim));
        let top = belief::highest(self.confirmed.as_ref(), &claims)?;
        let dissent = belief::dissent(&top, &claims, known);
        if dissent.as_ref() != self.dissent.as_ref().map(|(claim, _)| claim) {
            self.dissent = dissent.map(|claim| (claim, self.now));
        }
        if let Some((claim, since)) = self.dissent.clone() {
            let insisted = since + limits::DISSENT_PATIENCE;
            let is_primary = self
                .nodes
                .get(&claim.address)
                .is_some_and(|node| node.is_primary_since(since));
            if insisted > self.now {
                self.wake_at(insisted);
            } else if is_primary {
                self.overrule(&claim, &claims, top.epoch);
                return Some(Belief {
                    claim,
                    outranks: true,
                });
            }
        }
        let outranks = self
            .confirmed
            .as_ref()
            .is_none_or(|confirmed| top.epoch > confirmed.epoch);
        Some(Belief { claim: top, outranks })
    }

    /// Forgets what a majority has insisted against for long enough.
    fn overrule(&mut self, by: &Claim, claims: &[Claim], memory: u64) {
        self.log(Note::Overruled { by: by.epoch, memory });
        self.dissent = None;
        self.confirmed = None;
        let higher = claims.iter().filter(|claim| claim.epoch > by.epoch);
        self.overruled.extend(higher.cloned());
        while self.overruled.len() > limits::SENTINELS {
            self.overruled.pop_first();
        }
    }

    /// Takes over the epoch of a belief that names the published primary.
    fn adopt(&mut self, belief: Option<&Belief>) {
        let Some(Belief { claim, outranks }) = belief else {
            return;
        };
        let term = self.next_term();
        let Some(primary) = &mut self.shard.primary else {
            return;
        };
        let restored = self.shard.provisional && self.confirmed.as_ref() == Some(claim);
        if primary.address != claim.address || !(*outranks || restored) {
            return;
        }
        if !self.shard.provisional && self.confirmed.is_some() {
            // It was away and is back, and nobody saw it: that is another term.
            primary.term = term;
        }
        self.shard.provisional = false;
        self.shard.config_epoch = claim.epoch;
        self.confirmed = Some(claim.clone());
        for sentinel in self.sentinels.values_mut() {
            // Attempts of unknown epoch are taken for the one that has just ended: the next poll knows better.
            sentinel.attempt.take_if(|attempt| attempt.epoch.is_none());
        }
        if let Some(Episode {
            progress: Progress::Provisional(_),
            ..
        }) = self.episode
        {
            self.close_episode(true);
        }
    }

    /// The switch is over: the log, `/failovers` and the metrics get it.
    fn close_episode(&mut self, confirmed: bool) {
        let Some(Episode { since, progress, .. }) = self.episode.take() else {
            return;
        };
        if let Progress::Provisional(mut failover) = progress {
            failover.confirmed = confirmed.then(|| self.now - since);
            self.failovers.count(failover.kind);
            self.last_failover = Some(failover.clone());
            self.log(Note::Switched(failover));
        }
    }

    /// Remembers who may be next while commands wait.
    fn gather_candidates(&mut self, belief: Option<&Belief>) {
        let mut named: Vec<_> = self.promoting().collect();
        named.extend(belief.map(|belief| belief.claim.address.clone()));
        named.retain(|candidate| Some(candidate) != self.primary());
        if let Some(episode) = self.episode.as_mut().filter(|episode| episode.holds()) {
            for candidate in named {
                episode.candidates.entry(candidate).or_insert(self.now);
            }
        }
    }

    /// Who is to be published now instead of the present primary, if anybody.
    fn successor(&self, belief: Option<&Belief>) -> Option<HostPort> {
        let Some(primary) = self.primary() else {
            return self.first_choice(belief);
        };
        let episode = self.episode.as_ref().filter(|episode| episode.holds())?;
        let says_primary = |address: &HostPort| {
            let since = episode.candidates.get(address);
            let node = self.nodes.get(address);
            node.zip(since)
                .is_some_and(|(node, since)| node.is_primary_since(*since))
        };
        let named = belief.filter(|belief| belief.claim.address != *primary);
        if let Some(Belief {
            claim,
            outranks: true,
        }) = named
        {
            return says_primary(&claim.address).then(|| claim.address.clone());
        }
        // The sentinels may still name the old primary while the promoted one is provisional: back to it only
        // if that one fails us and nobody is promoting any longer.
        let old = named.map(|belief| &belief.claim.address);
        let back = self.open_attempts().next().is_none() && self.sign_of_primary().is_some();
        let fit = |address: &&HostPort| (back || Some(*address) != old) && says_primary(address);
        let newest = |address: &&HostPort| episode.candidates.get(*address).copied();
        episode.candidates.keys().filter(fit).max_by_key(newest).cloned()
    }

    /// The first primary of all: the believed one, once the slower sentinels have had their chance to know better.
    fn first_choice(&self, belief: Option<&Belief>) -> Option<HostPort> {
        let address = &belief?.claim.address;
        let first_report = self.first_report?;
        let is_primary = self.nodes.get(address)?.is_primary_since(first_report);
        let awaited = self
            .sentinels
            .values()
            .any(|sentinel| sentinel.answer == Answer::Awaited);
        let waited = !awaited || first_report + limits::FIRST_CHOICE_PATIENCE <= self.now;
        (is_primary && waited).then(|| address.clone())
    }

    /// Publishes `next`, which says that it is primary.
    fn enthrone(&mut self, next: HostPort) {
        let term = self.next_term();
        let old = self.shard.primary.replace(Primary {
            address: next.clone(),
            term,
        });
        let Some((old, episode)) = old.zip(self.episode.as_mut()) else {
            self.shard.phase = Phase::Serving;
            self.log(Note::Found { primary: next });
            return;
        };
        let held = self.now - episode.since;
        episode.progress = Progress::Provisional(Failover {
            kind: episode.kind(),
            from: old.address,
            to: next.clone(),
            sign: episode.sign.words(),
            candidate: episode.candidates.get(&next).map(|named| *named - episode.since),
            promoted: held,
            confirmed: None,
        });
        self.reign += 1;
        self.shard.provisional = true;
        self.log(Note::Promoted { primary: next, held });
    }

    fn hold_or_release(&mut self, belief: Option<&Belief>) {
        let Some(primary) = self.primary().cloned() else {
            return;
        };
        match self.sign(belief) {
            Some(sign) => self.hold(&primary, sign),
            None => self.release(primary),
        }
        let holds = self.episode.as_ref().is_some_and(Episode::holds);
        self.shard.phase = if holds { Phase::Moving } else { Phase::Serving };
    }

    fn hold(&mut self, primary: &HostPort, sign: Sign) {
        if self.episode.as_ref().is_none_or(|episode| !episode.holds()) {
            if self.shard.provisional && sign == Sign::Demoted {
                self.log(Note::TurnedBack {
                    primary: primary.clone(),
                });
            }
            self.close_episode(false);
            self.episode = Some(Episode::new(sign, self.now));
            self.log(Note::Held {
                primary: primary.clone(),
                sign: sign.words(),
            });
        }
        let attempted = self.open_attempts().next().is_some();
        let of_primary = self.sign_of_primary();
        let down = self.objectively_down_since().is_some() || of_primary.is_some_and(Sign::is_down);
        if let Some(episode) = &mut self.episode {
            episode.progress = Progress::Held;
            episode.attempted |= attempted;
            episode.down |= down;
            episode.demoted |= of_primary == Some(Sign::Demoted);
        }
    }

    /// Lets commands flow again once the primary has answered without any sign being left.
    fn release(&mut self, primary: HostPort) {
        let term = self.next_term();
        let Some(episode) = self.episode.as_mut().filter(|episode| episode.holds()) else {
            return;
        };
        let clear = match episode.progress {
            Progress::Clearing(since) => since,
            Progress::Held | Progress::Provisional(_) => self.now,
        };
        episode.progress = Progress::Clearing(clear);
        if !self
            .nodes
            .get(&primary)
            .is_some_and(|node| node.heard_since(clear))
        {
            return;
        }
        if let (true, Some(primary)) = (episode.demoted, &mut self.shard.primary) {
            primary.term = term;
        }
        let held = self.now - episode.since;
        self.episode = None;
        self.log(Note::Released { primary, held });
    }

    /// The gravest reason for commands to wait.
    fn sign(&mut self, belief: Option<&Belief>) -> Option<Sign> {
        let elsewhere =
            belief.is_some_and(|belief| belief.outranks && Some(&belief.claim.address) != self.primary());
        if self.open_attempts().next().is_some() {
            return Some(Sign::Attempt);
        }
        if elsewhere {
            return Some(Sign::NamedElsewhere);
        }
        if let Some(sign) = self.sign_of_primary() {
            return Some(sign);
        }
        let until = self.objectively_down_since()? + limits::ELECTION_PATIENCE;
        if until <= self.now {
            return None;
        }
        self.wake_at(until);
        Some(Sign::ObjectivelyDown)
    }

    /// What the primary itself makes us wait for.
    fn sign_of_primary(&self) -> Option<Sign> {
        match self.nodes.get(self.primary()?)?.verdict()? {
            Verdict::Unreachable(_) => Some(Sign::Unreachable),
            Verdict::Loading => Some(Sign::Loading),
            Verdict::Replica(_) => Some(Sign::Demoted),
            Verdict::Primary { .. } | Verdict::Refused(_) | Verdict::Blind(_) => None,
        }
    }

    /// Since when the sentinels that answer say `o_down` of the published primary.
    fn objectively_down_since(&self) -> Option<Instant> {
        let primary = self.primary()?;
        self.sentinels
            .values()
            .filter_map(|sentinel| sentinel.calls_down(primary))
            .min()
    }

    /// Attempts to put another node in the place of the published primary, by elected leaders.
    fn open_attempts(&self) -> impl Iterator<Item = &Attempt> {
        let past = self.confirmed.as_ref().map(|claim| claim.epoch);
        let open = move |attempt: &&Attempt| match &attempt.stage {
            Stage::Trying => false,
            Stage::Promoting(candidate) if Some(candidate) == self.primary() => false,
            Stage::Elected | Stage::Promoting(_) => attempt.epoch.is_none_or(|epoch| Some(epoch) > past),
        };
        self.sentinels
            .values()
            .filter_map(|sentinel| sentinel.attempt.as_ref())
            .filter(open)
    }

    /// The nodes that open attempts promote.
    fn promoting(&self) -> impl Iterator<Item = HostPort> {
        self.open_attempts().filter_map(|attempt| match &attempt.stage {
            Stage::Promoting(candidate) => Some(candidate.clone()),
            Stage::Trying | Stage::Elected => None,
        })
    }

    fn judge_replicas(&mut self, before: &Shard) {
        let listed = self.listed_replicas();
        let known = |address: &HostPort| self.nodes.contains_key(address);
        let reign = || Reign {
            number: self.reign,
            moving: self.shard.phase == Phase::Moving,
            is_known_node: &known,
        };
        let readable = |node: &Node, primary: &HostPort| {
            node.readable(primary, reign(), self.rules.max_replica_lag, self.now)
        };
        let replicas = listed.into_iter().filter_map(|(address, listing)| {
            let primary = self.primary().filter(|primary| **primary != address)?;
            let node = self.nodes.get(&address)?;
            Some(Replica {
                usable: !listing.down() && readable(node, primary),
                lag_bytes: node.lag_bytes(),
                priority: listing.priority,
                address,
            })
        });
        let replicas: Vec<_> = replicas.collect();
        for replica in &replicas {
            let was = before
                .replicas
                .iter()
                .find(|known| known.address == replica.address);
            if was.map_or(replica.usable, |was| was.usable != replica.usable) {
                self.log(Note::Replica {
                    address: replica.address.clone(),
                    usable: replica.usable,
                });
            }
        }
        self.shard.replicas = replicas;
    }

    /// What the sentinels that answer (or, with none of them, the last answers) say of each replica.
    fn listed_replicas(&self) -> BTreeMap<HostPort, Listing> {
        let any = self.sentinels.values().any(Sentinel::answers);
        let heard = self
            .sentinels
            .values()
            .filter(|sentinel| sentinel.answers() || !any);
        let mut listed = BTreeMap::<HostPort, Listing>::new();
        for replica in heard
            .filter_map(|sentinel| sentinel.report.as_ref())
            .flat_map(|report| &report.replicas)
        {
            let listing = listed.entry(replica.address.clone()).or_default();
            listing.priority = replica.priority;
            listing.named += 1;
            listing.called_down += usize::from(replica.down);
        }
        listed
    }

    /// Asks for each node, and each sentinel, to be asked as often as the moment needs it.
    fn set_paces(&mut self, belief: Option<&Belief>) {
        let wanted = self.wanted_nodes();
        let gone: Vec<_> = self
            .nodes
            .keys()
            .filter(|address| !wanted.contains(address))
            .cloned()
            .collect();
        for address in gone {
            self.nodes.remove(&address);
            self.ask(Action::Unprobe(address));
        }
        for address in wanted {
            let every = self.probe_every(&address, belief);
            let node = self.nodes.entry(address.clone()).or_insert_with(Node::new);
            if node.pace.replace(every) != Some(every) {
                self.ask(Action::Probe { node: address, every });
            }
        }
        let calm = self.shard.phase == Phase::Serving && !self.shard.provisional && self.dissent.is_none();
        let every = if calm {
            limits::POLL_CALM
        } else {
            limits::POLL_MOVING
        };
        if std::mem::replace(&mut self.poll_every, every) != every {
            self.ask(Action::PollEvery(every));
        }
    }

    /// Every node that matters, the most important ones first where there are too many.
    fn wanted_nodes(&self) -> Vec<HostPort> {
        let candidates = self
            .episode
            .iter()
            .flat_map(|episode| episode.candidates.keys().cloned());
        let claimed = self
            .sentinels
            .values()
            .filter_map(|sentinel| sentinel.report.as_ref());
        let mut wanted: Vec<HostPort> = self.primary().cloned().into_iter().collect();
        wanted.extend(candidates);
        wanted.extend(claimed.map(|report| report.address.clone()));
        wanted.extend(self.listed_replicas().into_keys());
        let mut seen = BTreeSet::new();
        wanted.retain(|address| seen.insert(address.clone()));
        wanted.truncate(limits::NODES);
        wanted
    }

    fn probe_every(&self, address: &HostPort, belief: Option<&Belief>) -> Duration {
        let reigning = self.primary() == Some(address);
        let holding = self.episode.as_ref().filter(|episode| episode.holds());
        let serves = |replica: &Replica| replica.usable && replica.address == *address;
        match holding {
            None if reigning && self.shard.provisional => limits::PROBE_CANDIDATE,
            None if reigning || self.shard.replicas.iter().any(serves) => limits::PROBE_CALM,
            None if self.shard.primary.is_some() => limits::PROBE_REPLICA,
            None if belief.is_some_and(|belief| belief.claim.address == *address) => limits::PROBE_HELD,
            None => limits::PROBE_CALM,
            Some(_) if reigning => limits::PROBE_HELD,
            Some(episode) if episode.candidates.contains_key(address) => limits::PROBE_CANDIDATE,
            Some(_) => limits::PROBE_REPLICA,
        }
    }

    /// The epoch of the next publication.
    const fn next_term(&self) -> Epoch {
        Epoch(self.epoch.0 + 1)
    }

    fn wake_at(&mut self, at: Instant) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}

/// What sentinels say of one replica.
#[derive(Default)]
struct Listing {
    priority: u32,
    named: usize,
    called_down: usize,
}

impl Listing {
    /// Most of those that name it call it down.
    const fn down(&self) -> bool {
        self.called_down * 2 > self.named
    }
}

/// Anything but the replicas' lag: that alone is no news.
fn differs(one: &Shard, other: &Shard) -> bool {
    let without_lag = |shard: &Shard| {
        let mut shard = shard.clone();
        shard
            .replicas
            .iter_mut()
            .for_each(|replica| replica.lag_bytes = None);
        shard
    };
    without_lag(one) != without_lag(other)
}

// === impl Episode ===

impl Episode {
    fn new(sign: Sign, since: Instant) -> Self {
        Self {
            since,
            sign,
            attempted: false,
            down: false,
            demoted: false,
            candidates: BTreeMap::new(),
            progress: Progress::Held,
        }
    }

    const fn holds(&self) -> bool {
        matches!(self.progress, Progress::Held | Progress::Clearing(_))
    }

    const fn kind(&self) -> FailoverKind {
        match (self.demoted, self.down, self.attempted) {
            (true, _, _) | (_, false, false) => FailoverKind::Manual,
            (_, true, _) => FailoverKind::Crash,
            (_, false, true) => FailoverKind::Planned,
        }
    }
}

// === impl Sign ===

impl Sign {
    const fn is_down(self) -> bool {
        matches!(self, Self::Unreachable | Self::Loading)
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Attempt => "a sentinel leads a failover",
            Self::NamedElsewhere => "sentinels name another primary",
            Self::ObjectivelyDown => "sentinels agree that it is down",
            Self::Unreachable => "it does not answer",
            Self::Loading => "it is loading its data set",
            Self::Demoted => "it says that it is a replica",
        }
    }
}
