//! The watcher as others use it, in a world in memory and with paused time.

mod world;

use std::time::Duration;

use sentinel_watcher::{FailoverEnd, Hint, Phase, SentinelState, Suspicion};
use tokio::time::{Instant, sleep, timeout};

use world::{Manner, Part, Watching, World, at, credentials, is_primary};

const OF_MASTER: &str = "master x h 1";
const OF_REPLICA: &str = "slave h:2 h 2 @ x h 1";

async fn serving(world: &World) -> Watching {
    let mut watching = world.watch(world.config(&[101, 102, 103]));
    watching.until_serving(1).await;
    watching
        .until_health(|health| states(health) == [SentinelState::Watching; 3])
        .await;
    watching
        .until(|shard| shard.replicas.iter().filter(|replica| replica.usable).count() == 2)
        .await;
    // Half-way between two polls, and two probes.
    sleep(Duration::from_millis(1500)).await;
    watching
}

fn states(health: &sentinel_watcher::Health) -> Vec<SentinelState> {
    health.sentinels.iter().map(|sentinel| sentinel.state).collect()
}

#[tokio::test(start_paused = true)]
async fn finds_everything_from_one_sentinel() {
    let world = World::regular();
    let mut watching = world.watch(world.config(&[102]));
    watching.until_serving(1).await;
    watching
        .until_health(|health| states(health) == [SentinelState::Watching; 3])
        .await;
    watching
        .until(|shard| shard.replicas.iter().filter(|replica| replica.usable).count() == 2)
        .await;
    assert_eq!(watching.problem(), "");
    assert_eq!(watching.health.down_after(), Some(Duration::from_secs(1)));
}

#[tokio::test(start_paused = true)]
async fn a_planned_failover_is_released_within_two_probes_of_the_promotion() {
    let world = World::regular();
    let mut watching = serving(&world).await;
    world.tell(101, "+failover-state-select-slave", OF_MASTER);
    assert!(watching.until(|shard| shard.phase == Phase::Moving).await < Duration::from_millis(1));
    world.tell(101, "+selected-slave", OF_REPLICA);
    world.say(101, |saying| saying.state = "select_slave");
    sleep(Duration::from_millis(60)).await;
    assert_eq!(watching.phase(), Phase::Moving);
    // Promotion kills the node's clients.
    world.set(2, Part::Primary);
    world.cut(2);
    let delay = watching.until_serving(2).await;
    assert!(delay <= Duration::from_millis(12), "{delay:?}");
    assert!(watching.feed.load().shard(0).provisional);
    world.say(101, |saying| {
        (saying.primary, saying.epoch, saying.state) = (2, 1, "reconf_slaves")
    });
    world.tell(101, "+promoted-slave", OF_REPLICA);
    watching
        .until(|shard| !shard.provisional && shard.config_epoch == 1)
        .await;
    let health = watching.health.load();
    assert_eq!(health.failovers.planned, 1);
    assert!(
        health
            .past_failovers
            .back()
            .is_some_and(|last| last.to() == Some(&at(2))
                && last.end.is_some_and(|(end, _)| end == FailoverEnd::Confirmed))
    );
}

#[tokio::test(start_paused = true)]
async fn a_dead_primary_is_held_at_once_and_keeps_its_term_when_it_returns() {
    let world = World::regular();
    let mut watching = serving(&world).await;
    let term = watching.feed.load().shard(0).primary.as_ref().unwrap().term;
    world.kill(1);
    let delay = watching.until(|shard| shard.phase == Phase::Moving).await;
    assert!(delay <= Duration::from_millis(5), "{delay:?}");
    sleep(Duration::from_millis(700)).await;
    world.manner(1, Manner::Answer);
    let delay = watching.until_serving(1).await;
    assert!(delay <= Duration::from_millis(60), "{delay:?}");
    assert_eq!(watching.feed.load().shard(0).primary.as_ref().unwrap().term, term);
}

