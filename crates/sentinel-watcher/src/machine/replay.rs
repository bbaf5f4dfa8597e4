//! Real messages of real sentinels and nodes, recorded, played to the machine; what it makes of them.
//!
//! A trace holds what changed; between two lines of a kind the replay repeats the earlier one, as the poll and
//! probe tasks would have seen it: polls every 50 ms, a role whenever the machine asks for it. On its way it
//! checks what must always hold: no primary without its own word for it, epochs and terms that only grow.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::topology::Phase;
use crate::verify::Following;

/// How often the recorder polled.
const POLLED_EVERY: Duration = Duration::from_millis(50);
/// One round trip.
const TRIP: Duration = Duration::from_micros(500);
/// Traces start one second before their story.
const PRELUDE: f64 = 1.0;

#[derive(Clone)]
enum Line {
    Up(HostPort),
    Lost(HostPort),
    Event {
        sentinel: HostPort,
        channel: String,
        payload: String,
    },
    Poll {
        sentinel: HostPort,
        asked: Duration,
        outcome: Result<Report, PollFailure>,
    },
    Role {
        node: HostPort,
        role: Option<Verdict>,
    },
}

/// One trace, and the times of its lines since its start.
pub(super) struct Trace(Vec<(Duration, Line)>);

/// A machine in a recorded world.
struct Replay {
    machine: Machine,
    start: Instant,
    now: Duration,
    roles: BTreeMap<HostPort, Option<Verdict>>,
    probes: BTreeMap<HostPort, (Duration, Duration)>,
    /// What each sentinel answers, when it is repeated next, and until when.
    polls: BTreeMap<HostPort, (Result<Report, PollFailure>, Duration, Duration)>,
    published: Shard,
    /// How many terms there were.
    terms: u32,
    transcript: String,
}

// === impl Trace ===

impl Trace {
    pub(super) fn read(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let lines = lines.filter_map(|line| {
            let (at, rest) = line.split_once(' ').expect("a time first");
            let (kind, rest) = rest.split_once(' ').expect("then a kind");
            (kind != "#").then(|| (seconds(at), read_line(kind, rest)))
        });
        Self(lines.collect())
    }

    /// Without the lines that are `lost` (by kind, port and event) from `from` seconds of the story on.
    pub(super) fn without(mut self, from: f64, lost: impl Fn(&str, u16, &str) -> bool) -> Self {
        let from = Duration::from_secs_f64(PRELUDE + from);
        self.0.retain(|(at, line)| {
            let (kind, port, detail) = match line {
                Line::Up(sentinel) => ("up", sentinel.port, ""),
                Line::Lost(sentinel) => ("lost", sentinel.port, ""),
                Line::Event {
                    sentinel, channel, ..
                } => ("event", sentinel.port, channel.as_str()),
                Line::Poll { sentinel, .. } => ("poll", sentinel.port, ""),
                Line::Role { node, .. } => ("role", node.port, ""),
            };
            *at < from || !lost(kind, port, detail)
        });
        self
    }

    /// What the machine published (`phase primary#term @config-epoch`, terms counted from 1) and noted, one
    /// line each; times in milliseconds of the story.
    pub(super) fn transcript(self) -> String {
        let seeds: Vec<_> = (27_001..=27_003).map(node).collect();
        let rules = Rules {
            master: Arc::from("mymaster"),
            address_map: AddressMap::default(),
            max_replica_lag: None,
        };
        let start = Instant::now();
        let (machine, first) = Machine::new(rules, &seeds, start);
        let mut replay = Replay {
            machine,
            start,
            now: Duration::ZERO,
            roles: BTreeMap::new(),
            probes: BTreeMap::new(),
            polls: BTreeMap::new(),
            published: Shard::unknown(),
            terms: 0,
            transcript: String::new(),
        };
        replay.obey(first);
        for (index, (at, line)) in self.0.iter().enumerate() {
            replay.pass_until(*at);
            replay.now = *at;
            let later = self.0.get(index + 1..).unwrap_or_default();
            replay.play(line, later);
        }
        let end = replay.now + Duration::from_secs(12);
        replay.pass_until(end);
        replay.transcript
    }
}

// === impl Replay ===

