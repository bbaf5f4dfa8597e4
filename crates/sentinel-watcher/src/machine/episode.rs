//! A switch that is going on: what the acting half remembers of it.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use crate::health::{Failover, FailoverEnd, FailoverKind, Promotion};
use crate::topology::HostPort;

/// A switch that is going on, from its first sign until it is confirmed or called off.
pub(super) struct Episode {
    /// Counts them since the start.
    number: u64,
    /// The primary whose clients wait.
    from: HostPort,
    /// When the first sign came.
    pub(super) since: Instant,
    /// What it was.
    pub(super) sign: Sign,
    /// All that were seen while commands waited.
    pub(super) signs: BTreeSet<Sign>,
    /// Who may be the next, and since when.
    pub(super) candidates: BTreeMap<HostPort, Instant>,
    pub(super) progress: Progress,
}

pub(super) enum Progress {
    /// Commands wait: the signs persist.
    Held,
    /// Commands wait for the primary's word: no sign has been left since then.
    Clearing(Instant),
    /// Commands flow to the new primary, until its epoch is confirmed.
    Provisional(Promotion),
}

/// Why commands wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sign {
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
    /// An operator has it handed over.
    HandedOver,
    /// An operator wants writes to wait.
    Paused,
}

// === impl Episode ===

impl Episode {
    pub(super) fn new(number: u64, from: HostPort, sign: Sign, since: Instant) -> Self {
        Self {
            number,
            from,
            since,
            sign,
            signs: BTreeSet::new(),
            candidates: BTreeMap::new(),
            progress: Progress::Held,
        }
    }

    pub(super) const fn holds(&self) -> bool {
        matches!(self.progress, Progress::Held | Progress::Clearing(_))
    }

    /// The primary said that it is a replica: it comes back, if it does, in a new term.
    pub(super) fn was_demoted(&self) -> bool {
        self.signs.contains(&Sign::Demoted)
    }

    /// What there is to tell of it.
    pub(super) fn failover(&self, end: Option<(FailoverEnd, Instant)>) -> Failover {
        let promotion = match &self.progress {
            Progress::Provisional(promotion) => Some(promotion.clone()),
            Progress::Held | Progress::Clearing(_) => None,
        };
        let chosen = |address: &HostPort| promotion.as_ref().is_none_or(|to| to.address == *address);
        let named = self.candidates.iter().filter(|(address, _)| chosen(address));
        Failover {
            number: self.number,
            began: self.since,
            sign: self.sign.words(),
            kind: self.kind(),
            from: self.from.clone(),
            candidate: named
                .max_by_key(|(_, since)| **since)
                .map(|(address, since)| (address.clone(), *since - self.since)),
            promotion,
            end: end.map(|(end, at)| (end, at - self.since)),
        }
    }

    fn kind(&self) -> FailoverKind {
        if self.was_demoted() {
            FailoverKind::Manual
        } else if self.signs.iter().any(|sign| sign.is_down()) {
            FailoverKind::Crash
        } else if self.signs.contains(&Sign::Attempt) {
            FailoverKind::Planned
        } else {
            FailoverKind::Manual
        }
    }
}

// === impl Sign ===

impl Sign {
    const fn is_down(self) -> bool {
        matches!(self, Self::Unreachable | Self::Loading | Self::ObjectivelyDown)
    }

    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Attempt => "a sentinel leads a failover",
            Self::NamedElsewhere => "sentinels name another primary",
            Self::ObjectivelyDown => "sentinels agree that it is down",
            Self::Unreachable => "it does not answer",
            Self::Loading => "it is loading its data set",
            Self::Demoted => "it says that it is a replica",
            Self::HandedOver => "an operator asked for a failover",
            Self::Paused => "an operator paused it",
        }
    }
}
