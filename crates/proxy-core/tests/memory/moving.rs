//! While a failover goes on: writes wait in order and within bounds, reads flow, nothing is lost that need not be.

use std::time::Duration;

use proxy_core::ReadPolicy;
use sentinel_watcher::Phase;
use tokio::time::{Instant, sleep};

use crate::common::client::Client;
use crate::common::network::Manner;
use crate::common::node::{Fault, Temper};
use crate::common::world::{HOLD, NO_PRIMARY, World, run, run_with, settle};

const HOLD_FULL: &str = "-MASTERDOWN too much waits for a primary (--failover-hold-bytes, --max-memory); the command was not executed";

#[test]
fn writes_are_held_and_reads_flow() {
    run(async |world| {
        world.a.put("x", b"1");
        let (mut writer, mut reader) = (world.client(), world.client());
        world.moving();
        writer.send("INCR n").await;
        assert_eq!(reader.ask("GET x; GET n").await, "1 nil");
        writer.hears_nothing_for(HOLD / 2).await;
        assert_eq!(world.metric("slipring_held_commands", ""), 1.0);
        assert!(world.metric("slipring_held_bytes", "") >= 21.0);
        world.switch();
        assert_eq!(writer.reply().await, ":1");
        assert_eq!(world.a.received("INCR n").len(), 0);
        assert_eq!(world.b.executed("INCR n").len(), 1);
        assert_eq!(reader.ask("GET n").await, "1");
    });
}

#[test]
fn what_tells_the_node_what_to_be_is_not_held() {
    for line in ["REPLICAOF NO ONE", "SLAVEOF NO ONE", "FAILOVER ABORT"] {
        run(async |world| {
            let mut held = world.client();
            world.a.always(line, Fault::Answer("+OK\r\n"));
            world.a.become_a(Temper::Replica);
            world.moving();
            held.send("INCR n").await;
            assert_eq!(world.client().ask(line).await, "+OK");
            assert_eq!(world.a.received(line).len(), 1);
            held.hears_nothing_for(HOLD / 2).await;
            world.a.become_a(Temper::Primary);
            world.phase(Phase::Serving);
            assert_eq!(held.reply().await, ":1");
        });
    }
}

#[test]
fn nobody_waits_for_a_primary_that_a_client_made_a_replica() {
    run(async |world| {
        let (mut client, mut other) = (world.client(), world.client());
        assert_eq!(other.ask("MULTI; INCR n").await, "+OK +QUEUED");
        world.a.always("REPLICAOF h 1", Fault::Answer("+OK\r\n"));
        world.a.always("REPLICAOF NO ONE", Fault::Answer("+OK\r\n"));
        assert_eq!(client.ask("REPLICAOF h 1").await, "+OK");
        world.a.become_a(Temper::Replica);
        let aborted = "-EXECABORT Transaction discarded because of: READONLY";
        world.a.once(
            "EXEC",
            Fault::Answer("-EXECABORT Transaction discarded because of: READONLY\r\n"),
        );
        assert_eq!(other.ask("EXEC").await, aborted);
        for _ in 0..2 {
            let reply = client.ask("INCR n").await;
            assert!(reply.starts_with("-READONLY"), "{reply}");
            world.moving();
            settle().await;
        }
        world.a.become_a(Temper::Primary);
        assert_eq!(client.ask("REPLICAOF NO ONE; INCR n").await, "+OK :1");
        world.phase(Phase::Serving);
        settle().await;
        world.moving();
        second_incr_waits_for_the_switch(world, &mut client).await;
    });
}

#[test]
fn a_primary_made_a_replica_is_waited_for_again_once_somebody_has_put_it_back() {
    run(async |world| {
        let mut client = world.client();
        world.a.always("REPLICAOF h 1", Fault::Answer("+OK\r\n"));
        assert_eq!(client.ask("REPLICAOF h 1").await, "+OK");
        world.moving();
        assert_eq!(client.ask("INCR n").await, ":1");
        world.phase(Phase::Serving);
        settle().await;
        world.moving();
        settle().await;
        second_incr_waits_for_the_switch(world, &mut client).await;
    });
}