impl Replay {
    fn play(&mut self, line: &Line, later: &[(Duration, Line)]) {
        match line.clone() {
            Line::Up(sentinel) => self.feed(Input::Subscribed(sentinel)),
            Line::Lost(sentinel) => self.feed(Input::Unsubscribed(sentinel)),
            Line::Event {
                sentinel,
                channel,
                payload,
            } => {
                if let Some(event) = Event::read(&channel, &payload, "mymaster") {
                    self.feed(Input::Heard { sentinel, event });
                }
            }
            Line::Poll {
                sentinel,
                asked,
                outcome,
            } => {
                let next = later.iter().find_map(|(_, line)| match line {
                    Line::Poll {
                        sentinel: other,
                        asked,
                        ..
                    } if *other == sentinel => Some(*asked),
                    _ => None,
                });
                let until = next.unwrap_or(Duration::MAX).saturating_sub(POLLED_EVERY);
                self.polls.insert(
                    sentinel.clone(),
                    (outcome.clone(), self.now + POLLED_EVERY, until),
                );
                let asked = self.start + asked;
                self.feed(Input::Polled {
                    sentinel,
                    asked,
                    outcome,
                });
            }
            Line::Role { node, role } => drop(self.roles.insert(node, role)),
        }
    }

    /// Repeats polls and probes, and lets time pass, until `until`.
    fn pass_until(&mut self, until: Duration) {
        loop {
            let wake = self
                .machine
                .wake()
                .map(|at| (at.saturating_duration_since(self.start), None));
            let probes = self
                .probes
                .iter()
                .map(|(node, (_, due))| (*due, Some((node.clone(), true))));
            let polls = self.polls.iter().filter(|(_, (_, due, last))| due <= last);
            let polls = polls.map(|(sentinel, (_, due, _))| (*due, Some((sentinel.clone(), false))));
            let next = wake
                .into_iter()
                .chain(probes)
                .chain(polls)
                .min_by_key(|(due, _)| *due);
            let Some((due, what)) = next.filter(|(due, _)| *due < until) else {
                return;
            };
            self.now = self.now.max(due);
            match what {
                None => self.feed(Input::Tick),
                Some((node, true)) => self.probe(node),
                Some((sentinel, false)) => self.poll(sentinel),
            }
        }
    }

    fn probe(&mut self, node: HostPort) {
        let (every, due) = self.probes.get_mut(&node).expect("it was due");
        *due = self.now + *every;
        if let Some(Some(verdict)) = self.roles.get(&node).cloned() {
            self.feed(Input::Probed { node, verdict });
        }
    }

    fn poll(&mut self, sentinel: HostPort) {
        let (outcome, due, _) = self.polls.get_mut(&sentinel).expect("it was due");
        *due = self.now + POLLED_EVERY;
        let outcome = outcome.clone();
        self.feed(Input::Polled {
            sentinel,
            asked: self.start + self.now - TRIP,
            outcome,
        });
    }

    fn feed(&mut self, input: Input) {
        let actions = self.machine.step(input, self.start + self.now);
        self.obey(actions);
    }

    fn obey(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Probe { node, every } => drop(self.probes.insert(node, (every, self.now + TRIP))),
                Action::Unprobe(node) => drop(self.probes.remove(&node)),
                Action::ProbeNow(node) | Action::ProbeAfresh(node) => {
                    if let Some((_, due)) = self.probes.get_mut(&node) {
                        *due = self.now + TRIP;
                    }
                }
                Action::Publish(shard) => self.published(shard),
                Action::Log(note) => self.noted(&note),
                Action::Watch(_) | Action::Forget(_) | Action::PollNow(_) | Action::PollEvery(_) => {}
            }
        }
    }

    fn published(&mut self, shard: Shard) {
        let epoch = self.machine.epoch;
        let (before, after) = (self.published.primary.as_ref(), shard.primary.as_ref());
        if before != after {
            self.terms += 1;
            let primary = after.expect("a primary is never forgotten");
            let said = self.roles.get(&primary.address);
            assert!(
                matches!(said, Some(Some(Verdict::Primary { .. }))),
                "{} is no primary",
                primary.address
            );
            assert_eq!(
                primary.term, epoch,
                "a new primary has the term of its publication"
            );
        }
        let news = |shard: &Shard| {
            (
                shard.phase,
                shard.primary.clone(),
                shard.config_epoch,
                shard.provisional,
            )
        };
        if news(&self.published) != news(&shard) {
            let phase = match shard.phase {
                Phase::Serving if shard.provisional => "provisional",
                Phase::Serving => "serving",
                Phase::Moving => "moving",
                Phase::Down => "down",
            };
            let primary = shard.primary.as_ref().map_or(0, |primary| primary.address.port);
            self.write(&format!(
                "{phase} {primary}#{} @{}",
                self.terms, shard.config_epoch
            ));
        }
        self.published = shard;
    }

    fn noted(&mut self, note: &Note) {
        match note {
            Note::Held { sign, .. } => self.write(&format!("held: {sign}")),
            Note::Aborted { sentinel, reason } => self.write(&format!("{} gave up: {reason}", sentinel.port)),
            Note::TurnedBack { primary } => self.write(&format!("{} turned back", primary.port)),
            Note::Overruled { by, memory } => self.write(&format!("epoch {by} overrules {memory}")),
            Note::Restarted { .. } => self.write("restarted"),
            Note::Switched(failover) => {
                let (end, _) = failover.end.expect("it is told of at its end");
                let text = format!("{}, {}: {}", failover.kind.label(), end.label(), failover.sign);
                self.write(&text);
            }
            Note::Sentinel { .. }
            | Note::Discovered { .. }
            | Note::Found { .. }
            | Note::Candidate { .. }
            | Note::Released { .. }
            | Note::Promoted { .. }
            | Note::Replica { .. }
            | Note::Unverifiable { .. } => {}
        }
    }

    fn write(&mut self, text: &str) {
        let story = self.now.as_secs_f64() - PRELUDE;
        writeln!(self.transcript, "{:.0} {text}", story * 1000.0).expect("a string takes all");
    }
}

