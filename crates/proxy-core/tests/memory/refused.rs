//! What a node's entry check refuses was not executed, so it waits and travels again; what a script or a transaction
//! says in the same words may have been.

use std::time::Duration;

use proxy_core::ReadPolicy;
use sentinel_watcher::Suspicion;
use tokio::time::{Instant, sleep};

use crate::common::node::{Fault, Temper};
use crate::common::world::{HOLD, run, settle};

const READONLY: &str = "-READONLY You can't write against a read only replica.";

#[test]
fn a_refused_write_is_waited_out() {
    for temper in [Temper::Replica, Temper::Loading, Temper::MasterDown] {
        run(async |world| {
            world.a.become_a(temper);
            let mut client = world.client();
            client.send("INCR n").await;
            client.hears_nothing_for(Duration::from_secs(1)).await;
            world.a.become_a(Temper::Primary);
            assert_eq!(client.reply().await, ":1", "{temper:?}");
            assert_eq!(world.a.executed("INCR n").len(), 1);
        });
    }
}

#[test]
fn a_new_primary_may_lack_replicas_for_a_moment() {
    run(async |world| {
        world.switch();
        world.b.become_a(Temper::NoReplicas);
        let mut client = world.client();
        client.send("INCR n; MULTI; INCR n").await;
        client.hears_nothing_for(Duration::from_secs(1)).await;
        world.b.become_a(Temper::Primary);
        assert_eq!(client.replies(3).await, ":1 +OK +QUEUED");
        world.b.become_a(Temper::NoReplicas);
        client.send("EXEC").await;
        client.hears_nothing_for(Duration::from_secs(1)).await;
        world.b.become_a(Temper::Primary);
        assert_eq!(client.reply().await, "[:2]");
    });
}

#[test]
fn a_transaction_that_is_refused_for_as_long_is_told_why_at_first() {
    run(async |world| {
        world.switch();
        let mut client = world.client();
        assert_eq!(client.ask("MULTI; INCR n").await, "+OK +QUEUED");
        world.b.become_a(Temper::NoReplicas);
        client.send("EXEC").await;
        let reply = client.reply().await;
        assert!(
            reply.starts_with("-EXECABORT") && reply.contains("NOREPLICAS"),
            "{reply}"
        );
    });
}

#[test]
fn a_refusal_that_stays_is_told_when_the_hold_time_is_over() {
    run(async |world| {
        world.a.become_a(Temper::Replica);
        let started = Instant::now();
        assert_eq!(world.client().ask("INCR n").await, READONLY);
        let waited = started.elapsed();
        assert!(
            waited >= HOLD && waited < HOLD + Duration::from_secs(1),
            "{waited:?}"
        );
        assert!(world.suspicions().contains(&Suspicion::Demoted));
    });
}

#[test]
fn a_primary_that_lacks_the_replicas_it_should_have_says_so_at_once() {
    run(async |world| {
        world.a.become_a(Temper::NoReplicas);
        let started = Instant::now();
        let reply = world.client().ask("INCR n").await;
        assert_eq!(reply, "-NOREPLICAS Not enough good replicas to write.");
        assert!(started.elapsed() < Duration::from_millis(10));
    });
}

#[test]
fn what_a_script_or_an_unknown_command_answers_is_passed_on() {
    for line in [
        "EVAL s 1 k",
        "EVALSHA s 1 k",
        "FCALL f 0",
        "JSON.SET k $ 1",
        "DEBUG ERROR x",
    ] {
        for answer in [
            "-READONLY You can't write against a read only replica.",
            "-LOADING Redis is loading the dataset in memory",
            "-MASTERDOWN Link with MASTER is down",
            "-NOREPLICAS Not enough good replicas to write.",
        ] {
            run(async |world| {
                let wire: &'static str = format!("{answer}\r\n").leak();
                world.a.once(line, Fault::Answer(wire));
                assert_eq!(world.client().ask(line).await, answer);
                assert_eq!(world.a.received(line).len(), 1);
            });
        }
    }
}

#[test]
fn what_stands_in_the_reply_of_exec_is_passed_on() {
    run(async |world| {
        world
            .a
            .once("EXEC", Fault::Answer("*2\r\n+OK\r\n-READONLY no\r\n"));
        let mut client = world.client();
        let replies = client.ask("MULTI; SET a 1; EVAL s 0; EXEC").await;
        assert_eq!(replies, "+OK +QUEUED +QUEUED [+OK -READONLY no]");
        assert_eq!(world.a.received("EXEC").len(), 1);
    });
}

#[test]
fn an_error_that_only_looks_like_a_refusal_is_passed_on() {
    for answer in [
        "-ERR READONLY",
        "-READONLYX no",
        "-WRONGTYPE no",
        "-OOM no",
        "-BUSY no",
    ] {
        run(async |world| {
            let wire: &'static str = format!("{answer}\r\n").leak();
            world.a.once("INCR n", Fault::Answer(wire));
            assert_eq!(world.client().ask("INCR n").await, answer);
        });
    }
}

