//! One failover, as its leader goes through it.

use std::time::Duration;

use sentinel_watcher::HostPort;
use tokio::time::Instant;

use super::{ASK, FAILOVER_TIMEOUT, QUORUM, Sentinel};

/// A failover that a sentinel leads or wants to lead.
pub(super) struct Attempt {
    epoch: u64,
    /// Since when it has been at this stage.
    since: Instant,
    pub(super) stage: Stage,
}

pub(super) enum Stage {
    /// Votes are asked for; none are needed where an operator wants it.
    WaitStart {
        forced: bool,
        next_ask: Instant,
    },
    SelectSlave,
    SendSlaveofNoOne(HostPort),
    WaitPromotion(HostPort, Instant),
    ReconfSlaves(HostPort),
    UpdateConfig(HostPort),
}

// === impl Attempt ===

impl Attempt {
    /// The replica that is primary now, as this sentinel has seen.
    pub(super) const fn promoted(&self) -> Option<&HostPort> {
        match &self.stage {
            Stage::ReconfSlaves(promoted) | Stage::UpdateConfig(promoted) => Some(promoted),
            _ => None,
        }
    }

    pub(super) const fn awaits_promotion(&self) -> bool {
        matches!(self.stage, Stage::WaitPromotion(..))
    }

    /// The replica that was chosen.
    pub(super) const fn chosen(&self) -> Option<&HostPort> {
        match &self.stage {
            Stage::WaitStart { .. } | Stage::SelectSlave => None,
            Stage::SendSlaveofNoOne(chosen)
            | Stage::WaitPromotion(chosen, _)
            | Stage::ReconfSlaves(chosen)
            | Stage::UpdateConfig(chosen) => Some(chosen),
        }
    }

    /// `failover-state`
    pub(super) const fn name(&self) -> &'static str {
        match &self.stage {
            Stage::WaitStart { .. } => "wait_start",
            Stage::SelectSlave => "select_slave",
            Stage::SendSlaveofNoOne(_) => "send_slaveof_noone",
            Stage::WaitPromotion(..) => "wait_promotion",
            Stage::ReconfSlaves(_) => "reconf_slaves",
            Stage::UpdateConfig(_) => "update_config",
        }
    }
}

// === impl Sentinel ===

impl Sentinel {
    /// SENTINEL FAILOVER; false where it refuses.
    #[must_use]
    pub fn fail_over(&self) -> bool {
        let fit = self.is_running() && !self.is_attempting() && self.select().is_some();
        if fit {
            self.begin(true);
        }
        fit
    }

    /// Opens an attempt.
    pub(super) fn begin(&self, forced: bool) {
        let now = Instant::now();
        let epoch = {
            let state = &mut *self.state();
            state.belief.current_epoch += 1;
            let late = Duration::from_millis(state.rng.below(1000));
            state.attempted = Some(now + late);
            state.attempt = Some(Attempt {
                epoch: state.belief.current_epoch,
                since: now,
                stage: Stage::WaitStart {
                    forced,
                    next_ask: now,
                },
            });
            state.belief.current_epoch
        };
        self.tell("+new-epoch", &epoch.to_string());
        self.tell("+try-failover", &self.of_master());
    }

