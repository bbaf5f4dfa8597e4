//! A shared connection is lost: what was sent and may have counted is reported once and never sent again.

use std::time::Duration;

use proxy_core::ReadPolicy;

use crate::common::network::Manner;
use crate::common::node::{Fault, Temper};
use crate::common::world::{HOLD, UNKNOWN, run, settle};

#[track_caller]
fn assert_unknown(reply: &str) {
    let whole =
        format!("{UNKNOWN}a:6379 was lost after the command was sent; it may or may not have been executed");
    assert_eq!(reply, whole);
}

#[test]
fn a_write_that_was_sent_is_an_unknown_outcome() {
    for (fault, executed) in [(Fault::CutBefore, 0), (Fault::CutAfter, 1)] {
        run(async |world| {
            world.a.once("INCR n", fault);
            let mut client = world.client();
            assert_unknown(&client.ask("INCR n").await);
            client.hears_nothing_for(2 * HOLD).await;
            assert_eq!(world.a.received("INCR n").len(), 1);
            assert_eq!(world.a.executed("INCR n").len(), executed);
            assert_eq!(world.metric("slipring_unknown_outcomes_total", ""), 1.0);
            assert_eq!(client.ask("INCR n").await, format!(":{}", executed + 1));
        });
    }
}

/// Dying or frozen: its kernel takes connections, and nobody reads what is sent there.
#[test]
fn a_node_that_says_nothing_is_sent_nothing() {
    run(async |world| {
        let mut client = world.client();
        assert_eq!(client.ask("INCR n").await, ":1");
        world.a.freeze();
        world.a.cut();
        client.send("INCR n; GET n").await;
        settle().await;
        world.switch();
        assert_eq!(client.replies(2).await, ":2 2");
        world.a.thaw();
        settle().await;
        assert_eq!(world.a.received("INCR n").len(), 1);
        assert_eq!(world.metric("slipring_unknown_outcomes_total", ""), 0.0);
    });
}

#[test]
fn each_write_behind_a_lost_one_is_unknown_too_if_it_was_sent() {
    run(async |world| {
        world.a.once("INCR b", Fault::CutBefore);
        let mut client = world.client();
        client.send("INCR a; INCR b; INCR c; GET a").await;
        assert_eq!(client.reply().await, ":1");
        assert_unknown(&client.reply().await);
        assert_unknown(&client.reply().await);
        assert_eq!(client.reply().await, "1", "the read behind them is sent again");
        assert_eq!(world.a.received("INCR").len(), 2);
        assert_eq!(world.a.received("GET a").len(), 1);
    });
}

#[test]
fn a_read_that_was_sent_is_sent_again_once() {
    run(async |world| {
        world.a.put("x", b"1");
        world.a.once("GET x", Fault::CutAfter);
        let mut client = world.client();
        assert_eq!(client.ask("GET x").await, "1");
        assert_eq!(world.a.received("GET x").len(), 2);
        assert_eq!(world.metric("slipring_resends_total", "read"), 1.0);
    });
}

#[test]
fn a_read_is_not_sent_a_third_time() {
    run(async |world| {
        world.a.always("GET poison", Fault::CutBefore);
        let mut client = world.client();
        assert_unknown(&client.ask("GET poison").await);
        assert_eq!(world.a.received("GET poison").len(), 2);
        assert_eq!(client.ask("GET x").await, "nil");
    });
}

#[test]
fn a_script_that_was_sent_is_not_sent_again_even_if_it_says_it_reads() {
    for line in [
        "EVAL s 1 k",
        "EVAL_RO s 1 k",
        "FCALL f 0",
        "FCALL_RO f 0",
        "JSON.GET k",
    ] {
        run(async |world| {
            world.a.once(line, Fault::CutBefore);
            assert_unknown(&world.client().ask(line).await);
            assert_eq!(world.a.received(line).len(), 1);
        });
    }
}

#[test]
fn what_was_never_written_is_sent_when_the_node_can_be_reached() {
    for manner in [Manner::Refuse, Manner::Swallow] {
        run(async |world| {
            world.a.dials(manner);
            let mut client = world.client();
            client.send("INCR n; GET n; INCR n").await;
            client.hears_nothing_for(Duration::from_millis(2500)).await;
            world.a.dials(Manner::Accept);
            assert_eq!(client.replies(3).await, ":1 1 :2");
            assert_eq!(world.a.received("INCR n").len(), 2);
        });
    }
}

/// The window takes the first commands only: the connection ends in the middle of one.
#[test]
fn a_lost_connection_parts_what_was_written_from_what_was_not() {
    run(async |world| {
        let mut client = world.client();
        assert_eq!(client.ask("GET x").await, "nil");
        world.a.freeze();
        let filler = "v".repeat(1000);
        for number in 0..300 {
            client.send(&format!("RPUSH list {number}-{filler}")).await;
        }
        settle().await;
        world.a.cut();
        world.a.thaw();
        let mut unknown = 0;
        for number in 0..300 {
            let reply = client.reply().await;
            if reply.starts_with(UNKNOWN) {
                assert_eq!(unknown, number, "an unknown outcome behind a known one");
                unknown += 1;
            } else {
                assert_eq!(reply, format!(":{}", number - unknown + 1));
            }
        }
        assert!((64..200).contains(&unknown), "{unknown} of 300 were written");
        let kept: Vec<_> = world.a.list("list");
        let numbers = kept
            .iter()
            .map(|value| value.split('-').next().unwrap().parse::<usize>().unwrap());
        assert!(numbers.eq(unknown..300), "each once, in order");
    });
}

