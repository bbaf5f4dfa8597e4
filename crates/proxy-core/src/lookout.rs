//! What is slow, what is hot, what is large: seen where a reply meets its command, and nowhere else.
//!
//! ```text
//!   mux, lease --glance--> nothing, nearly always
//!                 \--slow, or one in N--> Lookout --> SlowLog, HotKeys (bounded, of each master)
//!                  (one a worker and master)     \--> CommandSpan, to whoever exports it (a bounded queue)
//! ```
//! Where nothing is looked for there is no [`Lookout`].

mod hotkeys;
mod slowlog;

use std::cell::Cell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use resp_codec::{Command, Progress, ReplyScan, RequestLimits, RequestScan};
use sentinel_watcher::HostPort;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::client::face::Face;
use hotkeys::HotKeys;
use slowlog::{SlowEntry, SlowLog};

/// What is to be looked for. By default nothing.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// Commands that take longer are kept in the slow log.
    pub slower_than: Option<Duration>,
    /// One command in so many is sampled.
    pub sample: Option<u64>,
    /// Where sampled commands are sent; what it does not take is dropped.
    pub spans: Option<mpsc::Sender<CommandSpan>>,
}

/// One sampled command, from its sending to its reply.
#[derive(Clone, Debug)]
pub struct CommandSpan {
    /// Its name in the command table.
    pub command: &'static str,
    /// Whose it was.
    pub master: Arc<str>,
    /// Who answered it.
    pub node: HostPort,
    /// When the reply came.
    pub ended: Instant,
    /// How long it took.
    pub took: Duration,
    /// Length of the request.
    pub request_bytes: usize,
    /// Length of the reply.
    pub reply_bytes: usize,
    /// The reply is an error.
    pub failed: bool,
}

/// One worker's eye on one master's commands.
pub(crate) struct Lookout {
    findings: Arc<Findings>,
    worker: usize,
    slow: Duration,
    /// Commands that pass before the next one is sampled.
    left: Cell<u64>,
    dice: Cell<u64>,
}

/// What was found of one master's commands, over all workers.
pub(crate) struct Findings {
    master: Arc<str>,
    watch: Watch,
    slow: Mutex<SlowLog>,
    /// One a worker.
    hot: Vec<Mutex<HotKeys>>,
}

/// What is worth a look among commands that were answered together.
pub(crate) struct Glance {
    /// They were slow.
    slow: bool,
    /// This one of them is sampled.
    sampled: Option<u64>,
}

/// Commands of one client that stand side by side.
pub(crate) struct Sight<'a> {
    pub(crate) node: &'a HostPort,
    pub(crate) client: &'a Face,
    pub(crate) frames: &'a [u8],
    /// So many of the frames were answered before.
    pub(crate) done: usize,
    /// Bytes of the request behind `frames`, which are the head of a large one.
    pub(crate) unseen: usize,
}

/// What came for some of them at once.
pub(crate) struct Answered<'a> {
    pub(crate) count: u64,
    pub(crate) replies: &'a [u8],
    /// Bytes of a reply in pieces that came before.
    pub(crate) passed: usize,
    pub(crate) took: Duration,
    pub(crate) at: Instant,
}

// === impl Lookout ===

impl Lookout {
    /// None where nothing is looked for.
    pub(crate) fn new(findings: &Arc<Findings>, worker: usize) -> Option<Self> {
        let Watch {
            slower_than, sample, ..
        } = findings.watch;
        (slower_than.is_some() || sample.is_some()).then(|| {
            let lookout = Self {
                findings: Arc::clone(findings),
                worker,
                slow: slower_than.unwrap_or(Duration::MAX),
                left: Cell::new(0),
                dice: Cell::new(worker as u64),
            };
            lookout.left.set(lookout.gap());
            lookout
        })
    }

    /// Asked for all commands that are answered, `count` at a time: the one thing that costs something always.
    #[inline]
    pub(crate) fn glance(&self, answered: &Answered<'_>) -> Option<Glance> {
        let left = self.left.get();
        let (slow, sampled) = (answered.took >= self.slow, left < answered.count);
        if !sampled {
            self.left.set(left - answered.count);
            if !slow {
                return None;
            }
        }
        Some(Glance {
            slow,
            sampled: sampled.then_some(left),
        })
    }

    /// Looks closely.
    pub(crate) fn see(&self, glance: &Glance, sight: &Sight<'_>, answered: &Answered<'_>) {
        if glance.slow
            && let Some(command) = sight.command(0)
        {
            self.findings
                .slow()
                .push(SlowEntry::new(&command, sight, answered));
        }
        if let Some(which) = glance.sampled {
            self.left.set(self.gap());
            self.sample(which, sight, answered);
        }
    }

    fn sample(&self, which: u64, sight: &Sight<'_>, answered: &Answered<'_>) {
        let Some(command) = sight.command(which) else {
            return;
        };
        let (reply_bytes, failed) = answered.reply(which);
        let request_bytes = command.frame().len() + sight.unseen;
        if let Some(hot) = self.findings.hot.get(self.worker) {
            let hot = &mut *hot.lock().unwrap_or_else(PoisonError::into_inner);
            hot.note(&command, request_bytes.max(reply_bytes), answered.at);
        }
        if let Some(spans) = &self.findings.watch.spans {
            // Whoever exports them is behind: a sample less.
            let _ = spans.try_send(CommandSpan {
                command: command.spec().name,
                master: Arc::clone(&self.findings.master),
                node: sight.node.clone(),
                ended: answered.at,
                took: answered.took,
                request_bytes,
                reply_bytes,
                failed,
            });
        }
    }

