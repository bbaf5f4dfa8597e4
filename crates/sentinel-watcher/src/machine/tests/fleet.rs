//! Which sentinels and which nodes are asked, and what is said of them.

use super::*;
use crate::topology::Replica;

#[test]
fn announced_addresses_are_rewritten_everywhere() {
    let map: AddressMap = "h=reached".parse().unwrap();
    let mut world = World::of(map);
    world.all_say(A, 5);
    let reached = |port| HostPort::new("reached", port);
    let probed = |world: &World, node| {
        world
            .actions
            .iter()
            .any(|action| matches!(action, Action::Probe { node: found, .. } if *found == node))
    };
    for node in [A, B, C] {
        assert!(probed(&world, reached(node)) && !probed(&world, at(node)));
    }
    world.now += Duration::from_millis(1);
    world.feed(Input::Probed {
        node: reached(A),
        verdict: primary(),
    });
    world.feed(Input::Probed {
        node: reached(B),
        verdict: replica(A),
    });
    assert_eq!(world.machine.shard.primary.as_ref().unwrap().address, reached(A));
    let usable = |replica: &Replica| replica.usable && replica.address == reached(B);
    assert!(world.machine.shard.replicas.iter().any(usable));
    world.hear(101, Event::Selected(at(B)));
    world.feed(Input::Probed {
        node: reached(B),
        verdict: primary(),
    });
    world.now += Duration::from_millis(1);
    world.feed(Input::Probed {
        node: reached(B),
        verdict: primary(),
    });
    assert_eq!(world.machine.shard.primary.as_ref().unwrap().address, reached(B));
}

#[test]
fn sentinels_are_discovered_once_and_within_bounds() {
    let mut world = World::new();
    let other = |port: u16| ReportedSentinel {
        address: at(port),
        id: format!("id-{port}"),
    };
    let mut said = report(A, 0);
    said.id = Some("id-101".to_owned());
    // 201 is new, 301 is another name of 102, which has not told its id yet.
    let second_name = ReportedSentinel {
        address: at(301),
        id: "id-102".to_owned(),
    };
    said.others = vec![other(201), second_name];
    world.poll(101, Ok(said.clone()));
    assert!(
        world.actions.contains(&Action::Watch(at(201))) && world.actions.contains(&Action::Watch(at(301)))
    );
    for (port, id) in [(301, "id-102"), (102, "id-102")] {
        let mut said = said.clone();
        said.id = Some(id.to_owned());
        world.poll(port, Ok(said));
    }
    assert!(world.actions.contains(&Action::Forget(at(301))));
    world.actions.clear();
    world.poll(101, Ok(said.clone()));
    assert_eq!(world.actions, []);
    said.others = (400..500).map(other).collect();
    world.poll(101, Ok(said));
    assert_eq!(world.machine.health().sentinels.len(), limits::SENTINELS);
}

#[test]
fn a_discovered_sentinel_is_forgotten_once_it_is_gone_and_nobody_names_it() {
    let mut world = World::new();
    let mut said = report(A, 0);
    said.others = vec![ReportedSentinel {
        address: at(201),
        id: "id-201".to_owned(),
    }];
    world.poll(101, Ok(said));
    world.poll(201, unreachable());
    assert!(!world.actions.contains(&Action::Forget(at(201))), "it is named");
    world.say(101, A, 0);
    assert!(world.actions.contains(&Action::Forget(at(201))));
    world.poll(102, unreachable());
    world.say(101, A, 0);
    assert_eq!(
        world.machine.health().sentinels.len(),
        3,
        "the operator's are kept"
    );
}

#[test]
fn replicas_come_and_go_with_their_own_word_and_the_sentinels() {
    let mut world = World::calm();
    let usable = |world: &World| -> Vec<u16> {
        let usable = world
            .machine
            .shard
            .replicas
            .iter()
            .filter(|replica| replica.usable);
        usable.map(|replica| replica.address.port).collect()
    };
    assert_eq!(usable(&world), [B, C]);
    for (role, left) in [
        (Verdict::Loading, [C].as_slice()),
        (replica(A), &[B, C]),
        (Verdict::Unreachable("it refuses connections"), &[C]),
        (replica(A), &[B, C]),
        (primary(), &[C]),
        (replica(C), &[C]),
        (replica(A), &[B, C]),
    ] {
        world.roles.insert(B, role.clone());
        world.probe(B);
        assert_eq!(usable(&world), left, "{role:?}");
    }
    let mut down = report(A, 5);
    down.replicas[0].down = true;
    world.poll(101, Ok(down.clone()));
    assert_eq!(usable(&world), [B, C], "one of three says so");
    world.poll(102, Ok(down));
    assert_eq!(usable(&world), [C]);
}

#[test]
fn lag_alone_is_no_news() {
    let mut world = World::calm();
    world.roles.insert(A, Verdict::Primary { offset: 100 });
    world.settle();
    assert!(
        !world
            .actions
            .iter()
            .any(|action| matches!(action, Action::Publish(_)))
    );
    assert_eq!(world.machine.health().replicas[0].lag_bytes, Some(90));
}

#[test]
fn nodes_are_bounded() {
    let mut world = World::new();
    let mut said = report(A, 5);
    let replica = |port| ReportedReplica {
        address: at(port),
        down: false,
        priority: 100,
    };
    said.replicas = (1000..2000).map(replica).collect();
    world.poll(101, Ok(said));
    assert_eq!(world.machine.nodes.len(), limits::NODES);
    assert!(world.machine.nodes.contains_key(&at(A)), "the primary first");
}

#[test]
fn health_tells_how_sentinels_fare() {
    let mut world = World::calm();
    world.feed(Input::Subscribed(at(101)));
    world.feed(Input::Subscribed(at(102)));
    world.hear(102, Event::TiltEntered);
    world.poll(103, unreachable());
    let health = world.machine.health();
    let states: Vec<_> = health.sentinels.iter().map(|sentinel| sentinel.state).collect();
    assert_eq!(
        states,
        [
            SentinelState::Watching,
            SentinelState::Tilted,
            SentinelState::Unreachable
        ]
    );
    assert_eq!(
        (health.quorum, health.down_after),
        (Some(2), Some(Duration::from_secs(1)))
    );
    assert_eq!((health.config_epoch, health.sentinels_answering()), (5, 2));
}
