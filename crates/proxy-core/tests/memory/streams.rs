//! What a streaming session has made of its connection, and the transaction that is open on it, move with the primary.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::common::client::Client;
use crate::common::node::{Fault, Temper};
use crate::common::world::{HOLD, INVALIDATE_ALL, NO_PRIMARY, UNKNOWN, run, settle};

const SECOND: Duration = Duration::from_secs(1);
/// What goes before WAIT, so that it covers what was written over other connections.
const MARK: &str = "PUBLISH __slipring:wait";

#[test]
fn whoever_subscribes_in_a_transaction_streams_from_exec_on() {
    run(async |world| {
        let mut client = world.client();
        assert_eq!(
            client.ask("MULTI; INCR n; SUBSCRIBE s").await,
            "+OK +QUEUED +QUEUED"
        );
        assert_eq!(
            client.ask("PING; EXEC").await,
            "+QUEUED [:1 [subscribe s :1] +PONG]".replace("+PONG", "[pong ]")
        );
        assert_eq!(client.ask("PING").await, "[pong ]");
        world.switch();
        settle().await;
        assert_eq!(world.client().ask("PUBLISH s m").await, ":1");
        assert_eq!(client.reply().await, "[message s m]");
        assert_eq!(client.ask("UNSUBSCRIBE s").await, "[unsubscribe s :0]");
        assert_eq!(client.ask("INCR n").await, ":2");
        assert_eq!(world.b.subscribers(), 0);
    });
}

#[test]
fn exec_may_have_more_answers_than_it_says() {
    run(async |world| {
        let mut client = world.client();
        client
            .send("MULTI; SUBSCRIBE s t; INCR n; EXEC; PING; UNSUBSCRIBE")
            .await;
        assert_eq!(
            client.replies(8).await,
            "+OK +QUEUED +QUEUED [[subscribe s :1] [subscribe t :2]] :1 [pong ] [unsubscribe s :1] [unsubscribe t :0]"
        );
        assert_eq!(client.ask("INCR n").await, ":2");
    });
}

#[test]
fn a_transaction_that_is_to_subscribe_moves_before_exec() {
    run(async |world| {
        let mut client = world.client();
        assert_eq!(
            client.ask("MULTI; INCR n; SUBSCRIBE s").await,
            "+OK +QUEUED +QUEUED"
        );
        world.moving();
        client.send("EXEC").await;
        settle().await;
        world.switch();
        assert_eq!(client.reply().await, "[:1 [subscribe s :1]]");
        assert_eq!(world.a.executed("INCR").len(), 0);
        assert_eq!(world.b.subscribers(), 1);
    });
}

#[test]
fn a_discarded_subscription_leaves_nothing() {
    run(async |world| {
        let mut client = world.client();
        assert_eq!(client.ask("MULTI; SUBSCRIBE s; DISCARD").await, "+OK +QUEUED +OK");
        assert_eq!(client.ask("INCR n").await, ":1");
        settle().await;
        assert_eq!(world.a.subscribers(), 0);
        assert_eq!(client.ask("MULTI; INCR n; EXEC").await, "+OK +QUEUED [:2]");
    });
}

#[test]
fn a_subscribers_own_transaction_moves_with_it() {
    run(async |world| {
        let mut client = world.client();
        client.send("HELLO 3; SUBSCRIBE s; MULTI; INCR n").await;
        client.replies(4).await;
        world.switch();
        assert_eq!(client.ask("INCR n; EXEC").await, "+QUEUED [:1 :2]");
        assert_eq!(world.a.executed("INCR").len(), 0);
    });
}

#[test]
fn what_a_subscriber_watches_is_lost_with_its_node() {
    run(async |world| {
        let mut client = world.client();
        client.send("HELLO 3; SUBSCRIBE s; WATCH k").await;
        client.replies(3).await;
        world.switch();
        assert_eq!(client.ask("MULTI; INCR n; EXEC").await, "+OK +QUEUED nil");
        assert_eq!(client.ask("MULTI; INCR n; EXEC").await, "+OK +QUEUED [:1]");
        assert_eq!(world.b.executed("INCR").len(), 1);
    });
}

#[test]
fn an_exec_that_was_sent_is_an_unknown_outcome() {
    run(async |world| {
        let mut client = world.client();
        client.send("HELLO 3; SUBSCRIBE s; MULTI; INCR n").await;
        client.replies(4).await;
        world.a.once("EXEC", Fault::CutAfter);
        assert!(client.ask("EXEC").await.starts_with(UNKNOWN));
        assert_eq!(client.ask("EXEC").await, "-ERR EXEC without MULTI");
        assert_eq!(client.ask("MULTI; INCR n; EXEC").await, "+OK +QUEUED [:2]");
    });
}

