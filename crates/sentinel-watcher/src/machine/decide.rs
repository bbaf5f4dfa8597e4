//! The acting half: who is primary, and may commands flow?
//!
//! ```text
//!              a sign                       the candidate says `master`            a higher epoch names it
//!  Serving ─────────────> Moving ──────────────────────────────> Serving, provisional ──────> Serving
//!     ^                     │  ^                                        │
//!     └── no sign is left, ─┘  └──────── it says `slave` again ─────────┘
//!         the primary answers
//! ```

use tokio::time::Instant;

use crate::health::{FailoverEnd, Promotion};
use crate::limits;
use crate::machine::belief::{self, Claim};
use crate::machine::episode::{Episode, Progress, Sign};
use crate::machine::sentinel::{Answer, Attempt, Stage};
use crate::machine::{Action, Machine, Note};
use crate::sabotage::{Sabotage, is_sabotaged};
use crate::topology::{Epoch, HostPort, Phase, Primary, Shard};
use crate::verify::Verdict;

/// Who is believed to be primary.
pub(super) struct Belief {
    pub(super) claim: Claim,
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
        let Some(episode) = self.episode.take() else {
            return;
        };
        let end = match (&episode.progress, confirmed) {
            (Progress::Provisional(_), true) => FailoverEnd::Confirmed,
            (Progress::Provisional(_), false) => FailoverEnd::Unconfirmed,
            (Progress::Held | Progress::Clearing(_), _) => FailoverEnd::CalledOff,
        };
        let failover = episode.failover(Some((end, self.now)));
        if !is_sabotaged(Sabotage::UntoldEnds) {
            self.past_failovers.push_back(failover.clone());
        }
        while self.past_failovers.len() > limits::PAST_FAILOVERS {
            self.past_failovers.pop_front();
        }
        if end != FailoverEnd::CalledOff {
            self.failovers.count(failover.kind);
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
        let back = self.led_attempts().next().is_none() && self.sign_of_primary().is_some();
        // A former primary that nobody has demoted yet says `master`, too, and is no less former for it.
        let promoted = |address: &HostPort| {
            let node = self.nodes.get(address);
            node.is_some_and(|node| node.was_promoted_in(self.reign))
        };
        let may_be = |address: &HostPort| {
            if Some(address) == old {
                back
            } else {
                promoted(address)
            }
        };
        let fit = |address: &&HostPort| may_be(address) && says_primary(address);
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
        let Some((_, episode)) = old.zip(self.episode.as_mut()) else {
            self.shard.phase = Phase::Serving;
            self.log(Note::Found { primary: next });
            return;
        };
        let held = self.now - episode.since;
        episode.progress = Progress::Provisional(Promotion {
            address: next.clone(),
            term,
            after: held,
        });
        self.reign += 1;
        self.shard.provisional = true;
        if is_sabotaged(Sabotage::ProvisionalIsFinal) {
            let epoch = self.shard.config_epoch + 1;
            let address = next.clone();
            self.adopt(Some(&Belief {
                claim: Claim { epoch, address },
                outranks: true,
            }));
        }
        self.log(Note::Promoted { primary: next, held });
    }

    fn hold_or_release(&mut self, belief: Option<&Belief>) {
        let Some(primary) = self.primary().cloned() else {
            return;
        };
        let signs = self.signs(belief);
        match signs.first() {
            Some(gravest) => self.hold(&primary, *gravest, &signs),
            None => self.release(primary),
        }
        let holds = self.episode.as_ref().is_some_and(Episode::holds);
        self.shard.phase = if holds { Phase::Moving } else { Phase::Serving };
    }

    fn hold(&mut self, primary: &HostPort, gravest: Sign, signs: &[Sign]) {
        if self.episode.as_ref().is_none_or(|episode| !episode.holds()) {
            self.close_episode(false);
            self.episodes += 1;
            self.episode = Some(Episode::new(self.episodes, primary.clone(), gravest, self.now));
            self.log(Note::Held {
                primary: primary.clone(),
                sign: gravest.words(),
            });
        }
        let Some(episode) = &mut self.episode else { return };
        episode.progress = Progress::Held;
        let demoted = episode.was_demoted();
        episode.signs.extend(signs);
        if self.shard.provisional && !demoted && episode.was_demoted() {
            self.log(Note::TurnedBack {
                primary: primary.clone(),
            });
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
        if let (true, Some(primary)) = (episode.was_demoted(), &mut self.shard.primary) {
            primary.term = term;
        }
        let held = self.now - episode.since;
        self.close_episode(false);
        self.log(Note::Released { primary, held });
    }

    /// Every reason for commands to wait, the gravest first.
    fn signs(&mut self, belief: Option<&Belief>) -> Vec<Sign> {
        let elsewhere =
            belief.is_some_and(|belief| belief.outranks && Some(&belief.claim.address) != self.primary());
        let patience = self
            .objectively_down_since()
            .map(|since| since + limits::ELECTION_PATIENCE)
            .filter(|until| *until > self.now);
        patience.into_iter().for_each(|until| self.wake_at(until));
        let handed_over = self.handed_over.is_some() && self.handed_over.as_ref() == self.primary();
        let attempt = self.open_attempts().next().map(|_| Sign::Attempt);
        let signs = [
            attempt,
            elsewhere.then_some(Sign::NamedElsewhere),
            self.sign_of_primary(),
            patience.map(|_| Sign::ObjectivelyDown),
            handed_over.then_some(Sign::HandedOver),
            self.paused.then_some(Sign::Paused),
        ];
        signs.into_iter().flatten().collect()
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

    /// Attempts to put another node in the place of the published primary.
    fn open_attempts(&self) -> impl Iterator<Item = &Attempt> {
        self.led_attempts().filter(|attempt| match &attempt.stage {
            Stage::Promoting(candidate) => Some(candidate) != self.primary(),
            Stage::Trying | Stage::Elected => true,
        })
    }

    /// Attempts by elected leaders, as far as they are not history.
    fn led_attempts(&self) -> impl Iterator<Item = &Attempt> {
        let past = self.confirmed.as_ref().map(|claim| claim.epoch);
        let led = move |attempt: &&Attempt| match &attempt.stage {
            Stage::Trying => false,
            Stage::Elected | Stage::Promoting(_) => attempt.epoch.is_none_or(|epoch| Some(epoch) > past),
        };
        self.sentinels
            .values()
            .filter_map(|sentinel| sentinel.attempt.as_ref())
            .filter(led)
    }

    /// The nodes that open attempts promote.
    fn promoting(&self) -> impl Iterator<Item = HostPort> {
        self.open_attempts().filter_map(|attempt| match &attempt.stage {
            Stage::Promoting(candidate) => Some(candidate.clone()),
            Stage::Trying | Stage::Elected => None,
        })
    }

    /// The epoch of the next publication.
    const fn next_term(&self) -> Epoch {
        Epoch(self.epoch.0 + 1)
    }

    fn wake_at(&mut self, at: Instant) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
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
