//! Which sentinel is believed, and who is primary by its word.

use super::*;

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
