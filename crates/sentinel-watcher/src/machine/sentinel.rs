//! The observing half: what one sentinel has said, by events and by polls.

use tokio::time::Instant;

use crate::health::SentinelState;
use crate::limits;
use crate::link::with_remedy;
use crate::machine::belief::Claim;
use crate::machine::event::{Abort, Event};
use crate::machine::report::{PollFailure, Report, ReportedAttempt};
use crate::topology::HostPort;

/// One sentinel. Addresses in it are rewritten by the address map.
pub(crate) struct Sentinel {
    /// Named by the operator: never forgotten.
    pub(crate) configured: bool,
    /// What the last poll brought.
    pub(crate) answer: Answer,
    /// Its events reach us.
    pub(crate) subscribed: bool,
    /// It acts: it is not in TILT mode.
    tilted: bool,
    /// The last report; kept while the sentinel is away, for its lists.
    pub(crate) report: Option<Report>,
    /// The failover it leads or wants to lead.
    pub(crate) attempt: Option<Attempt>,
    /// Whom it calls `o_down`, and since when. A leader goes on saying it of the old primary while it names
    /// the new one already.
    down: Option<(HostPort, Instant)>,
    /// When an event last changed `attempt` or `down`: an answer to a question asked before is older.
    heard: Option<Instant>,
    /// The epoch of its next attempt.
    next_epoch: Option<u64>,
    /// Since when it has not answered.
    lost_since: Option<Instant>,
}

/// What the last poll brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Nothing yet.
    Awaited,
    /// A report.
    Reported,
    /// None.
    Failed(PollFailure),
}

/// A failover as its leader tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) stage: Stage,
    /// The epoch it was opened in, where `+new-epoch` was seen.
    pub(crate) epoch: Option<u64>,
}

/// How far an attempt has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Votes are asked for: most come to nothing.
    Trying,
    /// It leads and looks for a replica.
    Elected,
    /// It promotes this one.
    Promoting(HostPort),
}

/// What an event or a report changed that deserves a line in the log.
pub(crate) enum Change {
    Nothing,
    Candidate(HostPort),
    Aborted(Abort),
}

// === impl Sentinel ===

impl Sentinel {
    pub(crate) const fn new(configured: bool) -> Self {
        Self {
            configured,
            answer: Answer::Awaited,
            subscribed: false,
            tilted: false,
            report: None,
            attempt: None,
            down: None,
            heard: None,
            next_epoch: None,
            lost_since: None,
        }
    }

    /// Takes one event; addresses in it are rewritten already.
    pub(crate) fn hear(&mut self, event: Event, now: Instant) -> Change {
        match event {
            Event::NewEpoch(epoch) => self.next_epoch = Some(epoch),
            Event::TiltEntered => self.tilted = true,
            Event::TiltLeft => self.tilted = false,
            Event::Other => {}
            Event::ObjectivelyDown => {
                self.heard = Some(now);
                self.note_down(self.report.as_ref().map(|report| report.address.clone()), now);
            }
            Event::NoLongerDown => {
                self.heard = Some(now);
                self.note_down(None, now);
            }
            Event::TryFailover => {
                let epoch = self.next_epoch.take();
                self.note_attempt(
                    Some(Attempt {
                        stage: Stage::Trying,
                        epoch,
                    }),
                    now,
                );
            }
            Event::Elected => self.advance(Stage::Elected, now),
            Event::Selected(replica) => {
                let stage = Stage::Promoting(replica.clone());
                let news = self.attempt.as_ref().is_none_or(|attempt| attempt.stage != stage);
                self.advance(stage, now);
                if news {
                    return Change::Candidate(replica);
                }
            }
            // Until the next poll brings the epoch that belongs to it.
            Event::Promoted(replica) | Event::Switched(replica) => {
                self.advance(Stage::Promoting(replica), now);
            }
            Event::Ended => self.note_attempt(None, now),
            Event::Aborted(abort) => {
                self.note_attempt(None, now);
                return Change::Aborted(abort);
            }
        }
        Change::Nothing
    }