/// So many replies, whatever is pushed between them.
async fn answers(client: &mut Client, count: usize) -> String {
    let mut answers = Vec::new();
    while answers.len() < count {
        let answer = client.reply().await;
        answers.extend((answer != INVALIDATE_ALL).then_some(answer));
    }
    answers.join(" ")
}

#[test]
fn a_streaming_transaction_without_a_primary_is_not_executed_in_part() {
    const REFUSED: &str = "-EXECABORT Transaction discarded because of previous errors.";
    const AFTERWARDS: &str = "-ERR EXEC without MULTI nil";
    let granted = format!("+OK {REFUSED} {REFUSED}");
    for (before, then, told) in [
        ("PING", "MULTI; INCR n; EXEC", granted.as_str()),
        ("WATCH n", "MULTI; INCR n; EXEC", &granted),
        ("PING", "MULTI; INCR n; DISCARD", &format!("+OK {REFUSED} +OK")),
        (
            "MULTI",
            "INCR n; INCR n; EXEC",
            &format!("{NO_PRIMARY} {REFUSED} {REFUSED}"),
        ),
        ("MULTI", "EXEC", NO_PRIMARY),
        ("MULTI", "DISCARD", NO_PRIMARY),
    ] {
        for dead in [false, true] {
            run(async |world| {
                let mut client = world.client();
                client.send("HELLO 3; CLIENT TRACKING ON").await;
                client.replies(2).await;
                client.ask(before).await;
                if dead {
                    world.a.kill();
                }
                world.moving();
                client.send(then).await;
                client.hears_nothing_for(HOLD / 2).await;
                let told_first = answers(&mut client, then.split("; ").count()).await;
                assert_eq!(told_first, told, "{then}");
                world.switch();
                client.send("EXEC; GET n").await;
                assert_eq!(answers(&mut client, 2).await, AFTERWARDS, "{then}");
                assert_eq!(world.a.executed("INCR n").len(), 0);
            });
        }
    }
}

#[test]
fn an_unknown_outcome_keeps_its_place_behind_what_is_refused() {
    run(async |world| {
        let mut client = world.client();
        client.send("HELLO 3; CLIENT TRACKING ON").await;
        client.replies(2).await;
        world.a.freeze();
        client.send("WATCH w; INCR n").await;
        settle().await;
        world.a.kill();
        world.moving();
        assert_eq!(client.reply().await, NO_PRIMARY, "what travels again");
        assert!(client.reply().await.starts_with(UNKNOWN));
        world.switch();
        assert_eq!(client.reply().await, INVALIDATE_ALL);
        assert_eq!(client.ask("GET n").await, "nil");
    });
}

/// Ways in which a session comes to stream, and to be allowed to block.
const STREAMING: [&str; 2] = ["HELLO 3; SUBSCRIBE s", "HELLO 3; CLIENT TRACKING ON"];

#[test]
fn a_blocked_command_of_a_streaming_session_moves_with_what_is_left_of_its_time() {
    for streaming in STREAMING {
        run(async |world| {
            let mut client = world.client();
            client.ask(streaming).await;
            let started = Instant::now();
            client.send("BLPOP q 5; SET k v; GET k").await;
            sleep(SECOND).await;
            assert_eq!(world.a.blocked(), 1);
            world.moving();
            settle().await;
            assert_eq!(world.a.blocked(), 0, "it is unblocked before the switch");
            sleep(SECOND).await;
            world.switch();
            settle().await;
            assert_eq!(world.b.blocked(), 1);
            if streaming.ends_with("ON") {
                assert_eq!(client.reply().await, INVALIDATE_ALL);
            }
            assert_eq!(client.reply().await, "nil");
            let waited = started.elapsed();
            assert!(
                waited >= 5 * SECOND && waited < 5 * SECOND + SECOND / 10,
                "{waited:?}"
            );
            assert_eq!(client.replies(2).await, "+OK v");
            assert_eq!(world.a.received("SET").len(), 0, "nothing overtakes it");
        });
    }
}

#[test]
fn a_blocked_streaming_session_gets_what_is_pushed_on_the_new_primary() {
    for (line, push, got) in [
        ("BLPOP q 0", "RPUSH q x", "[q x]"),
        ("BLMOVE q p LEFT RIGHT 0", "RPUSH q x", "x"),
        ("XREAD BLOCK 0 STREAMS q $", "XADD q * f v", "[[q [[1-0 [f v]]]]]"),
    ] {
        run(async |world| {
            let (mut client, mut pusher) = (world.client(), world.client());
            client.ask("HELLO 3; SUBSCRIBE s").await;
            client.send(line).await;
            settle().await;
            world.moving();
            pusher.send(push).await;
            client.hears_nothing_for(SECOND).await;
            world.switch();
            assert_eq!(client.reply().await, got, "{line}");
            assert!(!pusher.reply().await.starts_with('-'));
            assert_eq!(world.client().ask("PUBLISH s m").await, ":1");
            assert_eq!(client.reply().await, ">[message s m]");
        });
    }
}

