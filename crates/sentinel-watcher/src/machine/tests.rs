//! Rules that no recorded story shows: who is primary, and who waits.

mod belief;
mod episode;
mod fleet;
mod steering;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::health::SentinelState;
use crate::topology::Phase;
use crate::verify::{Denial, Following};

const A: u16 = 1;
const B: u16 = 2;
const C: u16 = 3;

/// A machine of three sentinels (101 to 103) and the nodes A, B, C, and the time.
struct World {
    machine: Machine,
    now: Instant,
    actions: Vec<Action>,
    roles: BTreeMap<u16, Verdict>,
}

impl World {
    fn new() -> Self {
        Self::of(AddressMap::default())
    }

    fn of(address_map: AddressMap) -> Self {
        let rules = Rules {
            master: Arc::from("x"),
            address_map,
            max_replica_lag: None,
        };
        let now = Instant::now();
        let seeds: Vec<_> = (101..=103).map(at).collect();
        let (machine, actions) = Machine::new(rules, &seeds, now);
        Self {
            machine,
            now,
            actions,
            roles: BTreeMap::new(),
        }
    }

    /// A is primary at epoch 5, B and C follow it, all agree.
    fn calm() -> Self {
        let mut world = Self::new();
        world.roles = BTreeMap::from([(A, primary()), (B, replica(A)), (C, replica(A))]);
        (101..=103).for_each(|sentinel| world.feed(Input::Subscribed(at(sentinel))));
        world.all_say(A, 5);
        world.settle();
        assert_eq!(world.state(), (Phase::Serving, A, 5, false));
        world.actions.clear();
        world
    }

    fn feed(&mut self, input: Input) {
        let actions = self.machine.step(input, self.now);
        self.actions.extend(actions);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.feed(Input::Tick);
    }

    fn poll(&mut self, sentinel: u16, outcome: Result<Report, PollFailure>) {
        self.now += Duration::from_millis(1);
        let asked = self.now;
        self.feed(Input::Polled {
            sentinel: at(sentinel),
            asked,
            outcome,
        });
    }

    fn say(&mut self, sentinel: u16, address: u16, epoch: u64) {
        self.poll(sentinel, Ok(report(address, epoch)));
    }

    fn all_say(&mut self, address: u16, epoch: u64) {
        (101..=103).for_each(|sentinel| self.say(sentinel, address, epoch));
    }

    fn hear(&mut self, sentinel: u16, event: Event) {
        self.now += Duration::from_millis(1);
        self.feed(Input::Heard {
            sentinel: at(sentinel),
            event,
        });
    }

    fn probe(&mut self, node: u16) {
        self.now += Duration::from_millis(1);
        let verdict = self.roles.get(&node).cloned().expect("the node has a role");
        self.feed(Input::Probed {
            node: at(node),
            verdict,
        });
    }

    /// Every node says who it is, twice.
    fn settle(&mut self) {
        for node in [A, B, C, A, B, C] {
            self.probe(node);
        }
    }

    fn state(&self) -> (Phase, u16, u64, bool) {
        let shard = &self.machine.shard;
        let primary = shard.primary.as_ref().map_or(0, |primary| primary.address.port);
        (shard.phase, primary, shard.config_epoch, shard.provisional)
    }

    fn term(&self) -> Epoch {
        self.machine.shard.primary.as_ref().expect("a primary").term
    }

    fn notes(&mut self) -> Vec<Note> {
        let notes = self.actions.drain(..).filter_map(|action| match action {
            Action::Log(note) => Some(note),
            _ => None,
        });
        notes.collect()
    }

    fn problem(&self) -> String {
        self.machine.health().problem.unwrap_or_default()
    }
}

fn at(port: u16) -> HostPort {
    HostPort::new("h", port)
}

fn primary() -> Verdict {
    Verdict::Primary { offset: 10 }
}

fn replica(of: u16) -> Verdict {
    Verdict::Replica(Following {
        of: at(of),
        linked: true,
        offset: 10,
    })
}

