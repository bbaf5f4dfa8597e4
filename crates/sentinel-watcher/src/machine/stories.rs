//! Whole failovers, as real servers told them, and what the machine makes of each.

use crate::machine::replay::Trace;

macro_rules! trace {
    ($name:literal) => {
        Trace::read(include_str!(concat!("traces/", $name, ".txt")))
    };
}

#[track_caller]
fn check(trace: Trace, expected: &str) {
    let told = trace.transcript();
    let expected = expected.lines().map(str::trim).filter(|line| !line.is_empty());
    assert_eq!(
        told.lines().collect::<Vec<_>>(),
        expected.collect::<Vec<_>>(),
        "\n{told}"
    );
}

#[test]
fn planned_failover() {
    check(
        trace!("planned"),
        "
        -948 serving 17001#1 @0
        30 held: a sentinel leads a failover
        30 moving 17001#1 @0
        191 provisional 17003#2 @0
        1068 planned, confirmed: a sentinel leads a failover
        1068 serving 17003#2 @1
    ",
    );
}

/// The polls alone tell as much, if later.
#[test]
fn planned_failover_with_most_events_lost() {
    check(
        trace!("planned_events_lost"),
        "
        -948 serving 17001#1 @0
        13 held: a sentinel leads a failover
        13 moving 17001#1 @0
        184 provisional 17002#2 @0
        1116 planned, confirmed: a sentinel leads a failover
        1116 serving 17002#2 @1
    ",
    );
}

/// With no event at all the leader's polls tell of the attempt and of its candidate.
#[test]
fn planned_failover_without_events() {
    check(
        trace!("planned").without(0.0, |kind, _, _| kind == "event"),
        "
        -948 serving 17001#1 @0
        60 held: a sentinel leads a failover
        60 moving 17001#1 @0
        191 provisional 17003#2 @0
        1068 planned, confirmed: a sentinel leads a failover
        1068 serving 17003#2 @1
    ",
    );
}

/// With the leader unheard the switch is news when the others have it.
#[test]
fn planned_failover_by_a_leader_that_nobody_hears() {
    let leader = |kind: &str, port, _: &str| port == 27_001 && kind != "role";
    check(
        trace!("planned").without(0.0, leader),
        "
        -948 serving 17001#1 @0
        1137 held: a sentinel leads a failover
        1137 moving 17001#1 @0
        1138 provisional 17003#2 @0
        1170 planned, confirmed: a sentinel leads a failover
        1170 serving 17003#2 @1
    ",
    );
}

#[test]
fn crash() {
    check(
        trace!("crash"),
        "
        -947 serving 17001#1 @0
        53 held: it does not answer
        53 moving 17001#1 @0
        1424 provisional 17002#2 @0
        2226 crash, confirmed: it does not answer
        2226 serving 17002#2 @1
    ",
    );
}

/// The primary is cut off from everybody but us: its word counts nothing against the sentinels'.
#[test]
fn partition_that_we_do_not_share() {
    check(
        trace!("crash").without(0.0, |kind, port, _| kind == "role" && port == 17_001),
        "
        -947 serving 17001#1 @0
        1141 held: sentinels agree that it is down
        1141 moving 17001#1 @0
        1424 provisional 17002#2 @0
        2226 crash, confirmed: sentinels agree that it is down
        2226 serving 17002#2 @1
    ",
    );
}

#[test]
fn crash_and_quick_return_keep_the_term() {
    check(
        trace!("crash_back"),
        "
        -948 serving 17001#1 @0
        52 held: it does not answer
        52 moving 17001#1 @0
        553 serving 17001#1 @0
    ",
    );
}

#[test]
fn hang_and_resurrection() {
    check(
        trace!("hang"),
        "
        -948 serving 17001#1 @0
        2053 held: it does not answer
        2053 moving 17001#1 @0
        2361 provisional 17002#2 @0
        3186 crash, confirmed: it does not answer
        3186 serving 17002#2 @1
    ",
    );
}

/// Nobody knows of the promotion: the old primary is primary still, and in the end the sentinels say so.
#[test]
fn leader_killed_between_promotion_and_announcement() {
    check(
        trace!("leader_killed"),
        "
        -948 serving 17001#1 @0
        35 held: a sentinel leads a failover
        35 moving 17001#1 @0
        199 provisional 17003#2 @0
        17039 planned, unconfirmed: a sentinel leads a failover
        17039 held: it says that it is a replica
        17039 17003 turned back
        17039 moving 17003#2 @0
        17040 manual, confirmed: it says that it is a replica
        17040 serving 17001#3 @0
    ",
    );
}

#[test]
fn leader_killed_before_it_selects() {
    check(
        trace!("leader_killed_early"),
        "
        -948 serving 17001#1 @0
        39 held: a sentinel leads a failover
        39 moving 17001#1 @0
        1089 serving 17001#1 @0
    ",
    );
}

#[test]
fn lost_election() {
    check(
        trace!("lost_election"),
        "
        -948 serving 17001#1 @0
        1067 held: sentinels agree that it is down
        1067 moving 17001#1 @0
        1617 serving 17001#1 @0
        11400 27001 gave up: not elected
    ",
    );
}

/// One sentinel calls the primary down, and goes on calling; the primary answers us all the while.
#[test]
fn lost_election_about_a_primary_that_answers() {
    let silence = |kind: &str, port, _: &str| kind == "role" && port == 17_001;
    let trace = trace!("lost_election")
        .without(0.0, silence)
        .without(1.5, |_, _, _| true);
    check(
        trace,
        "
        -948 serving 17001#1 @0
        1067 held: sentinels agree that it is down
        1067 moving 17001#1 @0
        3067 serving 17001#1 @0
    ",
    );
}

#[test]
fn aborted_failover() {
    check(
        trace!("no_good_slave"),
        "
        -948 serving 17001#1 @0
        31 held: a sentinel leads a failover
        31 moving 17001#1 @0
        90 27001 gave up: no replica is fit
        132 serving 17001#1 @0
    ",
    );
}

#[test]
fn aborted_failover_after_a_crash() {
    check(
        trace!("no_good_slave_crash"),
        "
        -948 serving 17001#1 @0
        11052 held: it does not answer
        11052 moving 17001#1 @0
        12265 27001 gave up: no replica is fit
        16053 serving 17001#1 @0
    ",
    );
}

/// REPLICAOF by hand: the sentinels do not follow, so nobody is primary until they have failed over.
#[test]
fn demotion_by_hand() {
    check(
        trace!("manual"),
        "
        -948 serving 17001#1 @0
        53 held: it says that it is a replica
        53 moving 17001#1 @0
        28244 provisional 17003#2 @0
        29151 manual, confirmed: it says that it is a replica
        29151 serving 17003#2 @1
    ",
    );
}

/// Sentinels that start again at epoch 0 learn the epoch from the one that stayed: nothing happens.
#[test]
fn recreated_sentinels() {
    check(
        trace!("recreated"),
        "
        -948 serving 17001#1 @0
        54 held: a sentinel leads a failover
        54 moving 17001#1 @0
        191 provisional 17002#2 @0
        1167 planned, confirmed: a sentinel leads a failover
        1167 serving 17002#2 @1
    ",
    );
}