#[test]
fn a_streaming_sessions_pop_is_unknown_where_its_node_does_not_say() {
    for killed in [false, true] {
        run(async |world| {
            let mut client = world.client();
            client.ask("HELLO 3; SUBSCRIBE s").await;
            client.send("BLPOP q 0").await;
            settle().await;
            if killed {
                world.a.kill();
            } else {
                world.a.latency(Duration::ZERO, Duration::from_millis(50));
                world.a.run("RPUSH q x");
            }
            world.moving();
            settle().await;
            world.switch();
            assert!(client.reply().await.starts_with(UNKNOWN));
            assert_eq!(world.b.received("BLPOP").len(), 0);
            assert_eq!(client.ask("SET k v").await, "+OK");
        });
    }
}

#[test]
fn whoever_leaves_while_it_streams_and_is_blocked_takes_nothing() {
    run(async |world| {
        let mut client = world.client();
        client.ask("HELLO 3; SUBSCRIBE s").await;
        client.send("BLPOP q 0; SET k v").await;
        settle().await;
        drop(client);
        settle().await;
        assert_eq!(world.a.blocked(), 0);
        assert_eq!(world.client().ask("RPUSH q x").await, ":1");
    });
}

#[test]
fn a_streaming_sessions_transaction_waits_for_a_node_that_loads() {
    run(async |world| {
        let mut client = world.client();
        client.ask("HELLO 3; SUBSCRIBE s; MULTI; SET k v").await;
        world.a.become_a(Temper::Loading);
        world.a.cut();
        client.hears_nothing_for(SECOND).await;
        world.a.become_a(Temper::Primary);
        assert_eq!(client.ask("EXEC").await, "[+OK]");
    });
}

#[test]
fn an_exec_that_was_lost_leaves_nothing_watched() {
    run(async |world| {
        let mut client = world.client();
        client.ask("HELLO 3; SUBSCRIBE s; WATCH k").await;
        world.a.latency(Duration::ZERO, Duration::from_millis(20));
        client.send("MULTI; SET k v; EXEC").await;
        settle().await;
        world.a.cut();
        let told = client.replies(3).await;
        assert_eq!(told.matches(UNKNOWN).count(), 3, "{told}");
        assert_eq!(client.ask("MULTI; SET k w; EXEC").await, "+OK +QUEUED [+OK]");
    });
}

#[test]
fn wait_covers_what_a_session_wrote_before_it_streamed_and_after() {
    for (before, marks) in [
        ("SET k v; HELLO 3; CLIENT TRACKING ON", 1),
        ("HELLO 3; CLIENT TRACKING ON; SET k v", 1),
        ("HELLO 3; CLIENT TRACKING ON; MULTI; INCR n; EXEC", 1),
        ("HELLO 3; CLIENT TRACKING ON; GET k; MULTI; DISCARD", 0),
        // It streams no longer.
        ("HELLO 3; SUBSCRIBE s; SET k v; UNSUBSCRIBE s", 1),
    ] {
        run(async |world| {
            let mut client = world.client();
            client.ask(before).await;
            world.a.once("WAIT", Fault::Answer(":1\r\n"));
            assert_eq!(client.ask("ECHO a; WAIT 1 0; ECHO b").await, "a :1 b", "{before}");
            let received = world.a.received("");
            let at = |prefix| received.iter().position(|line| line.text.starts_with(prefix));
            assert_eq!(world.a.received(MARK).len(), marks, "{before}");
            assert!(at(MARK) < at("WAIT"), "{before}");
        });
    }
}

#[test]
fn wait_of_a_streaming_session_counts_no_replicas_of_another_primary() {
    run(async |world| {
        let mut client = world.client();
        client.ask("HELLO 3; CLIENT TRACKING ON; SET k v").await;
        world.switch();
        assert_eq!(client.reply().await, INVALIDATE_ALL);
        assert_eq!(client.ask("WAIT 1 0; WAITAOF 1 1 0").await, ":0 [:0 :0]");
        assert_eq!(world.b.received("WAIT").len(), 0);
        world.b.once("WAIT", Fault::Answer(":1\r\n"));
        assert_eq!(client.ask("SET k v; WAIT 1 0").await, "+OK :1");
    });
}

