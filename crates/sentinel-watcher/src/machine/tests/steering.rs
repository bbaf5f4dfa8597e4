//! What operators order, and what is no promotion.

use super::*;

#[test]
fn a_primary_that_is_handed_over_is_held_and_its_successor_is_not() {
    let mut world = World::calm();
    world.feed(Input::HandedOver(Some(at(A))));
    assert_eq!(world.state().0, Phase::Moving);
    world.settle();
    assert_eq!(
        world.state().0,
        Phase::Moving,
        "until the operator's failover is over"
    );
    world.hear(101, Event::Elected);
    world.hear(101, Event::Selected(at(B)));
    world.roles.insert(B, primary());
    world.probe(B);
    assert_eq!(world.state(), (Phase::Serving, B, 5, true));
    let failover = world.machine.health().failover.expect("it goes on");
    assert_eq!(
        (failover.sign, failover.kind.label()),
        ("an operator asked for a failover", "planned")
    );
    world.feed(Input::HandedOver(None));
    world.say(101, B, 6);
    assert_eq!(world.state(), (Phase::Serving, B, 6, false));
}

#[test]
fn a_handover_that_is_given_up_releases_the_same_primary() {
    let mut world = World::calm();
    let term = world.term();
    world.feed(Input::HandedOver(Some(at(A))));
    world.feed(Input::HandedOver(None));
    assert_eq!(world.state().0, Phase::Moving, "not before it has answered");
    world.probe(A);
    assert_eq!((world.state().0, world.term()), (Phase::Serving, term));
    let last = world
        .machine
        .health()
        .past_failovers
        .pop_back()
        .expect("it is told of");
    assert_eq!(last.end.map(|(end, _)| end.label()), Some("called-off"));
    assert_eq!(world.machine.health().failovers, FailoverCounts::default());
}

#[test]
fn a_pause_outlives_a_failover() {
    let mut world = World::calm();
    world.feed(Input::Paused(true));
    assert_eq!(world.state(), (Phase::Moving, A, 5, false));
    world.roles = BTreeMap::from([(A, replica(B)), (B, primary()), (C, replica(B))]);
    world.all_say(B, 6);
    world.settle();
    assert_eq!(world.state(), (Phase::Moving, B, 6, false));
    world.feed(Input::Paused(false));
    world.settle();
    assert_eq!(world.state(), (Phase::Serving, B, 6, false));
}

/// Two sentinels lead at once: what the one that lost had promoted is no primary until it is promoted again.
#[test]
fn a_former_primary_that_nobody_has_demoted_is_not_promoted() {
    let mut world = World::calm();
    world.hear(101, Event::Selected(at(B)));
    world.roles.insert(B, primary());
    world.probe(B);
    world.say(101, B, 6);
    assert_eq!(world.state(), (Phase::Serving, B, 6, false));
    // A says `master` still; another sentinel wants it back.
    world.probe(A);
    world.hear(102, Event::Selected(at(A)));
    world.probe(A);
    assert_eq!(world.state(), (Phase::Moving, B, 6, false));
    world.roles.insert(A, replica(B));
    world.probe(A);
    world.roles.insert(A, primary());
    world.probe(A);
    assert_eq!(world.state(), (Phase::Serving, A, 6, true));
}