#[test]
fn a_read_that_the_replica_refuses_is_answered_by_the_primary() {
    for temper in [Temper::Loading, Temper::MasterDown] {
        run(async |world| {
            world.a.put("x", b"1");
            world.b.become_a(temper);
            let mut client = world.client_reading(ReadPolicy::PreferReplica);
            let started = Instant::now();
            assert_eq!(client.ask("GET x; GET x").await, "1 1");
            assert!(started.elapsed() < Duration::from_millis(50), "{temper:?}");
            assert_eq!(world.a.executed("GET x").len(), 2);
        });
    }
}

#[test]
fn a_refused_write_is_dropped_when_its_client_goes() {
    run(async |world| {
        world.a.become_a(Temper::Replica);
        let mut client = world.client();
        client.send("INCR n").await;
        settle().await;
        drop(client);
        settle().await;
        world.a.become_a(Temper::Primary);
        sleep(HOLD).await;
        assert_eq!(world.a.executed("INCR n").len(), 0);
    });
}

#[test]
fn a_refused_write_is_not_sent_again_behind_a_later_one() {
    run(async |world| {
        world.a.once(
            "RPUSH l 1",
            Fault::Answer("-LOADING Redis is loading the dataset in memory\r\n"),
        );
        let mut client = world.client();
        assert_eq!(
            client.ask("RPUSH l 1; RPUSH l 2; RPUSH l 3").await,
            "-LOADING Redis is loading the dataset in memory :1 :2"
        );
        assert_eq!(world.a.list("l"), ["2", "3"]);
    });
}

#[test]
fn refused_writes_are_tried_one_first() {
    run(async |world| {
        world.a.become_a(Temper::Loading);
        let mut client = world.client();
        client.send("RPUSH l 1; RPUSH l 2; RPUSH l 3").await;
        client.hears_nothing_for(Duration::from_secs(1)).await;
        // The loading ends between the first and the second.
        world.a.become_a(Temper::Primary);
        world.a.once(
            "RPUSH l 1",
            Fault::Answer("-LOADING Redis is loading the dataset in memory\r\n"),
        );
        assert_eq!(client.replies(3).await, ":1 :2 :3");
        assert_eq!(world.a.list("l"), ["1", "2", "3"]);
    });
}

#[test]
fn who_is_served_again_waits_no_longer() {
    run(async |world| {
        world.a.become_a(Temper::Loading);
        let mut client = world.client();
        client.send("RPUSH l 1; RPUSH l 2").await;
        client.hears_nothing_for(Duration::from_secs(1)).await;
        let held = || world.metric("slipring_held_commands", "");
        assert_eq!(held(), 1.0);
        world.a.once("RPUSH l 2", Fault::Delay(Duration::from_secs(1)));
        world.a.become_a(Temper::Primary);
        assert_eq!(client.reply().await, ":1");
        settle().await;
        assert_eq!(held(), 0.0, "the second is under way");
        assert_eq!(client.reply().await, ":2");
    });
}

#[test]
fn what_is_refused_behind_a_watch_makes_exec_answer_null() {
    run(async |world| {
        let (mut client, mut other) = (world.client(), world.client());
        for (refused, reply) in [
            ("MULTI; INCR n; EXEC", "+OK +QUEUED nil"),
            ("GET a; MULTI; INCR n; EXEC", "1 +OK +QUEUED nil"),
        ] {
            assert_eq!(client.ask("WATCH a").await, "+OK");
            assert_eq!(other.ask("SET a 1").await, "+OK");
            world.a.once(
                "GET a",
                Fault::Answer("-LOADING Redis is loading the dataset in memory\r\n"),
            );
            let answer = "-EXECABORT Transaction discarded because of: READONLY\r\n";
            world.a.once("EXEC", Fault::Answer(answer));
            assert_eq!(client.ask(refused).await, reply);
            world.a.forgive();
        }
        assert_eq!(world.a.text("n"), None);
        assert_eq!(
            client.ask("WATCH a; MULTI; INCR n; EXEC").await,
            "+OK +OK +QUEUED [:1]"
        );
    });
}

#[test]
fn a_read_behind_a_write_that_came_too_late_keeps_its_answer() {
    run(async |world| {
        world.a.once(
            "RPUSH l 1",
            Fault::Answer("-LOADING Redis is loading the dataset in memory\r\n"),
        );
        let mut client = world.client();
        assert_eq!(
            client.ask("RPUSH l 1; LLEN l; RPUSH l 2; LLEN l").await,
            "-LOADING Redis is loading the dataset in memory :0 :1 :1"
        );
    });
}