#[test]
fn wait_of_a_streaming_session_that_may_not_publish_says_so() {
    run(async |world| {
        let mut client = world.client();
        client.ask("HELLO 3; CLIENT TRACKING ON; SET k v").await;
        let refusal = "-NOPERM no\r\n";
        world.a.once(MARK, Fault::Answer(refusal));
        assert_eq!(client.ask("WAIT 1 0; GET k").await, "-NOPERM no v");
        assert_eq!(world.a.received("WAIT").len(), 0);
    });
}

#[test]
fn what_a_demoted_node_refuses_a_streaming_session_waits_for_the_next_primary() {
    for temper in [Temper::Replica, Temper::Loading, Temper::MasterDown] {
        run(async |world| {
            let mut client = world.client();
            client.ask("HELLO 3; CLIENT TRACKING ON").await;
            world.a.become_a(temper);
            client.send("INCR n").await;
            settle().await;
            world.switch();
            let mut reply = client.reply().await;
            while reply == INVALIDATE_ALL {
                reply = client.reply().await;
            }
            assert_eq!(reply, ":1", "{temper:?}");
            assert_eq!(world.a.executed("INCR n").len(), 0);
        });
    }
}

#[test]
fn what_is_refused_for_ever_or_in_front_of_others_is_told() {
    let refused = "-READONLY You can't write against a read only replica.";
    for line in ["INCR n", "EVAL s 0", "INCR n; GET k"] {
        run(async |world| {
            let mut client = world.client();
            client.ask("HELLO 3; CLIENT TRACKING ON").await;
            world.a.become_a(Temper::Replica);
            client.send(line).await;
            let mut reply = client.reply().await;
            while reply == INVALIDATE_ALL {
                reply = client.reply().await;
            }
            assert_eq!(reply, refused, "{line}");
        });
    }
}

#[test]
fn a_read_of_a_subscriber_is_not_asked_from_its_own_future() {
    run(async |world| {
        let mut client = world.client();
        client.ask("HELLO 3; SUBSCRIBE c").await;
        for (line, answers) in [("GET k; SET k v", ["-UNKNOWN"; 2]), ("GET k; GET k", ["v"; 2])] {
            world.a.latency(Duration::ZERO, 10 * SETTLED);
            client.send(line).await;
            tokio::time::sleep(SETTLED).await;
            world.a.cut();
            world.a.latency(Duration::ZERO, Duration::ZERO);
            for answer in answers {
                let told = client.reply().await;
                assert!(told.starts_with(answer), "{line}: {told}");
            }
        }
    });
}

const SETTLED: Duration = Duration::from_millis(2);

#[test]
fn what_a_streaming_client_pipelines_travels_together_and_so_do_its_replies() {
    run(async |world| {
        let mut client = world.client();
        client.ask("HELLO 3; SUBSCRIBE c").await;
        let before = [world.writes_to("a"), world.writes_to("client")];
        let lines = "PING; INCR n; MULTI; INCR n; EXEC; ".repeat(200);
        client.send(lines.trim_end_matches("; ")).await;
        let replies = client.replies(1000).await;
        assert!(replies.ends_with(" +PONG :399 +OK +QUEUED [:400]"), "{replies}");
        let after = [world.writes_to("a"), world.writes_to("client")];
        let [node, client] = [0, 1].map(|i| after[i] - before[i]);
        assert!(node < 20, "{node} writes to the node");
        assert!(client < 20, "{client} writes to the client");
    });
}

#[test]
fn messages_that_come_together_reach_a_subscriber_together() {
    run(async |world| {
        let mut subscriber = world.client();
        subscriber.ask("SUBSCRIBE c").await;
        let mut publisher = world.client();
        let before = world.writes_to("client");
        publisher.send_bytes(&b"PUBLISH c m\r\n".repeat(500)).await;
        subscriber.replies(500).await;
        publisher.replies(500).await;
        let writes = world.writes_to("client") - before;
        assert!(writes < 50, "{writes} writes");
    });
}

#[test]
fn what_a_streaming_session_had_not_written_yet_is_no_unknown_outcome() {
    run(async |world| {
        world.widen(500);
        let mut client = world.client();
        client.ask("HELLO 3; SUBSCRIBE c").await;
        world.a.freeze();
        client.send(&["INCR n"; 100].join("; ")).await;
        settle().await;
        world.switch();
        let replies = client.replies(100).await;
        let unknown = replies.matches(UNKNOWN).count();
        // 24 of them fill the connection, and the node had begun to read.
        assert!((1..50).contains(&unknown), "{unknown} unknown outcomes");
        let done = 100 - unknown;
        assert!(replies.ends_with(&format!(" :{} :{done}", done - 1)), "{replies}");
        assert_eq!(world.b.executed("INCR").len(), done);
        world.a.thaw();
    });
}