    /// Takes the answer to a poll asked at `asked`; addresses in it are rewritten already.
    pub(crate) fn answered(&mut self, report: Report, asked: Instant, now: Instant) {
        self.answer = Answer::Reported;
        self.lost_since = None;
        if self.heard.is_none_or(|heard| asked > heard) {
            self.note_down(report.down.then(|| report.address.clone()), now);
            let epoch = self.attempt.as_ref().and_then(|attempt| attempt.epoch);
            self.attempt = report.attempt.as_ref().map(|reported| Attempt {
                stage: reported.into(),
                epoch,
            });
        }
        self.report = Some(report);
    }

    /// A poll failed.
    pub(crate) fn failed(&mut self, failure: PollFailure, now: Instant) {
        self.answer = Answer::Failed(failure);
        self.lost_since.get_or_insert(now);
    }

    /// Since when it calls `primary` down, if it answers now.
    pub(crate) fn calls_down(&self, primary: &HostPort) -> Option<Instant> {
        let (address, since) = self.down.as_ref().filter(|_| self.answers())?;
        (address == primary).then_some(*since)
    }

    /// When the attempt of a sentinel that is away stops counting as open.
    pub(crate) fn attempt_expires(&self) -> Option<Instant> {
        self.attempt.as_ref()?;
        self.lost_since.map(|since| since + limits::LOST_ATTEMPT_PATIENCE)
    }

    /// Who it says is primary, if it answers now.
    pub(crate) fn claim(&self) -> Option<Claim> {
        let report = self.report.as_ref().filter(|_| self.answers())?;
        Some(Claim {
            epoch: report.epoch,
            address: report.address.clone(),
        })
    }

    pub(crate) fn answers(&self) -> bool {
        self.answer == Answer::Reported
    }

    /// It answers, and does not serve us.
    pub(crate) const fn refuses(&self) -> bool {
        matches!(
            self.answer,
            Answer::Failed(PollFailure::UnknownMaster | PollFailure::Denied(_))
        )
    }

    /// It does not answer.
    pub(crate) const fn gone(&self) -> bool {
        matches!(self.answer, Answer::Failed(PollFailure::Unreachable(_)))
    }

    /// Its own id, where it has told it.
    pub(crate) fn id(&self) -> Option<&str> {
        self.report.as_ref()?.id.as_deref()
    }

    /// What ails it, in an operator's words.
    pub(crate) fn problem(&self, address: &HostPort, master: &str) -> Option<String> {
        match &self.answer {
            Answer::Awaited | Answer::Reported => None,
            Answer::Failed(PollFailure::UnknownMaster) => {
                Some(format!("sentinel {address} knows no master named \"{master}\""))
            }
            Answer::Failed(PollFailure::Denied(denial)) => {
                Some(denial.explain(&format!("sentinel {address}"), "--sentinel-"))
            }
            Answer::Failed(PollFailure::Unreachable(why)) => {
                let problem = format!("sentinel {address}: {why}");
                Some(with_remedy(problem, "--sentinel-tls"))
            }
        }
    }

    pub(crate) const fn state(&self) -> SentinelState {
        match &self.answer {
            Answer::Awaited => SentinelState::Connecting,
            Answer::Failed(PollFailure::Unreachable(_)) => SentinelState::Unreachable,
            Answer::Failed(_) => SentinelState::Refusing,
            Answer::Reported if self.tilted => SentinelState::Tilted,
            Answer::Reported if self.subscribed => SentinelState::Watching,
            Answer::Reported => SentinelState::Polling,
        }
    }

    fn advance(&mut self, stage: Stage, now: Instant) {
        let epoch = self.attempt.as_ref().and_then(|attempt| attempt.epoch);
        self.note_attempt(Some(Attempt { stage, epoch }), now);
    }

    fn note_attempt(&mut self, attempt: Option<Attempt>, now: Instant) {
        self.attempt = attempt;
        self.heard = Some(now);
    }

    fn note_down(&mut self, down: Option<HostPort>, now: Instant) {
        if self.down.as_ref().map(|(address, _)| address) != down.as_ref() {
            self.down = down.map(|address| (address, now));
        }
    }
}

impl From<&ReportedAttempt> for Stage {
    fn from(reported: &ReportedAttempt) -> Self {
        match reported {
            ReportedAttempt::Trying => Self::Trying,
            ReportedAttempt::Elected => Self::Elected,
            ReportedAttempt::Selected(replica) => Self::Promoting(replica.clone()),
        }
    }
}