/// The client's second INCR is held, and executed by the next primary.
async fn second_incr_waits_for_the_switch(world: &World, client: &mut Client) {
    client.send("INCR n").await;
    client.hears_nothing_for(HOLD / 2).await;
    world.switch();
    assert_eq!(client.reply().await, ":2");
}

#[test]
fn a_transaction_that_the_node_refused_gets_the_nodes_words_when_the_hold_time_is_over() {
    run(async |world| {
        let mut client = world.client();
        assert_eq!(client.ask("MULTI; INCR n").await, "+OK +QUEUED");
        world.a.once(
            "EXEC",
            Fault::Answer("-EXECABORT Transaction discarded because of: MASTERDOWN\r\n"),
        );
        client.send("EXEC").await;
        settle().await;
        world.moving();
        assert_eq!(
            client.reply().await,
            "-EXECABORT Transaction discarded because of: MASTERDOWN"
        );
    });
}

#[test]
fn ping_is_answered_here_only_while_moving() {
    run(async |world| {
        let mut client = world.client();
        assert_eq!(client.ask("PING; PING a").await, "+PONG a");
        let before = world.a.received("PING").len();
        world.moving();
        assert_eq!(client.ask("PING; PING a").await, "+PONG a");
        world.phase(Phase::Down);
        assert_eq!(client.ask("PING").await, "+PONG");
        assert_eq!(world.a.received("PING").len(), before);
    });
}

#[test]
fn a_held_command_holds_all_later_ones_of_its_session() {
    run(async |world| {
        let mut client = world.client();
        assert_eq!(client.ask("SET a old").await, "+OK");
        world.moving();
        client.send("GET a; SET a new; GET a; PING; CLIENT GETNAME").await;
        assert_eq!(client.reply().await, "old");
        client.hears_nothing_for(Duration::from_secs(1)).await;
        client.send("INCR n; GET n").await;
        client.hears_nothing_for(Duration::from_secs(1)).await;
        world.switch();
        assert_eq!(client.replies(6).await, "+OK new +PONG nil :1 1");
    });
}

#[test]
fn what_is_in_flight_finishes_on_the_old_primary() {
    run(async |world| {
        world.a.latency(Duration::ZERO, Duration::from_millis(50));
        let mut client = world.client();
        client.send("INCR n; INCR n").await;
        settle().await;
        world.moving();
        assert_eq!(client.replies(2).await, ":1 :2");
    });
}

#[test]
fn nobody_is_held_past_the_hold_time() {
    run(async |world| {
        let mut client = world.client();
        world.moving();
        let started = Instant::now();
        assert_eq!(client.ask("INCR n").await, NO_PRIMARY);
        let waited = started.elapsed();
        assert!(
            waited >= HOLD && waited < HOLD + Duration::from_millis(200),
            "{waited:?}"
        );
        world.switch();
        sleep(HOLD).await;
        assert_eq!(world.b.received("INCR n").len(), 0);
        assert_eq!(client.ask("INCR n").await, ":1");
    });
}

#[test]
fn every_kind_of_command_is_held_and_refused_alike() {
    for line in [
        "BLPOP q 1",
        "SUBSCRIBE s",
        "MULTI; SET a 1; EXEC",
        "SELECT 2",
        "EVAL s 1 k",
        "WATCH a",
    ] {
        run(async |world| {
            let mut client = world.client();
            world.moving();
            client.send(line).await;
            client.hears_nothing_for(HOLD / 2).await;
            let refused = [NO_PRIMARY].repeat(line.split("; ").count()).join(" ");
            let replies = client.replies(line.split("; ").count()).await;
            assert_eq!(replies, refused, "{line}");
            world.switch();
            assert_eq!(client.ask("GET a").await, "nil");
            let first = line.split("; ").next().unwrap();
            assert_eq!(world.b.executed(first).len(), 0, "{line}");
        });
    }
}