fn report(address: u16, epoch: u64) -> Report {
    let replicas = [A, B, C].into_iter().filter(|node| *node != address);
    let replicas = replicas
        .map(|node| ReportedReplica {
            address: at(node),
            down: false,
            priority: 100,
        })
        .collect();
    Report {
        address: at(address),
        epoch,
        down: false,
        attempt: None,
        quorum: 2,
        down_after: Duration::from_secs(1),
        replicas,
        others: Vec::new(),
        id: None,
    }
}

fn unreachable() -> Result<Report, PollFailure> {
    Err(PollFailure::Unreachable("refused".to_owned()))
}

#[test]
fn nothing_is_published_without_the_nodes_own_word() {
    let mut world = World::new();
    world.roles = BTreeMap::from([(A, replica(B)), (B, replica(A)), (C, Verdict::Loading)]);
    world.all_say(A, 5);
    world.settle();
    assert_eq!(world.state().0, Phase::Down);
    assert_eq!(
        world.problem(),
        "h:1 is named as primary: it says that it is a replica"
    );
    world.roles.insert(A, Verdict::Refused(Denial::PasswordMissing));
    world.settle();
    assert_eq!(world.problem(), "h:1 wants a password: set --password-file");
    world.roles.insert(A, Verdict::Loading);
    world.settle();
    assert_eq!(
        world.problem(),
        "h:1 is named as primary: it is loading its data set"
    );
    assert!(
        !world
            .actions
            .iter()
            .any(|action| matches!(action, Action::Publish(_)))
    );
}

#[test]
fn a_wrong_master_name_is_told_once_a_change() {
    let mut world = World::new();
    for _ in 0..3 {
        world.poll(101, Err(PollFailure::UnknownMaster));
    }
    let problem = "sentinel h:101 knows no master named \"x\"";
    assert_eq!(world.problem(), problem);
    let note = Note::Sentinel {
        address: at(101),
        state: SentinelState::Refusing,
        problem: Some(problem.to_owned()),
    };
    assert_eq!(world.notes(), [note]);
    world.say(101, A, 0);
    assert_ne!(world.problem(), problem);
}

#[test]
fn hints_lead_to_a_look_and_no_further() {
    let mut world = World::calm();
    let term = Some(world.term());
    for (node, term, suspicion, expected) in [
        (A, term, Suspicion::ConnectionLost, Some(Action::ProbeNow(at(A)))),
        (A, term, Suspicion::Demoted, Some(Action::ProbeNow(at(A)))),
        (A, term, Suspicion::DialFailed, Some(Action::ProbeAfresh(at(A)))),
        (B, None, Suspicion::Silent, Some(Action::ProbeAfresh(at(B)))),
        (A, Some(Epoch(0)), Suspicion::Demoted, None),
        (99, None, Suspicion::Silent, None),
    ] {
        world.feed(Input::Hinted(Hint {
            node: at(node),
            term,
            suspicion,
        }));
        assert_eq!(
            world.actions.drain(..).collect::<Vec<_>>(),
            expected.into_iter().collect::<Vec<_>>()
        );
    }
    assert_eq!(world.state().0, Phase::Serving);
}

#[test]
fn sentinels_are_polled_faster_while_they_may_have_news() {
    let mut world = World::calm();
    let paces = |world: &mut World| {
        let pace = |action| match action {
            Action::PollEvery(every) => Some(every),
            _ => None,
        };
        world.actions.drain(..).filter_map(pace).collect::<Vec<_>>()
    };
    world.hear(101, Event::Selected(at(B)));
    assert_eq!(paces(&mut world), [limits::POLL_MOVING]);
    world.roles.insert(B, primary());
    world.probe(B);
    assert_eq!(paces(&mut world), [], "provisional");
    world.say(101, B, 6);
    assert_eq!(
        paces(&mut world),
        [],
        "two of three do not know yet, for all we can see"
    );
    world.say(102, B, 6);
    world.say(103, B, 6);
    assert_eq!(paces(&mut world), [limits::POLL_CALM]);
    world.feed(Input::Unsubscribed(at(102)));
    assert_eq!(
        paces(&mut world),
        [limits::POLL_MOVING],
        "its events are not heard"
    );
    world.poll(102, unreachable());
    assert_eq!(paces(&mut world), [limits::POLL_CALM]);
}