fn read_line(kind: &str, rest: &str) -> Line {
    let (port, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let who = node(port.parse().expect("a port"));
    match kind {
        "up" => Line::Up(who),
        "lost" => Line::Lost(who),
        "event" => {
            let (channel, payload) = rest.split_once(' ').expect("a channel and its payload");
            Line::Event {
                sentinel: who,
                channel: channel.to_owned(),
                payload: payload.to_owned(),
            }
        }
        "poll" => {
            let (asked, rest) = rest.split_once(' ').expect("asked= first");
            let asked = seconds(asked.strip_prefix("asked=").expect("asked= first"));
            Line::Poll {
                sentinel: who,
                asked,
                outcome: read_poll(rest),
            }
        }
        "role" => Line::Role {
            node: who,
            role: read_role(rest),
        },
        other => panic!("{other} is no kind of line"),
    }
}

fn read_poll(text: &str) -> Result<Report, PollFailure> {
    if text == "unreachable" {
        return Err(PollFailure::Unreachable("refused".to_owned()));
    }
    if text.starts_with("none") {
        return Err(PollFailure::UnknownMaster);
    }
    let fields = || text.split(' ').filter_map(|field| field.split_once('='));
    let field = |name| {
        fields()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
            .expect("the field")
    };
    let replicas = fields().filter(|(key, _)| *key == "replica").map(|(_, value)| {
        let parts: Vec<_> = value.split(',').collect();
        let [address, flags, _link, _of, priority] = parts[..] else {
            panic!("{value} is no replica")
        };
        let down = flags.split('+').any(|flag| flag == "s_down");
        let replica = ReportedReplica {
            address: address.parse().expect("an address"),
            down,
            priority: priority.parse().expect("a priority"),
        };
        (replica, flags.split('+').any(|flag| flag == "promoted"))
    });
    let replicas: Vec<_> = replicas.collect();
    let promoted = replicas
        .iter()
        .find(|(_, promoted)| *promoted)
        .map(|(replica, _)| replica.address.clone());
    Ok(Report {
        address: field("addr").parse().expect("an address"),
        epoch: field("epoch").parse().expect("an epoch"),
        down: field("flags").split(',').any(|flag| flag == "o_down") && field("state") != "reconf_slaves",
        attempt: match field("state") {
            "wait_start" => Some(ReportedAttempt::Trying),
            "select_slave" => Some(ReportedAttempt::Elected),
            "send_slaveof_noone" | "wait_promotion" => promoted.map(ReportedAttempt::Selected),
            _ => None,
        },
        quorum: field("quorum").parse().expect("a number"),
        down_after: Duration::from_millis(field("down-after").parse().expect("milliseconds")),
        replicas: replicas.into_iter().map(|(replica, _)| replica).collect(),
        others: Vec::new(),
        id: None,
    })
}

fn read_role(text: &str) -> Option<Verdict> {
    let words: Vec<_> = text.split(' ').collect();
    match words[..] {
        ["master"] => Some(Verdict::Primary { offset: 0 }),
        ["failed"] => Some(Verdict::Unreachable("it refuses connections")),
        ["silent"] => None,
        ["slave", of, state] => Some(Verdict::Replica(Following {
            of: of.parse().expect("an address"),
            linked: state == "connected",
            offset: 0,
        })),
        _ => panic!("{text} is no role"),
    }
}

fn seconds(text: &str) -> Duration {
    let seconds: f64 = text.parse().expect("seconds");
    Duration::from_secs_f64((seconds + PRELUDE).max(0.0))
}

fn node(port: u16) -> HostPort {
    HostPort::new("127.0.0.1", port)
}