    /// One step of the attempt that is open.
    pub(super) fn go_on(&self, now: Instant) {
        let Some(attempt) = self.state().attempt.take() else {
            return;
        };
        let (epoch, since, before) = (attempt.epoch, attempt.since, attempt.name());
        let late = now - since > FAILOVER_TIMEOUT;
        let next = match attempt.stage {
            Stage::WaitStart { forced, next_ask } => self.wait_for_votes(epoch, forced, next_ask, late, now),
            Stage::SelectSlave => match self.select() {
                Some(replica) => {
                    self.tell("+selected-slave", &self.of_replica(&replica));
                    self.tell("+failover-state-send-slaveof-noone", &self.of_replica(&replica));
                    Some(Stage::SendSlaveofNoOne(replica))
                }
                None => self.abort("-failover-abort-no-good-slave"),
            },
            Stage::SendSlaveofNoOne(replica) if self.reaches(self.node(&replica)) => {
                self.node(&replica).promote();
                self.tell("+failover-state-wait-promotion", &self.of_replica(&replica));
                let info = Duration::from_millis(self.state().rng.below(1000));
                Some(Stage::WaitPromotion(replica, now + info))
            }
            Stage::SendSlaveofNoOne(_) if late => self.abort("-failover-abort-slave-timeout"),
            Stage::WaitPromotion(replica, info) if info <= now && self.is_sane(&replica) => {
                self.state().belief.config_epoch = epoch;
                self.tell("+promoted-slave", &self.of_replica(&replica));
                self.tell("+failover-state-reconf-slaves", &self.of_master());
                self.state().next_hello = now;
                Some(Stage::ReconfSlaves(replica))
            }
            Stage::WaitPromotion(..) if late => self.abort("-failover-abort-slave-timeout"),
            Stage::ReconfSlaves(promoted) if self.reconfigure(&promoted) || late => {
                self.tell("+failover-end", &self.of_master());
                Some(Stage::UpdateConfig(promoted))
            }
            Stage::UpdateConfig(promoted) => return self.switch(&promoted),
            waiting => Some(waiting),
        };
        let Some(stage) = next else { return };
        let mut attempt = Attempt { epoch, since, stage };
        // Each stage has its own time.
        if attempt.name() != before {
            attempt.since = now;
        }
        self.state().attempt = Some(attempt);
    }

    fn wait_for_votes(
        &self,
        epoch: u64,
        forced: bool,
        next_ask: Instant,
        late: bool,
        now: Instant,
    ) -> Option<Stage> {
        let mut next = next_ask;
        let mut elected = forced;
        if next_ask <= now && !forced {
            next = now + ASK;
            let votes = self.peers_in_touch();
            let votes = votes
                .iter()
                .filter(|peer| peer.vote(epoch, self.address()) == *self.address());
            let votes = votes.count();
            elected = votes + usize::from(self.vote(epoch, self.address()) == *self.address()) >= QUORUM;
        }
        if elected {
            self.tell("+elected-leader", &self.of_master());
            self.tell("+failover-state-select-slave", &self.of_master());
            return Some(Stage::SelectSlave);
        }
        if late {
            return self.abort("-failover-abort-not-elected");
        }
        Some(Stage::WaitStart {
            forced,
            next_ask: next,
        })
    }

    /// For whom it votes in `epoch`: for whoever asks first.
    fn vote(&self, epoch: u64, candidate: &HostPort) -> HostPort {
        self.note_epoch(epoch);
        let state = &mut *self.state();
        let belief = &mut state.belief;
        if belief.vote.0 < epoch && belief.current_epoch <= epoch {
            belief.vote = (epoch, candidate.clone());
            if candidate != &self.0.address {
                let late = Duration::from_millis(state.rng.below(1000));
                state.attempted = Some(Instant::now() + late);
            }
        }
        state.belief.vote.1.clone()
    }

    /// The replica with most of the data among those that answer.
    fn select(&self) -> Option<HostPort> {
        let master = self.state().belief.master.clone();
        let fit = self
            .0
            .nodes
            .iter()
            .filter(|node| *node.address() != master && self.reaches(node));
        // Of equals the first, by name.
        let best = fit.rev().max_by_key(|node| node.offset());
        best.map(|node| node.address().clone())
    }

    /// Points the other replicas that answer to the new primary; true once that is done.
    fn reconfigure(&self, promoted: &HostPort) -> bool {
        let old = self.state().belief.master.clone();
        for node in &self.0.nodes {
            let is_other = node.address() != promoted && *node.address() != old;
            if is_other && self.reaches(node) && node.following().is_none_or(|(of, _)| of != *promoted) {
                self.tell("+slave-reconf-sent", &self.of_replica(node.address()));
                node.demote(promoted);
            }
        }
        true
    }

    fn abort(&self, word: &str) -> Option<Stage> {
        self.tell(word, &self.of_master());
        None
    }
}
