//! What others do wrong, and slipring itself: whoever is concerned hears of it, nobody else does.

use std::time::Duration;

use tokio::time::{advance, sleep};

use crate::common::node::Fault;
use crate::common::world::{UNKNOWN, run, settle};

/// As Redis would never answer: no RESP, lengths that are none. (What is RESP is passed on.)
const GARBAGE: [&str; 5] = [
    "HTTP/1.1 400 Bad Request\r\n\r\n",
    "\0\0\0\0",
    "$-7\r\n",
    "*99999999999999999999\r\n",
    "$5\r\nfour\r\n\r\n",
];

#[test]
fn a_node_that_speaks_garbage_is_heard_no_further() {
    for garbage in GARBAGE {
        run(async |world| {
            let (mut client, mut reader, mut other) = (world.client(), world.client(), world.client());
            world.a.put("x", b"1");
            assert_eq!(other.ask("GET x").await, "1");
            world.a.once("INCR n", Fault::Answer(garbage));
            client.send("INCR n; INCR m").await;
            reader.send("GET x").await;
            let told = client.reply().await;
            assert!(told.starts_with(UNKNOWN), "{garbage:?}: {told}");
            let behind = client.reply().await;
            assert!(behind.starts_with(UNKNOWN), "{garbage:?}: {behind}");
            assert_eq!(
                reader.reply().await,
                "1",
                "{garbage:?}: the read of another client"
            );
            settle().await;
            for client in [&mut client, &mut reader, &mut other] {
                assert_eq!(client.ask("GET x; ECHO mine").await, "1 mine", "{garbage:?}");
            }
        });
    }
}

#[test]
fn a_node_that_nests_without_end_is_heard_no_further() {
    run(async |world| {
        let deep: &'static str = Box::leak("*1\r\n".repeat(20_000).into_boxed_str());
        let (mut client, mut other) = (world.client(), world.client());
        world.a.once("INCR n", Fault::Answer(deep));
        assert!(client.ask("INCR n").await.starts_with(UNKNOWN));
        assert_eq!(other.ask("INCR m").await, ":1");
    });
}

/// The machine sleeps, a hypervisor moves it, or the process was stopped.
#[test]
fn a_jump_of_the_clock_costs_nobody_anything() {
    run(async |world| {
        let (mut blocked, mut subscriber) = (world.client(), world.client());
        let (mut queued, mut waiting, mut held) = (world.client(), world.client(), world.client());
        blocked.send("BLPOP queue 0").await;
        assert_eq!(subscriber.ask("SUBSCRIBE c").await, "[subscribe c :1]");
        assert_eq!(queued.ask("MULTI; INCR n").await, "+OK +QUEUED");
        world
            .a
            .once("INCR slow", Fault::Delay(Duration::from_millis(100)));
        waiting.send("INCR slow").await;
        settle().await;
        advance(Duration::from_secs(1800)).await;
        assert_eq!(waiting.reply().await, ":1");
        assert_eq!(queued.ask("EXEC").await, "[:1]");
        world.moving();
        held.send("INCR n").await;
        settle().await;
        world.switch();
        assert_eq!(held.reply().await, ":2");
        let mut other = world.client();
        assert_eq!(other.ask("PUBLISH c hello; RPUSH queue a").await, ":1 :1");
        assert_eq!(subscriber.reply().await, "[message c hello]");
        assert_eq!(blocked.reply().await, "[queue a]");
        assert_eq!(world.metric("slipring_unknown_outcomes_total", ""), 0.0);
    });
}

#[test]
fn a_panic_in_one_session_closes_one_client() {
    run(async |world| {
        let (mut doomed, mut other) = (world.client(), world.client());
        assert_eq!(doomed.ask("CLIENT SETNAME doomed").await, "+OK");
        assert_eq!(other.ask("MULTI; EXEC; INCR n").await, "+OK [] :1");
        world.doom("doomed").await;
        other.send("INCR n").await;
        doomed.send("INCR n").await;
        doomed.is_closed().await;
        assert_eq!(other.reply().await, ":2");
        assert_eq!(other.ask("INCR n; GET n").await, ":3 3");
        assert_eq!(world.metric("slipring_session_panics_total", ""), 1.0);
        assert_eq!(world.metric("slipring_clients_closed_total", "panic"), 1.0);
        assert_eq!(world.handle().clients(), 1);
        assert_eq!(world.client().ask("INCR n").await, ":4");
        sleep(Duration::from_secs(120)).await;
        assert_eq!(other.ask("INCR n").await, ":5", "the worker goes on");
    });
}