#[test]
fn no_more_bytes_are_held_than_the_bound_allows() {
    let bound = |settings: &mut proxy_core::Settings| settings.failover_hold_bytes = 1000;
    run_with(bound, async |world| {
        let (mut one, mut two) = (world.client(), world.client());
        let value = "v".repeat(700);
        world.moving();
        one.send(&format!("SET one {value}")).await;
        settle().await;
        let started = Instant::now();
        assert_eq!(two.ask(&format!("SET two {value}")).await, HOLD_FULL);
        assert!(started.elapsed() < Duration::from_millis(10));
        two.send("SET small 1").await;
        two.hears_nothing_for(Duration::from_millis(10)).await;
        drop(one);
        settle().await;
        let mut three = world.client();
        three.send(&format!("SET three {value}")).await;
        three.hears_nothing_for(Duration::from_millis(10)).await;
        world.switch();
        assert_eq!(two.reply().await, "+OK");
        assert_eq!(three.reply().await, "+OK");
        assert_eq!(world.b.text("one"), None, "its client has gone");
        assert_eq!(world.b.text("two"), None);
    });
}

#[test]
fn what_has_not_reached_the_node_and_what_subscribers_say_is_bounded_as_well() {
    let bound = |settings: &mut proxy_core::Settings| settings.failover_hold_bytes = 1000;
    run_with(bound, async |world| {
        let (mut small, mut large, mut subscriber) = (world.client(), world.client(), world.client());
        subscriber.send("HELLO 3; SUBSCRIBE s").await;
        subscriber.replies(2).await;
        world.a.dials(Manner::Swallow);
        let value = "v".repeat(1000);
        small.send("SET small 1").await;
        large.send(&format!("SET large {value}")).await;
        settle().await;
        world.moving();
        assert_eq!(large.reply().await, HOLD_FULL);
        assert_eq!(subscriber.ask(&format!("SET large {value}")).await, HOLD_FULL);
        // What stands behind a command waits with it.
        let behind = format!("SET other 1; SET large {value}");
        assert_eq!(
            world.client().ask(&behind).await,
            format!("{HOLD_FULL} {HOLD_FULL}")
        );
        subscriber.send("SET other 1").await;
        subscriber.hears_nothing_for(HOLD / 2).await;
        world.switch();
        assert_eq!(small.reply().await, "+OK");
        assert_eq!(subscriber.reply().await, "+OK");
        assert_eq!(world.b.text("large"), None);
        // The next time is a time of its own.
        sleep(2 * HOLD).await;
        world.moving();
        subscriber.send("SET other 2").await;
        subscriber.hears_nothing_for(HOLD / 2).await;
        world.phase(Phase::Serving);
        assert_eq!(subscriber.reply().await, "+OK");
    });
}

#[test]
fn a_read_that_no_node_takes_waits_as_writes_do() {
    let bound = |settings: &mut proxy_core::Settings| settings.failover_hold_bytes = 1000;
    run_with(bound, async |world| {
        let (mut small, mut large) = (world.client(), world.client());
        assert_eq!(small.ask("SET x 1").await, "+OK");
        world.a.kill();
        world.moving();
        let long = "x".repeat(1000);
        assert_eq!(large.ask(&format!("GET {long}")).await, HOLD_FULL);
        small.send("GET x").await;
        small.hears_nothing_for(HOLD / 2).await;
        assert!(world.metric("slipring_resends_total", "") > 3.0);
        assert_eq!(world.metric("slipring_held_commands", ""), 1.0);
        world.switch();
        assert_eq!(small.reply().await, "1");
        assert_eq!(world.metric("slipring_held_commands", ""), 0.0);
        assert_eq!(
            world.metric("slipring_hold_duration_seconds", ""),
            1.0,
            "one wait"
        );
    });
}

