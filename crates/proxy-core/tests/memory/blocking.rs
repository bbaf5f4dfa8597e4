//! Blocking commands: moved while they wait, never popped twice, never popped in vain where that can be known.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::common::node::{Fault, Temper};
use crate::common::world::{HOLD, UNKNOWN, run, run_with, settle};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_blocked_client_moves_with_what_is_left_of_its_time() {
    run(async |world| {
        let mut client = world.client();
        let started = Instant::now();
        client.send("BLPOP q 5").await;
        sleep(SECOND).await;
        assert_eq!(world.a.blocked(), 1);
        world.moving();
        settle().await;
        assert_eq!(world.a.blocked(), 0, "it is unblocked before the switch");
        sleep(SECOND).await;
        world.switch();
        settle().await;
        assert_eq!(world.b.blocked(), 1);
        assert_eq!(client.reply().await, "nil");
        let waited = started.elapsed();
        assert!(
            waited >= 5 * SECOND && waited < 5 * SECOND + SECOND / 10,
            "{waited:?}"
        );
        assert_eq!(client.ask("GET x").await, "nil");
    });
}

/// Libraries ask each new connection for what their servers may not know, redis-py for CLIENT MAINT_NOTIFICATIONS.
#[test]
fn what_the_node_refused_keeps_no_session_from_moving() {
    run(async |world| {
        let mut client = world.client();
        let line = "CLIENT SOMETHING_NEW on";
        world.a.once(
            line,
            Fault::Answer("-ERR Unknown subcommand 'SOMETHING_NEW'.\r\n"),
        );
        assert_eq!(client.ask(line).await, "-ERR Unknown subcommand 'SOMETHING_NEW'.");
        client.send("BLPOP q 0").await;
        settle().await;
        world.moving();
        settle().await;
        assert_eq!(world.a.blocked(), 0, "it is unblocked before the switch");
        world.switch();
        assert_eq!(world.client().ask("RPUSH q x").await, ":1");
        assert_eq!(client.reply().await, "[q x]");
    });
}

#[test]
fn a_blocked_client_gets_what_is_pushed_on_the_new_primary() {
    for line in ["BLPOP q 0", "BRPOP p q 0", "BLPOP p q 60"] {
        run(async |world| {
            let (mut popper, mut pusher) = (world.client(), world.client());
            popper.send(line).await;
            settle().await;
            world.moving();
            pusher.send("RPUSH q x y").await;
            popper.hears_nothing_for(SECOND).await;
            world.switch();
            let expected = if line.starts_with("BLPOP") {
                "[q x]"
            } else {
                "[q y]"
            };
            assert_eq!(popper.reply().await, expected);
            assert_eq!(pusher.reply().await, ":2");
            assert_eq!(world.b.list("q").len(), 1);
        });
    }
}

#[test]
fn what_was_popped_before_the_unblocking_is_delivered_and_not_popped_again() {
    for streaming in [false, true] {
        run(async |world| {
            let mut client = world.client();
            if streaming {
                client.ask("HELLO 3; SUBSCRIBE s").await;
            }
            client.send("BLPOP q 0").await;
            settle().await;
            world.a.latency(Duration::ZERO, Duration::from_millis(50));
            world.a.run("RPUSH q x y");
            world.moving();
            assert_eq!(client.reply().await, "[q x]");
            world.switch();
            settle().await;
            assert_eq!(world.b.received("BLPOP").len(), 0);
            assert_eq!(world.b.list("q"), ["y"]);
        });
    }
}

#[test]
fn a_former_primary_is_not_believed_to_have_popped_in_time() {
    run(async |world| {
        let mut client = world.client();
        client.send("BLPOP q 0").await;
        settle().await;
        world.a.latency(Duration::ZERO, Duration::from_millis(50));
        world.a.run("RPUSH q x y");
        world.moving();
        settle().await;
        world.switch();
        assert!(
            client
                .reply()
                .await
                .starts_with("-UNKNOWN outcome: the connection to a:6379")
        );
        assert_eq!(world.b.received("BLPOP").len(), 0);
    });
}

