//! Rules that no recorded story shows: who is primary, and who waits.

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
fn the_first_choice_waits_for_slower_sentinels() {
    let mut world = World::new();
    world.roles = BTreeMap::from([(A, primary()), (B, primary()), (C, replica(B))]);
    world.say(101, A, 4);
    world.settle();
    assert_eq!(world.state().0, Phase::Down, "the others may know better");
    world.say(102, B, 5);
    world.poll(103, unreachable());
    world.settle();
    assert_eq!(world.state(), (Phase::Serving, B, 5, false));
}

#[test]
fn the_first_choice_does_not_wait_for_ever() {
    let mut world = World::new();
    world.roles = BTreeMap::from([(A, primary()), (B, replica(A)), (C, replica(A))]);
    world.say(101, A, 4);
    world.settle();
    world.pass(limits::FIRST_CHOICE_PATIENCE);
    assert_eq!(world.state(), (Phase::Serving, A, 4, false));
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
fn blindness_changes_nothing() {
    let mut world = World::calm();
    (101..=103).for_each(|sentinel| world.poll(sentinel, unreachable()));
    world.pass(Duration::from_secs(3600));
    assert_eq!(world.state(), (Phase::Serving, A, 5, false));
    assert_eq!(
        world.problem(),
        "no sentinel is reachable: sentinel h:101: refused"
    );
    for blind in [
        Verdict::Blind("too many open files".to_owned()),
        Verdict::Refused(Denial::NotPermitted),
    ] {
        world.roles.insert(A, blind);
        world.settle();
        assert_eq!(world.state(), (Phase::Serving, A, 5, false));
        assert!(world.problem().starts_with("h:1 "), "{}", world.problem());
    }
    world
        .roles
        .insert(A, Verdict::Unreachable("it refuses connections"));
    world.settle();
    assert_eq!(
        world.state().0,
        Phase::Moving,
        "its own silence is a sign, whoever watches"
    );
    world.roles.insert(A, primary());
    let term = world.term();
    world.settle();
    assert_eq!((world.state().0, world.term()), (Phase::Serving, term));
}

#[test]
fn a_stale_sentinel_does_not_lead_back() {
    let mut world = World::calm();
    world.roles.insert(B, primary());
    (102..=103).for_each(|sentinel| world.poll(sentinel, unreachable()));
    world.say(101, B, 4);
    world.settle();
    world.pass(limits::DISSENT_PATIENCE * 2);
    world.settle();
    assert_eq!(world.state(), (Phase::Serving, A, 5, false));
}

#[test]
fn a_majority_overrules_a_higher_epoch_in_time() {
    let mut world = World::calm();
    world.roles = BTreeMap::from([(A, primary()), (B, primary()), (C, replica(B))]);
    // Two sentinels were recreated around B; the third and A live in the past.
    world.say(101, B, 0);
    world.say(102, B, 0);
    world.settle();
    world.pass(limits::DISSENT_PATIENCE / 2);
    assert_eq!(world.state(), (Phase::Serving, A, 5, false));
    assert!(world.problem().starts_with("sentinels disagree"));
    world.pass(limits::DISSENT_PATIENCE / 2);
    world.settle();
    assert_eq!(world.state(), (Phase::Serving, B, 0, false));
    assert!(world.notes().contains(&Note::Overruled { by: 0, memory: 5 }));
    // The past is not believed again, and the next failover of the recreated ones is followed at once.
    world.say(103, A, 5);
    world.pass(limits::DISSENT_PATIENCE * 2);
    world.settle();
    assert_eq!(world.state(), (Phase::Serving, B, 0, false));
    world.roles = BTreeMap::from([(A, primary()), (B, replica(C)), (C, primary())]);
    world.say(101, C, 1);
    world.settle();
    assert_eq!(world.state(), (Phase::Serving, C, 1, false));
}

/// Whoever speaks for one sentinel has everybody wait for a moment, or leads to a node that says that it is primary, until
/// the others have insisted.
#[test]
fn one_sentinel_that_lies_about_the_address_is_overruled() {
    let lies = [
        (replica(A), (Phase::Moving, A, 5, false)),
        (
            Verdict::Unreachable("nobody is there"),
            (Phase::Moving, A, 5, false),
        ),
        (primary(), (Phase::Serving, B, 99, false)),
    ];
    for (role, meanwhile) in lies {
        let mut world = World::calm();
        world.roles.insert(B, role);
        world.say(101, B, 99);
        world.settle();
        assert_eq!(world.state(), meanwhile);
        world.pass(limits::DISSENT_PATIENCE);
        world.settle();
        assert_eq!(world.state(), (Phase::Serving, A, 5, false));
        world.say(101, B, 99);
        world.settle();
        world.pass(limits::DISSENT_PATIENCE * 2);
        world.settle();
        assert_eq!(
            world.state(),
            (Phase::Serving, A, 5, false),
            "a lie that is known"
        );
    }
}

#[test]
fn a_regular_switch_is_no_overruling() {
    let mut world = World::calm();
    world.roles.insert(B, primary());
    // The leader first; the majority says the old address for a while; the old primary takes writes still.
    world.say(101, B, 6);
    world.settle();
    assert_eq!(world.state(), (Phase::Serving, B, 6, false));
    world.pass(limits::DISSENT_PATIENCE / 4);
    world.settle();
    assert_eq!(world.state(), (Phase::Serving, B, 6, false));
    assert_eq!(world.problem(), "");
}

#[test]
fn recreated_sentinels_of_the_same_primary_change_only_the_epoch() {
    let mut world = World::calm();
    let term = world.term();
    world.all_say(A, 0);
    world.pass(limits::DISSENT_PATIENCE);
    world.settle();
    world.pass(Duration::ZERO);
    assert_eq!(
        (world.state(), world.term()),
        ((Phase::Serving, A, 0, false), term)
    );
}

#[test]
fn a_switch_there_and_back_that_nobody_saw_is_another_term() {
    let mut world = World::calm();
    let term = world.term();
    world.say(101, A, 7);
    assert_eq!(world.state(), (Phase::Serving, A, 7, false));
    assert!(world.term() > term);
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
fn a_primary_that_lost_the_role_comes_back_in_another_term() {
    let mut world = World::calm();
    let term = world.term();
    world.roles.insert(A, replica(B));
    world.probe(A);
    assert_eq!(world.state().0, Phase::Moving);
    world.roles.insert(A, primary());
    world.settle();
    assert_eq!(world.state(), (Phase::Serving, A, 5, false));
    assert!(world.term() > term);
}

#[test]
fn loading_holds_and_a_restart_is_told() {
    let mut world = World::calm();
    let term = world.term();
    world.roles.insert(A, Verdict::Loading);
    world.settle();
    assert_eq!(world.state().0, Phase::Moving);
    assert!(world.actions.contains(&Action::Probe {
        node: at(A),
        every: limits::PROBE_HELD
    }));
    world.roles.insert(A, Verdict::Primary { offset: 3 });
    world.settle();
    assert_eq!((world.state().0, world.term()), (Phase::Serving, term));
    let restarted = Note::Restarted {
        primary: at(A),
        before: 10,
        after: 3,
    };
    assert!(world.notes().contains(&restarted));
}

#[test]
fn an_answer_to_an_older_question_does_not_hide_an_event() {
    let mut world = World::calm();
    let asked = world.now;
    world.hear(101, Event::Elected);
    assert_eq!(world.state().0, Phase::Moving);
    let outcome = Ok(report(A, 5));
    world.feed(Input::Polled {
        sentinel: at(101),
        asked,
        outcome,
    });
    world.probe(A);
    assert_eq!(world.state().0, Phase::Moving);
    world.say(101, A, 5);
    world.probe(A);
    assert_eq!(world.state().0, Phase::Serving);
}

#[test]
fn an_abort_ends_only_the_attempt_of_its_own_sentinel() {
    let mut world = World::calm();
    world.hear(101, Event::Elected);
    world.hear(102, Event::Elected);
    world.hear(101, Event::Aborted(event::Abort::NotElected));
    world.settle();
    assert_eq!(world.state().0, Phase::Moving);
    world.hear(102, Event::Aborted(event::Abort::NoGoodReplica));
    assert_eq!(
        world.state().0,
        Phase::Moving,
        "not before the primary has said that it is one"
    );
    world.probe(A);
    assert_eq!(world.state().0, Phase::Serving);
}

#[test]
fn an_attempt_from_before_the_present_epoch_is_ignored() {
    let mut world = World::calm();
    for (epoch, phase) in [(5, Phase::Serving), (6, Phase::Moving)] {
        world.hear(101, Event::NewEpoch(epoch));
        world.hear(101, Event::TryFailover);
        world.hear(101, Event::Elected);
        assert_eq!(world.state().0, phase, "{epoch}");
    }
}

#[test]
fn time_alone_ends_a_hold_for_an_election_that_does_not_come() {
    let mut world = World::calm();
    assert_eq!(
        world.machine.wake(),
        None,
        "while all is calm time changes nothing"
    );
    world.hear(101, Event::ObjectivelyDown);
    assert_eq!(world.state().0, Phase::Moving);
    assert_eq!(world.machine.wake(), Some(world.now + limits::ELECTION_PATIENCE));
    world.pass(limits::ELECTION_PATIENCE);
    world.probe(A);
    assert_eq!(world.state().0, Phase::Serving);
}

#[test]
fn time_alone_ends_the_attempt_of_a_lost_sentinel() {
    let mut world = World::calm();
    world.hear(101, Event::Elected);
    world.poll(101, unreachable());
    assert_eq!(
        world.machine.wake(),
        Some(world.now + limits::LOST_ATTEMPT_PATIENCE)
    );
    world.settle();
    assert_eq!(world.state().0, Phase::Moving);
    world.pass(limits::LOST_ATTEMPT_PATIENCE);
    world.probe(A);
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

#[test]
fn votes_alone_hold_nothing() {
    let mut world = World::calm();
    world.hear(101, Event::TryFailover);
    assert_eq!(world.state().0, Phase::Serving);
}

#[test]
fn a_provisional_primary_that_is_turned_back_holds_again() {
    let mut world = World::calm();
    world.hear(101, Event::Elected);
    world.hear(101, Event::Selected(at(B)));
    assert!(world.actions.contains(&Action::Probe {
        node: at(B),
        every: limits::PROBE_CANDIDATE
    }));
    world.probe(B);
    assert_eq!(world.state(), (Phase::Moving, A, 5, false));
    world.roles.insert(B, primary());
    world.probe(B);
    assert_eq!(
        world.state(),
        (Phase::Serving, B, 5, true),
        "released before any epoch says so"
    );
    for role in [Verdict::Unreachable("it refuses connections"), replica(A)] {
        world.roles.insert(B, role);
        world.probe(B);
        assert_eq!(world.state(), (Phase::Moving, B, 5, true));
        world.probe(A);
        assert_eq!(
            world.state(),
            (Phase::Moving, B, 5, true),
            "its leader still promotes it"
        );
    }
    world.say(101, A, 5);
    world.probe(A);
    assert_eq!(world.state(), (Phase::Serving, A, 5, false));
    assert_eq!(world.machine.health().failovers.planned, 1);
    assert!(world.notes().contains(&Note::TurnedBack { primary: at(B) }));
}

#[test]
fn a_second_failover_before_the_first_is_confirmed_holds_again() {
    let mut world = World::calm();
    world.hear(101, Event::Selected(at(B)));
    world.roles.insert(B, primary());
    world.probe(B);
    assert_eq!(world.state(), (Phase::Serving, B, 5, true));
    world.say(101, A, 5);
    assert_eq!(
        world.state(),
        (Phase::Serving, B, 5, true),
        "its leader forgot it; it is primary still"
    );
    world.hear(102, Event::Selected(at(C)));
    assert_eq!(world.state(), (Phase::Moving, B, 5, true));
    world.roles.insert(C, primary());
    world.probe(C);
    assert_eq!(world.state(), (Phase::Serving, C, 5, true));
    world.say(102, C, 7);
    assert_eq!(world.state(), (Phase::Serving, C, 7, false));
    let health = world.machine.health();
    assert_eq!(health.failovers.planned, 2);
    let told = health.past_failovers.iter().map(|past| {
        let end = past.end.map(|(end, _)| end.label());
        (past.number, past.to().cloned(), end)
    });
    let both = [
        (1, Some(at(B)), Some("unconfirmed")),
        (2, Some(at(C)), Some("confirmed")),
    ];
    assert!(told.eq(both), "whoever looks only now is told of both");
}

#[test]
fn failovers_without_end_are_told_of_within_bounds() {
    let mut world = World::calm();
    for _ in 0..2 * limits::PAST_FAILOVERS {
        world.feed(Input::Paused(true));
        world.feed(Input::Paused(false));
        world.probe(A);
    }
    let told = world.machine.health().past_failovers;
    let newest = 2 * limits::PAST_FAILOVERS as u64;
    assert_eq!(told.len(), limits::PAST_FAILOVERS);
    assert_eq!(told.back().map(|past| past.number), Some(newest));
}