#[test]
fn a_held_command_of_a_client_that_has_gone_is_dropped() {
    for line in [
        "INCR n",
        "BLPOP q 5",
        "MULTI; INCR n; EXEC",
        "SUBSCRIBE s",
        "MULTI",
        "WATCH n",
    ] {
        run(async |world| {
            let mut client = world.client();
            world.moving();
            client.send(line).await;
            settle().await;
            drop(client);
            settle().await;
            assert_eq!(world.metric("slipring_held_commands", ""), 0.0);
            world.switch();
            sleep(HOLD).await;
            let first = line.split(' ').next().unwrap().trim_end_matches(';');
            assert_eq!(world.b.received(first).len(), 0, "{line}");
        });
    }
}

#[test]
fn a_held_command_leaves_behind_what_came_back() {
    run(async |world| {
        world.a.put("x", b"old");
        let mut client = world.client();
        assert_eq!(client.ask("GET x").await, "old");
        world.a.freeze();
        client.send("GET x").await;
        settle().await;
        world.moving();
        client.send("SET x new; GET x").await;
        client.hears_nothing_for(Duration::from_millis(500)).await;
        world.switch();
        assert_eq!(client.replies(3).await, "old +OK new");
        let order: Vec<_> = world.b.executed("").into_iter().map(|line| line.text).collect();
        let order: Vec<_> = order
            .iter()
            .map(String::as_str)
            .filter(|text| !text.eq_ignore_ascii_case("PING"))
            .collect();
        assert_eq!(order, ["GET x", "SET x new", "GET x"]);
    });
}

#[test]
fn many_held_commands_of_many_sessions_each_leave_in_order() {
    run(async |world| {
        let mut clients: Vec<_> = (0..20).map(|_| world.client()).collect();
        world.moving();
        for (number, client) in clients.iter_mut().enumerate() {
            for value in 0..20 {
                client.send(&format!("RPUSH list{number} {value}")).await;
            }
        }
        sleep(Duration::from_secs(1)).await;
        world.switch();
        for (number, client) in clients.iter_mut().enumerate() {
            for value in 0..20 {
                assert_eq!(client.reply().await, format!(":{}", value + 1));
            }
            let expected: Vec<_> = (0..20).map(|value| value.to_string()).collect();
            assert_eq!(world.b.list(&format!("list{number}")), expected);
        }
    });
}

#[test]
fn a_proxy_that_starts_before_its_nodes_holds_and_serves_when_they_appear() {
    run(async |world| {
        world.phase(Phase::Down);
        let mut client = world.client();
        client.send("SET a 1; GET a").await;
        client.hears_nothing_for(HOLD / 2).await;
        world.serve(&world.a);
        assert_eq!(client.replies(2).await, "+OK 1");
    });
}

#[test]
fn an_aborted_failover_releases_to_the_old_primary() {
    run(async |world| {
        let mut client = world.client();
        assert_eq!(client.ask("INCR n").await, ":1");
        let opened = world.a.opened();
        world.moving();
        client.send("INCR n").await;
        client.hears_nothing_for(Duration::from_secs(1)).await;
        world.phase(Phase::Serving);
        assert_eq!(client.reply().await, ":2");
        assert_eq!(world.a.opened(), opened, "the same term: the same connection");
    });
}

#[test]
fn readers_stay_on_the_replica_while_the_primary_moves() {
    for policy in [
        ReadPolicy::PreferPrimary,
        ReadPolicy::Replica,
        ReadPolicy::PreferReplica,
    ] {
        run(async |world| {
            world.a.put("x", b"1");
            let mut client = world.client_reading(policy);
            world.a.freeze();
            world.moving();
            assert_eq!(client.ask("GET x").await, "1", "{policy:?}");
            assert_eq!(world.b.executed("GET x").len(), 1);
        });
    }
}

#[test]
fn a_reader_of_replicas_alone_waits_until_there_is_one() {
    run(async |world| {
        world.without_replicas();
        let mut client = world.client_reading(ReadPolicy::Replica);
        client.send("GET x").await;
        client.hears_nothing_for(HOLD / 2).await;
        world.serve(&world.a);
        assert_eq!(client.reply().await, "nil");
        assert_eq!(world.a.executed("GET x").len(), 0);
    });
}