#[test]
fn a_demoted_node_lets_its_blocked_clients_go_and_they_wait_for_the_new_one() {
    for (before, replies) in [("PING", 1), ("HELLO 3; SUBSCRIBE s", 2)] {
        run(async |world| {
            let mut client = world.client();
            client.send(before).await;
            client.replies(replies).await;
            client.send("BLPOP q 0").await;
            settle().await;
            world.a.become_a(Temper::Replica);
            client.hears_nothing_for(SECOND).await;
            world.moving();
            client.hears_nothing_for(SECOND).await;
            world.switch();
            settle().await;
            assert_eq!(world.b.blocked(), 1, "{before}");
            world.b.run("RPUSH q x");
            assert_eq!(client.reply().await, "[q x]", "{before}");
        });
    }
}

#[test]
fn a_node_that_dies_leaves_a_pop_unknown() {
    for line in ["BLPOP q 0", "BRPOP q 0", "BLMOVE q p LEFT RIGHT 0"] {
        run(async |world| {
            let mut client = world.client();
            client.send(line).await;
            settle().await;
            world.a.kill();
            let reply = client.reply().await;
            assert!(reply.starts_with(UNKNOWN), "{line}: {reply}");
            world.switch();
            assert_eq!(client.ask("GET x").await, "nil");
            assert_eq!(world.b.received(line).len(), 0);
        });
    }
}

#[test]
fn a_frozen_node_leaves_a_pop_unknown_once_it_has_been_replaced() {
    run(async |world| {
        let mut client = world.client();
        client.send("BLPOP q 0").await;
        settle().await;
        world.a.freeze();
        world.moving();
        client.hears_nothing_for(2 * SECOND).await;
        world.switch();
        let started = Instant::now();
        assert!(client.reply().await.starts_with(UNKNOWN));
        assert!(started.elapsed() <= 2 * SECOND);
    });
}

#[test]
fn a_node_that_dies_lets_a_reader_wait_on_the_next() {
    run(async |world| {
        let (mut reader, mut writer) = (world.client(), world.client());
        assert_eq!(writer.ask("XADD s * f 1").await, "1-0");
        reader.send("XREAD BLOCK 0 STREAMS s 1-0").await;
        settle().await;
        world.a.kill();
        reader.hears_nothing_for(SECOND).await;
        world.moving();
        writer.send("XADD s * f 2").await;
        reader.hears_nothing_for(SECOND).await;
        world.switch();
        assert_eq!(writer.reply().await, "2-0");
        assert_eq!(reader.reply().await, "[[s [[2-0 [f 2]]]]]");
    });
}

#[test]
fn a_cut_connection_leaves_a_pop_unknown_and_lets_a_reader_read_on() {
    run(async |world| {
        let (mut popper, mut reader) = (world.client(), world.client());
        popper.send("BLPOP q 0").await;
        reader.send("XREAD BLOCK 0 STREAMS s 0-0").await;
        settle().await;
        world.a.cut();
        assert!(popper.reply().await.starts_with(UNKNOWN));
        reader.hears_nothing_for(SECOND).await;
        world.a.run("XADD s * f 1");
        assert_eq!(reader.reply().await, "[[s [[1-0 [f 1]]]]]");
    });
}

#[test]
fn a_client_that_hangs_up_is_not_waited_for_any_more() {
    run(async |world| {
        let mut client = world.client();
        client.send("BLPOP q 0").await;
        settle().await;
        assert_eq!(world.a.blocked(), 1);
        let mut producer = world.client();
        assert_eq!(producer.ask("GET x").await, "nil");
        let open = world.a.open();
        drop(client);
        settle().await;
        assert_eq!(world.a.blocked(), 0);
        assert_eq!(
            world.a.open(),
            open,
            "the node has let it go, and its lease serves others"
        );
        assert_eq!(producer.ask("RPUSH q x; LPOP q").await, ":1 x");
        let connection_of = |line| world.a.received(line)[0].connection;
        assert_eq!(
            connection_of("CLIENT UNBLOCK"),
            connection_of("RPUSH"),
            "in front of what is pushed behind it"
        );
    });
}

#[test]
fn a_node_that_lets_nobody_unblock_learns_it_by_the_end_of_the_connection() {
    run(async |world| {
        let mut client = world.client();
        client.send("BLPOP q 0").await;
        settle().await;
        world.a.once("CLIENT UNBLOCK", Fault::Answer("-NOPERM no\r\n"));
        let open = world.a.open();
        drop(client);
        settle().await;
        assert_eq!(world.a.open(), open, "one for its word, and none for its lease");
        assert_eq!(world.a.blocked(), 0);
    });
}