    /// How many commands pass before the next sample: one in N on the average, so that no rhythm of the clients hides
    /// anything. (An xorshift, seeded by the worker's number: a run repeats itself.)
    fn gap(&self) -> u64 {
        let Some(one_in) = self.findings.watch.sample else {
            return u64::MAX;
        };
        let mut dice = self
            .dice
            .get()
            .wrapping_mul(2)
            .wrapping_add(0x9e37_79b9_7f4a_7c15)
            | 1;
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        self.dice.set(dice);
        dice % (2 * one_in - 1).max(1)
    }
}

// === impl Findings ===

impl Findings {
    pub(crate) fn new(master: Arc<str>, watch: Watch, workers: usize) -> Self {
        Self {
            master,
            watch,
            slow: Mutex::default(),
            hot: (0..workers).map(|_| Mutex::default()).collect(),
        }
    }

    /// What PROXY SHOW SLOWLOG answers, the newest first.
    pub(crate) fn slowlog(&self, now: Instant) -> Vec<String> {
        match self.watch.slower_than {
            None => vec!["off: --slowlog-threshold says what is slow".to_owned()],
            Some(_) => self.slow().lines(now),
        }
    }

    /// What PROXY SHOW HOTKEYS answers.
    pub(crate) fn hotkeys(&self, now: Instant) -> Vec<String> {
        if self.watch.sample.is_none() {
            return vec!["off: --sample-commands says how many are looked at".to_owned()];
        }
        let mut all = HotKeys::default();
        for hot in &self.hot {
            all.merge(&hot.lock().unwrap_or_else(PoisonError::into_inner));
        }
        all.lines(now)
    }

    fn slow(&self) -> MutexGuard<'_, SlowLog> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Sight ===

impl<'a> Sight<'a> {
    fn command(&self, which: u64) -> Option<Command<&'a [u8]>> {
        let mut rest = self.frames;
        let which = self.done as u64 + which;
        for at in 0..=which {
            let mut scan = RequestScan::default();
            let found = scan.advance(rest, &RequestLimits::AUTHENTICATED).ok()?;
            let found = found.or_else(|| scan.announced())?;
            let (frame, behind) = rest.split_at_checked(found.len).unwrap_or((rest, &[]));
            if at == which {
                return Some(Command::new(frame, found));
            }
            rest = behind;
        }
        None
    }
}

// === impl Answered ===

impl Answered<'_> {
    /// Length of a reply, and whether it is an error.
    fn reply(&self, which: u64) -> (usize, bool) {
        let mut rest = self.replies;
        if self.count > 1 {
            let mut scan = ReplyScan::default();
            for at in 0..=which {
                let Ok(Progress::Complete { used, .. }) = scan.feed(rest) else {
                    break;
                };
                let (reply, behind) = rest.split_at(used);
                rest = if at == which { reply } else { behind };
            }
        }
        let failed = self.passed == 0 && matches!(rest.first(), Some(b'-' | b'!'));
        (self.passed + rest.len(), failed)
    }
}

/// Bytes from outside, as redis-cli shows them, at most `longest` of them; `unseen` more stand behind them.
fn quoted(bytes: &[u8], longest: usize, unseen: usize) -> String {
    let (shown, rest) = bytes.split_at_checked(longest).unwrap_or((bytes, &[]));
    match rest.len() + unseen {
        0 => format!("\"{}\"", shown.escape_ascii()),
        more => format!("\"{}... ({more} more bytes)\"", shown.escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_n_is_sampled_on_the_average_and_the_same_ones_each_time() {
        let watch = Watch {
            sample: Some(50),
            ..Watch::default()
        };
        let run = || {
            let findings = Arc::new(Findings::new(Arc::from("m"), watch.clone(), 1));
            let lookout = Lookout::new(&findings, 0).unwrap();
            let mut sampled = Vec::new();
            for batch in 0..10_000 {
                let answered = Answered {
                    count: 16,
                    replies: b"",
                    passed: 0,
                    took: Duration::ZERO,
                    at: Instant::now(),
                };
                if let Some(glance) = lookout.glance(&answered) {
                    lookout.left.set(lookout.gap());
                    sampled.push((batch, glance.sampled.unwrap()));
                }
            }
            sampled
        };
        let sampled = run();
        // A batch gives one sample at most, and the rest of it does not count.
        assert!((2000..4000).contains(&sampled.len()), "{}", sampled.len());
        assert!(sampled.iter().all(|(_, which)| *which < 16));
        assert_eq!(sampled, run());
    }

    #[test]
    fn nobody_looks_where_nothing_is_looked_for() {
        let findings = Arc::new(Findings::new(Arc::from("m"), Watch::default(), 1));
        assert!(Lookout::new(&findings, 0).is_none());
        assert!(findings.slowlog(Instant::now()).concat().starts_with("off"));
        assert!(findings.hotkeys(Instant::now()).concat().starts_with("off"));
    }
}