#[tokio::test(start_paused = true)]
async fn broken_connections_alone_hold_nothing() {
    let world = World::regular();
    let watching = serving(&world).await;
    let epoch = watching.feed.load().epoch;
    for port in [1, 2, 3, 101, 102, 103].repeat(5) {
        world.cut(port);
        sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(watching.feed.load().epoch, epoch, "nothing was published");
    assert_eq!(watching.health.load().sentinels_answering(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_hint_of_silence_is_checked_on_a_fresh_connection() {
    for (manner, held) in [(Manner::Hang, true), (Manner::Answer, false)] {
        let world = World::regular();
        let mut watching = serving(&world).await;
        let dialled = world.change(1, |host| host.dialled);
        let term = watching
            .feed
            .load()
            .shard(0)
            .primary
            .as_ref()
            .map(|primary| primary.term);
        world.manner(1, manner);
        watching.hints.send(Hint {
            node: at(1),
            term,
            suspicion: Suspicion::Silent,
        });
        if held {
            let delay = watching.until(|shard| shard.phase == Phase::Moving).await;
            assert!(
                delay <= Duration::from_millis(1010),
                "one --node-timeout: {delay:?}"
            );
        } else {
            sleep(Duration::from_millis(500)).await;
            assert_eq!(watching.phase(), Phase::Serving);
        }
        assert!(
            world.change(1, |host| host.dialled) > dialled,
            "a fresh connection"
        );
    }
}

/// A primary that has no place for us may serve those that it has.
#[tokio::test(start_paused = true)]
async fn a_full_primary_is_not_held() {
    let world = World::regular();
    let mut watching = serving(&world).await;
    world.manner(1, Manner::Full);
    world.cut(1);
    let problem = "h:1 answers: ERR max number of clients reached";
    watching
        .until_health(|health| health.problem.as_deref() == Some(problem))
        .await;
    assert_eq!(watching.phase(), Phase::Serving);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(watching.phase(), Phase::Serving);
    assert!(
        world.change(1, |host| host.dialled) < 20,
        "and it is not dialled in a loop"
    );
}

/// Whoever hints again and again does not make the look start again and again.
#[tokio::test(start_paused = true)]
async fn a_flood_of_hints_delays_no_verdict() {
    for manner in [Manner::Hang, Manner::Swallow] {
        let world = World::regular();
        let mut watching = serving(&world).await;
        let hints = watching.hints.clone();
        world.manner(1, manner);
        let flood = async {
            loop {
                let suspicion = Suspicion::Silent;
                hints.send(Hint {
                    node: at(1),
                    term: None,
                    suspicion,
                });
                sleep(Duration::from_millis(100)).await;
            }
        };
        let held = watching.until(|shard| shard.phase == Phase::Moving);
        let delay = tokio::select! {
            biased;
            delay = held => delay,
            () = flood => unreachable!(),
        };
        assert!(delay <= Duration::from_millis(1100), "{delay:?}");
    }
}

/// A look that hangs on an old connection is left for a fresh one as soon as somebody hints.
#[tokio::test(start_paused = true)]
async fn a_hint_cuts_a_hanging_look_short() {
    let world = World::regular();
    let mut watching = serving(&world).await;
    world.lose(1);
    let dialled = world.change(1, |host| host.dialled);
    sleep(Duration::from_millis(1200)).await;
    assert_eq!(
        world.change(1, |host| host.dialled),
        dialled,
        "it still listens to the old one"
    );
    watching.hints.send(Hint {
        node: at(1),
        term: None,
        suspicion: Suspicion::Silent,
    });
    sleep(Duration::from_millis(100)).await;
    assert_eq!(world.change(1, |host| host.dialled), dialled + 1);
    assert_eq!(watching.phase(), Phase::Serving);
    watching.until_serving(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_primary_is_noticed_without_any_hint() {
    let world = World::regular();
    let mut watching = serving(&world).await;
    world.manner(1, Manner::Hang);
    let delay = watching.until(|shard| shard.phase == Phase::Moving).await;
    assert!(delay <= Duration::from_millis(3100), "{delay:?}");
}

#[tokio::test(start_paused = true)]
async fn hung_sentinels_stall_nobody() {
    for manner in [Manner::Hang, Manner::Swallow, Manner::Babble, Manner::Refuse] {
        let world = World::regular();
        world.manner(101, manner);
        let mut watching = world.watch(world.config(&[101, 102, 103]));
        let delay = watching.until_serving(1).await;
        // The first choice gives the slowest one a second.
        assert!(delay <= Duration::from_millis(1100), "{delay:?}");
        watching
            .until_health(|health| states(health)[0] == SentinelState::Unreachable)
            .await;
        world.tell(102, "+odown", OF_MASTER);
        assert!(watching.until(|shard| shard.phase == Phase::Moving).await < Duration::from_millis(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_hangs_is_made_anew() {
    let world = World::regular();
    let mut watching = serving(&world).await;
    world.manner(101, Manner::Hang);
    watching
        .until_health(|health| states(health)[0] == SentinelState::Unreachable)
        .await;
    sleep(Duration::from_secs(10)).await;
    world.manner(101, Manner::Answer);
    watching
        .until_health(|health| states(health) == [SentinelState::Watching; 3])
        .await;
    world.tell(101, "+failover-state-select-slave", OF_MASTER);
    watching.until(|shard| shard.phase == Phase::Moving).await;
}

/// Neither end hears of a connection that a firewall forgot: PING does.
#[tokio::test(start_paused = true)]
async fn a_subscription_that_is_lost_in_silence_is_made_anew() {
    let world = World::regular();
    let mut watching = serving(&world).await;
    world.lose(101);
    sleep(Duration::from_secs(5)).await;
    world.tell(101, "+failover-state-select-slave", OF_MASTER);
    watching.until(|shard| shard.phase == Phase::Moving).await;
}

#[tokio::test(start_paused = true)]
async fn the_last_good_topology_serves_while_all_sentinels_are_away() {
    let world = World::regular();
    let mut watching = serving(&world).await;
    (101..=103).for_each(|port| world.kill(port));
    watching
        .until_health(|health| health.sentinels_answering() == 0)
        .await;
    assert!(
        watching.problem().starts_with("no sentinel is reachable: "),
        "{}",
        watching.problem()
    );
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(watching.phase(), Phase::Serving);
    // They come back and have moved the primary meanwhile.
    world.set(2, Part::Primary);
    for port in 101..=103 {
        world.manner(port, Manner::Answer);
        world.say(port, |saying| (saying.primary, saying.epoch) = (2, 1));
    }
    let delay = watching.until_serving(2).await;
    assert!(
        delay <= Duration::from_millis(2100),
        "the longest pause between dials: {delay:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn starting_before_everything_else_is_normal() {
    let world = World::default();
    let mut watching = world.watch(world.config(&[101, 102, 103]));
    sleep(Duration::from_secs(600)).await;
    assert_eq!(watching.phase(), Phase::Down);
    assert!(
        watching.problem().starts_with("no sentinel is reachable"),
        "{}",
        watching.problem()
    );
    let later = World::regular();
    for port in 101..=103 {
        let part = later.change(port, |host| host.part.clone());
        world.set(port, part);
    }
    watching
        .until_health(|health| health.sentinels_answering() == 3)
        .await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(
        watching.problem(),
        "h:1 is named as primary: it refuses connections"
    );
    world.set(1, Part::Loading);
    watching
        .until_health(|health| {
            health
                .problem
                .as_deref()
                .is_some_and(|text| text.contains("loading"))
        })
        .await;
    assert_eq!(watching.phase(), Phase::Down);
    world.set(1, Part::Primary);
    let delay = watching.until_serving(1).await;
    assert!(delay <= Duration::from_millis(60), "{delay:?}");
    assert!(is_primary(watching.feed.load().shard(0), 1));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_master_name_is_said_and_tried_again() {
    let world = World::regular();
    (101..=103).for_each(|port| world.say(port, |saying| saying.master = "y"));
    let mut watching = world.watch(world.config(&[101, 102, 103]));
    watching
        .until_health(|health| states(health) == [SentinelState::Refusing; 3])
        .await;
    assert_eq!(watching.problem(), "sentinel h:101 knows no master named \"x\"");
    (101..=103).for_each(|port| world.say(port, |saying| saying.master = "x"));
    watching.until_serving(1).await;
    assert_eq!(watching.problem(), "");
}

#[tokio::test(start_paused = true)]
async fn passwords_are_asked_for_by_the_flag_that_gives_them() {
    let world = World::regular();
    (101..=103).for_each(|port| world.change(port, |host| host.password = Some("s")));
    (1..=3).for_each(|port| world.change(port, |host| host.password = Some("n")));
    for (sentinel, node, problem) in [
        (
            None,
            None,
            "sentinel h:101 wants a password: set --sentinel-password-file",
        ),
        (
            Some("wrong"),
            None,
            "sentinel h:101 refuses the password: check --sentinel-username and --sentinel-password-file",
        ),
        (Some("s"), None, "h:1 wants a password: set --password-file"),
        (
            Some("s"),
            Some("wrong"),
            "h:1 refuses the password: check --username and --password-file",
        ),
    ] {
        let mut config = world.config(&[101, 102, 103]);
        config.sentinel_credentials = sentinel.and_then(credentials);
        config.node_credentials = node.and_then(credentials);
        let mut watching = world.watch(config);
        watching
            .until_health(|health| health.problem.as_deref() == Some(problem))
            .await;
        sleep(Duration::from_secs(3)).await;
        assert_eq!(
            watching.problem(),
            problem,
            "the first answer and the third are one"
        );
        assert_eq!(watching.phase(), Phase::Down);
    }
    let mut config = world.config(&[101, 102, 103]);
    config.sentinel_credentials = credentials("s");
    config.node_credentials = credentials("n");
    let mut watching = world.watch(config);
    watching.until_serving(1).await;
    assert_eq!(watching.problem(), "");
}

/// Sentinels and nodes change their passwords, and the operator says so: nothing is held, and everybody is asked on.
#[tokio::test(start_paused = true)]
async fn another_configuration_is_taken_while_it_watches() {
    let world = World::regular();
    let watching = serving(&world).await;
    let epoch = watching.feed.load().epoch;
    (101..=103).for_each(|port| world.change(port, |host| host.password = Some("s")));
    (1..=3).for_each(|port| world.change(port, |host| host.password = Some("n")));
    let mut config = world.config(&[103]);
    config.sentinel_credentials = credentials("s");
    config.node_credentials = credentials("n");
    assert!(watching.steering.reconfigure(config).await);
    (1..=3).chain(101..=103).for_each(|port| world.cut(port));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(watching.feed.load().epoch, epoch, "nothing was published");
    assert_eq!(watching.problem(), "");
    assert_eq!(states(&watching.health.load()), [SentinelState::Watching; 3]);
    // One that is not configured any more, and gone, is forgotten; the configured one is not.
    for port in [102, 103] {
        world.say(port, |saying| saying.others.retain(|other| *other != 101));
    }
    world.kill(101);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(watching.health.load().sentinels.len(), 2);
}

/// An order right behind RESUME may count on writes that flow, one behind PAUSE on writes that wait.
#[tokio::test(start_paused = true)]
async fn a_pause_and_its_end_are_answered_once_they_are_so() {
    let world = World::regular();
    let watching = serving(&world).await;
    let steering = &watching.steering;
    assert!(steering.pause().await);
    assert_eq!(watching.phase(), Phase::Moving);
    // They flow again once the primary has answered since.
    sleep(Duration::from_millis(10)).await;
    world.manner(1, Manner::Hang);
    let mut resumed = std::pin::pin!(steering.resume());
    let early = timeout(Duration::from_millis(100), &mut resumed).await;
    assert!(early.is_err() && watching.phase() == Phase::Moving);
    world.manner(1, Manner::Answer);
    world.cut(1);
    assert!(resumed.await);
    assert_eq!(watching.phase(), Phase::Serving);
    // One that has died meanwhile holds them itself.
    assert!(steering.pause().await);
    world.kill(1);
    sleep(Duration::from_secs(1)).await;
    assert!(steering.resume().await);
    assert_eq!(watching.phase(), Phase::Moving);
}

/// A password that nobody wants is no fault.
#[tokio::test(start_paused = true)]
async fn needless_passwords_do_no_harm() {
    let world = World::regular();
    let mut config = world.config(&[101, 102, 103]);
    config.sentinel_credentials = credentials("s");
    config.node_credentials = credentials("n");
    world.watch(config).until_serving(1).await;
}

#[tokio::test(start_paused = true)]
async fn it_is_calm_while_all_is_calm() {
    let world = World::regular();
    let mut watching = serving(&world).await;
    let start = Instant::now();
    let (epoch, dialled) = (watching.feed.load().epoch, world.change(101, |host| host.dialled));
    sleep(Duration::from_secs(600)).await;
    assert_eq!(watching.feed.load().epoch, epoch);
    assert_eq!(
        world.change(101, |host| host.dialled),
        dialled,
        "connections are kept"
    );
    watching.cancel.cancel();
    watching.ended().await;
    assert!(start.elapsed() < Duration::from_secs(601));
}