#[test]
fn a_session_goes_on_in_its_order_around_a_demotion() {
    // What the read behind the write is answered at first comes whole, in pieces of which none is passed on, and as an
    // error.
    let long = "o".repeat(100_000);
    let wrong = "-WRONGTYPE Operation against a key holding the wrong kind of value";
    for (before, old) in [
        ("SET a old", "old"),
        (&format!("SET a {long}"), &long),
        ("RPUSH a x", wrong),
    ] {
        around_a_demotion(before, old);
    }
}

/// A write that is refused once, and reads around it.
fn around_a_demotion(before: &str, old: &str) {
    run(async |world| {
        world.a.run(before);
        world.a.once(
            "SET a",
            Fault::Answer("-READONLY You can't write against a read only replica.\r\n"),
        );
        let mut client = world.client();
        client.send("GET a; SET a new; GET a; GET b").await;
        assert_eq!(client.replies(4).await, format!("{old} +OK new nil"));
        assert_eq!(world.a.executed("SET a").len(), 1);
        assert_eq!(
            world.a.received("GET a").len(),
            3,
            "the read behind the write is asked again"
        );
    });
}

#[test]
fn a_demotion_holds_all_that_comes_behind_it() {
    run(async |world| {
        let mut client = world.client();
        assert_eq!(client.ask("SET a old").await, "+OK");
        world.a.become_a(Temper::Replica);
        client.send("SET a new; GET a").await;
        settle().await;
        client.send("GET a; INCR n").await;
        client.hears_nothing_for(Duration::from_secs(1)).await;
        world.moving();
        client.hears_nothing_for(Duration::from_secs(1)).await;
        world.switch();
        assert_eq!(client.replies(4).await, "+OK new new :1");
        assert_eq!(world.b.executed("SET a").len(), 1);
        assert_eq!(world.a.executed("SET a new").len(), 0);
    });
}

#[test]
fn a_read_lost_on_a_replica_is_asked_elsewhere() {
    run(async |world| {
        world.a.put("x", b"1");
        let mut client = world.client_reading(ReadPolicy::PreferReplica);
        assert_eq!(client.ask("GET x").await, "1");
        world.b.once("GET x", Fault::CutBefore);
        world.b.dials(Manner::Refuse);
        client.send("GET x").await;
        settle().await;
        world.without_replicas();
        assert_eq!(client.reply().await, "1");
        assert_eq!(world.a.received("GET x").len(), 1);
    });
}

#[test]
fn a_reply_that_breaks_off_ends_its_client_and_nobody_else() {
    run(async |world| {
        world.a.put("big", &vec![b'v'; 1 << 20]);
        world.a.put("x", b"1");
        world.a.once("GET big", Fault::CutWithin(300_000));
        let (mut client, mut other) = (world.client(), world.client());
        client.send("GET big").await;
        other.send("GET x").await;
        assert_eq!(other.reply().await, "1");
        client.is_closed().await;
    });
}

#[test]
fn a_short_reply_that_breaks_off_is_asked_again() {
    run(async |world| {
        world.a.put("x", &[b'v'; 1000]);
        world.a.once("GET x", Fault::CutWithin(500));
        let mut client = world.client();
        assert_eq!(client.ask("GET x").await, "v".repeat(1000));
    });
}

#[test]
fn a_read_that_is_sent_again_does_not_see_what_was_sent_behind_it() {
    run(async |world| {
        let mut client = world.client();
        assert_eq!(client.ask("SET k old").await, "+OK");
        world.a.latency(Duration::ZERO, Duration::from_millis(20));
        client.send("GET k; SET k new").await;
        settle().await;
        world.a.cut();
        let read = client.reply().await;
        assert_ne!(read, "new");
        assert!(client.reply().await.starts_with(UNKNOWN));
    });
}

#[test]
fn who_waits_for_the_replicas_of_a_former_primary_is_told_that_there_are_none() {
    for (before, wait, none) in [
        ("SET k v", "WAIT 1 0", ":0"),
        ("SET k v", "WAITAOF 1 1 0", "[:0 :0]"),
        ("HELLO 3; CLIENT TRACKING ON", "WAIT 1 0", ":0"),
    ] {
        run(async |world| {
            let mut client = world.client();
            client.ask(before).await;
            world.a.once("WAIT", Fault::Hang);
            client.send(wait).await;
            settle().await;
            world.moving();
            client.hears_nothing_for(Duration::from_secs(1)).await;
            world.switch();
            let mut reply = client.reply().await;
            if reply.starts_with('>') {
                reply = client.reply().await;
            }
            assert_eq!(reply, none, "{before}");
            assert_eq!(world.b.received("WAIT").len(), 0, "nobody is asked again");
        });
    }
}
