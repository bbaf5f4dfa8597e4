//! What makes commands wait, and what ends it.

use super::*;

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