#[test]
fn a_client_that_hangs_up_behind_much_input_is_not_waited_for_any_more() {
    run(async |world| {
        let mut client = world.client();
        client.send("BLPOP q 0").await;
        settle().await;
        client.send_bytes(&[b'x'; 300 << 10]).await;
        settle().await;
        assert_eq!(world.a.blocked(), 1);
        drop(client);
        settle().await;
        assert_eq!(world.a.blocked(), 0);
    });
}

/// Guards `KEPT_INPUT_BYTES`.
#[test]
fn a_blocked_client_may_not_send_without_end() {
    run(async |world| {
        let mut client = world.client();
        client.send("BLPOP q 0").await;
        settle().await;
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..256 {
            client.send_bytes(&piece).await;
        }
        client.is_closed().await;
        settle().await;
        assert_eq!(world.a.blocked(), 0);
    });
}

#[test]
fn what_follows_a_blocked_command_waits_for_it() {
    run(async |world| {
        let mut client = world.client();
        client.send("INCR n; BLPOP q 0; INCR n; GET n").await;
        assert_eq!(client.reply().await, ":1");
        client.hears_nothing_for(SECOND).await;
        client.send("INCR n").await;
        client.hears_nothing_for(SECOND).await;
        world.a.run("RPUSH q x");
        assert_eq!(client.replies(4).await, "[q x] :2 2 :3");
    });
}

#[test]
fn blocked_consumers_do_not_starve_their_producer() {
    run_with(
        |settings| settings.pool_size = 2,
        async |world| {
            let mut consumers: Vec<_> = (0..3).map(|_| world.client()).collect();
            for consumer in &mut consumers {
                consumer.send("BLPOP q 0").await;
                settle().await;
            }
            let mut producer = world.client();
            assert_eq!(producer.ask("WATCH w").await, "+OK");
            assert_eq!(producer.ask("MULTI; RPUSH q x; EXEC").await, "+OK +QUEUED [:1]");
            assert_eq!(consumers[0].reply().await, "[q x]");
            settle().await;
            assert_eq!(world.a.blocked(), 2, "the third has the first one's lease");
            let mut late = world.client();
            let started = Instant::now();
            let reply = late.ask("BLPOP q 0").await;
            assert!(
                reply.starts_with("-ERR no free connection for blocking commands"),
                "{reply}"
            );
            assert!(started.elapsed() >= 5 * SECOND && started.elapsed() < 6 * SECOND);
        },
    );
}

#[test]
fn a_reader_whose_stream_goes_is_told_so() {
    run(async |world| {
        let gone = "-UNBLOCKED the stream key no longer exists";
        world.a.once(
            "XREADGROUP",
            Fault::Answer("-UNBLOCKED the stream key no longer exists\r\n"),
        );
        let line = "XREADGROUP GROUP g c BLOCK 0 STREAMS s >";
        assert_eq!(world.client().ask(line).await, gone);
        assert_eq!(world.a.received("XREADGROUP").len(), 1);
    });
}

#[test]
fn a_lease_carries_the_name_of_its_session() {
    run(async |world| {
        let (mut app, mut other) = (world.client(), world.client());
        assert_eq!(
            app.ask("CLIENT SETNAME app; BLPOP q 0.1; BLPOP q 0.1").await,
            "+OK nil nil"
        );
        assert_eq!(other.ask("BLPOP q 0.1").await, "nil");
        let lease = world.a.received("BLPOP")[0].connection;
        let mut names = world.a.received("cLiEnT SETNAME");
        names.retain(|line| line.connection == lease);
        let names: Vec<_> = names.iter().map(|line| &line.text[..]).collect();
        assert_eq!(names, ["cLiEnT SETNAME app", "cLiEnT SETNAME "]);
    });
}

#[test]
fn a_clean_lease_serves_the_next_blocked_client() {
    run(async |world| {
        let (mut one, mut two) = (world.client(), world.client());
        one.send("BLPOP q 1").await;
        assert_eq!(one.reply().await, "nil");
        let opened = world.a.opened();
        world.a.run("RPUSH q x");
        assert_eq!(two.ask("BLPOP q 1").await, "[q x]");
        assert_eq!(world.a.opened(), opened);
    });
}

#[test]
fn a_pop_that_was_never_sent_waits_for_its_primary() {
    run(async |world| {
        let mut client = world.client();
        world.moving();
        let started = Instant::now();
        client.send("BLPOP q 2").await;
        client.hears_nothing_for(SECOND).await;
        world.switch();
        assert_eq!(client.reply().await, "nil");
        assert!(started.elapsed() < 4 * SECOND);
    });
}

#[test]
fn a_blocked_command_is_not_refused_for_having_waited_longer_than_the_hold_time() {
    run(async |world| {
        let mut client = world.client();
        client.send("BLPOP q 0").await;
        sleep(3 * HOLD).await;
        world.moving();
        sleep(SECOND).await;
        world.switch();
        settle().await;
        assert_eq!(world.b.blocked(), 1);
        world.b.run("RPUSH q x");
        assert_eq!(client.reply().await, "[q x]");
    });
}

#[test]
fn who_was_let_go_and_finds_no_primary_is_told_that() {
    for begin in ["PING", "HELLO 3; SUBSCRIBE s"] {
        run(async |world| {
            let mut client = world.client();
            client.ask(begin).await;
            client.send("BLPOP q 0").await;
            settle().await;
            world.moving();
            sleep(HOLD + SECOND).await;
            let told = client.reply().await;
            assert!(told.starts_with("-MASTERDOWN no primary"), "{told}");
        });
    }
}

#[test]
fn an_unblocking_that_the_node_does_not_hear_proves_nothing() {
    run(async |world| {
        let mut client = world.client();
        client.send("BLPOP q 0").await;
        settle().await;
        world.a.once("CLIENT UNBLOCK", Fault::Hang);
        world.moving();
        sleep(3 * SECOND).await;
        world.a.run("RPUSH q x");
        assert_eq!(client.reply().await, "[q x]", "it was still blocked there");
        world.switch();
        assert_eq!(client.ask("GET x").await, "nil");
    });
}

/// `$` means what has been added since: a held XADD must not slip in before the reader waits again.
#[test]
fn a_reader_of_what_is_new_waits_again_before_held_writes_flow() {
    run(async |world| {
        let (mut reader, mut writer) = (world.client(), world.client());
        assert_eq!(writer.ask("XADD s * f 1").await, "1-0");
        reader.send("XREAD BLOCK 0 STREAMS s $").await;
        settle().await;
        world.moving();
        writer.send("XADD s * f 2").await;
        reader.hears_nothing_for(SECOND).await;
        let started = Instant::now();
        world.switch();
        assert_eq!(writer.reply().await, "2-0");
        assert!(
            started.elapsed() < Duration::from_millis(50),
            "{:?}",
            started.elapsed()
        );
        assert_eq!(reader.reply().await, "[[s [[2-0 [f 2]]]]]");
    });
}

#[test]
fn a_former_primary_that_thaws_pops_for_nobody() {
    run(async |world| {
        let mut client = world.client();
        client.send("BLPOP q 0").await;
        settle().await;
        world.a.freeze();
        world.moving();
        sleep(2 * SECOND).await;
        world.switch();
        settle().await;
        world.a.run("RPUSH q stale");
        world.a.thaw();
        let reply = client.reply().await;
        assert!(reply.starts_with(UNKNOWN), "{reply}");
    });
}

#[test]
fn who_sends_no_more_gets_what_is_there() {
    run(async |world| {
        let mut other = world.client();
        assert_eq!(other.ask("RPUSH l a b").await, ":2");
        let mut client = world.client();
        client.send("BLPOP l 0; BLPOP l 0; INCR n").await;
        client.end().await;
        assert_eq!(client.replies(3).await, "[l a] [l b] :1");
        client.is_closed().await;
        let mut client = world.client();
        client.send("BLPOP l 0; INCR n").await;
        client.end().await;
        client.is_closed().await;
        assert_eq!(other.ask("RPUSH l c").await, ":1");
        assert_eq!(other.ask("INCR n").await, ":2");
    });
}
