//! How sessions begin and end: the door, QUIT, broken protocol, hanging up half way, idleness and the drain.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::common::node::Fault;
use crate::common::world::{HOLD, run, run_with, settle};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn who_quits_gets_everything_first() {
    run(async |world| {
        world.a.latency(Duration::from_millis(50), Duration::ZERO);
        let mut client = world.client();
        client.send("INCR n; GET n; QUIT; INCR n").await;
        assert_eq!(client.replies(3).await, ":1 1 +OK");
        client.is_closed().await;
        assert_eq!(world.a.executed("INCR n").len(), 1);
    });
}

#[test]
fn broken_protocol_is_answered_behind_all_that_was_asked() {
    run(async |world| {
        world.a.latency(Duration::from_millis(50), Duration::ZERO);
        for (bytes, error) in [
            (&b"*1\r\n:1\r\n"[..], "-ERR Protocol error: expected '$', got ':'"),
            (b"*x\r\n", "-ERR Protocol error: invalid multibulk length"),
            (
                b"*2147483648\r\n",
                "-ERR Protocol error: invalid multibulk length",
            ),
            (
                b"*1\r\n$2147483648\r\n",
                "-ERR Protocol error: invalid bulk length",
            ),
            (
                b"GET \"a\r\n",
                "-ERR Protocol error: unbalanced quotes in request",
            ),
        ] {
            let mut client = world.client();
            client.send("GET a").await;
            client.send_bytes(bytes).await;
            assert_eq!(client.replies(2).await, format!("nil {error}"));
            client.is_closed().await;
        }
        assert_eq!(world.client().ask("INCR n").await, ":1");
    });
}

#[test]
fn a_browser_is_sent_away() {
    run(async |world| {
        let mut client = world.client();
        client
            .send_bytes(b"POST / HTTP/1.1\r\nHost: x\r\n\r\nFLUSHALL\r\n")
            .await;
        client.is_closed().await;
        assert_eq!(world.a.received("FLUSHALL").len(), 0);
    });
}

/// A node would end the connection that its line came over, and with it what others have sent there.
#[test]
fn a_browser_is_sent_away_whatever_it_has_begun() {
    run(async |world| {
        for (begun, count, replies) in [
            ("MULTI; INCR n", 2, "+OK +QUEUED"),
            ("WATCH k", 1, "+OK"),
            ("SUBSCRIBE c", 1, "[subscribe c :1]"),
        ] {
            for line in ["POST / HTTP/1.1", "Host: x"] {
                let mut client = world.client();
                client.send(begun).await;
                assert_eq!(client.replies(count).await, replies);
                client.send(&format!("{line}; FLUSHALL; EXEC")).await;
                client.is_closed().await;
            }
        }
        let mut client = world.client();
        client.send("MULTI; POST /; FLUSHALL; EXEC").await;
        assert_eq!(client.reply().await, "+OK");
        client.is_closed().await;
        for word in ["POST", "Host:", "FLUSHALL", "EXEC"] {
            assert_eq!(world.a.received(word).len(), 0, "{word}");
        }
    });
}

#[test]
fn the_door_has_a_bound() {
    run_with(
        |settings| settings.max_clients = 2,
        async |world| {
            let (mut one, mut two, mut three) = (world.client(), world.client(), world.client());
            assert_eq!(one.ask("INCR n").await, ":1");
            assert_eq!(two.ask("INCR n").await, ":2");
            assert_eq!(three.reply().await, "-ERR max number of clients reached");
            three.is_closed().await;
            drop(one);
            settle().await;
            assert_eq!(world.client().ask("INCR n").await, ":3");
        },
    );
}

#[test]
fn idle_clients_are_closed_and_waiting_ones_are_not() {
    run_with(
        |settings| settings.idle_timeout = 3 * SECOND,
        async |world| {
            let (mut idle, mut blocked, mut held) = (world.client(), world.client(), world.client());
            assert_eq!(idle.ask("INCR n").await, ":1");
            blocked.send("BLPOP q 0").await;
            settle().await;
            world.moving();
            held.send("INCR n").await;
            let started = Instant::now();
            idle.is_closed().await;
            assert!(started.elapsed() >= 2 * SECOND && started.elapsed() < 4 * SECOND);
            sleep(3 * SECOND).await;
            world.switch();
            assert_eq!(held.reply().await, ":2");
            world.b.run("RPUSH q x");
            assert_eq!(blocked.reply().await, "[q x]");
        },
    );
}

#[test]
fn a_drain_lets_clients_finish_and_sends_the_last_away() {
    run_with(
        |settings| settings.drain_timeout = HOLD,
        async |world| {
            world.a.latency(Duration::from_millis(50), Duration::ZERO);
            let (mut resting, mut busy, mut blocked) = (world.client(), world.client(), world.client());
            assert_eq!(resting.ask("GET x").await, "nil");
            assert_eq!(busy.ask("GET x").await, "nil");
            blocked.send("BLPOP q 0").await;
            busy.send("INCR n; INCR n").await;
            sleep(Duration::from_millis(10)).await;
            world.handle().drain();
            resting.is_closed().await;
            assert_eq!(busy.replies(2).await, ":1 :2");
            busy.is_closed().await;
            let started = Instant::now();
            blocked.is_closed().await;
            assert!(started.elapsed() < HOLD + SECOND);
            settle().await;
            assert_eq!(world.handle().clients(), 0);
            assert_eq!(world.a.blocked(), 0);
        },
    );
}

#[test]
fn idle_sessions_cost_no_connection_to_the_node() {
    run(async |world| {
        let before = world.a.opened();
        let clients: Vec<_> = (0..200).map(|_| world.client()).collect();
        settle().await;
        assert_eq!(world.handle().clients(), 200);
        assert_eq!(world.a.opened(), before);
        drop(clients);
    });
}

#[test]
fn several_workers_share_the_clients() {
    run_with(
        |settings| settings.workers = 3,
        async |world| {
            let mut clients: Vec<_> = (0..30).map(|_| world.client()).collect();
            for client in &mut clients {
                assert!(client.ask("INCR n").await.starts_with(':'));
            }
            let lines = world.a.executed("INCR n");
            let connections: std::collections::BTreeSet<_> =
                lines.iter().map(|line| line.connection).collect();
            assert_eq!(connections.len(), 3, "one shared connection a worker");
            world.moving();
            for client in &mut clients {
                client.send("INCR n; GET n").await;
            }
            settle().await;
            world.switch();
            for client in &mut clients {
                assert!(client.reply().await.starts_with(':'));
                client.reply().await;
            }
            assert_eq!(world.b.text("n").as_deref(), Some("60"));
        },
    );
}

#[test]
fn few_clients_share_one_worker_and_more_are_spread() {
    run_with(
        |settings| {
            settings.workers = 3;
            settings.spread_after = 10;
        },
        async |world| {
            let mut clients = Vec::new();
            for (many, workers) in [(10, 1), (30, 3)] {
                clients.resize_with(many, || world.client());
                for client in &mut clients {
                    assert!(client.ask("INCR n").await.starts_with(':'));
                }
                let lines = world.a.executed("INCR n");
                let connections: std::collections::BTreeSet<_> =
                    lines.iter().map(|line| line.connection).collect();
                assert_eq!(
                    connections.len(),
                    workers,
                    "{many} clients, one shared connection a worker"
                );
            }
            // The first ten, and ten on each worker since.
            let lines = world.a.executed("INCR n");
            let first = lines.iter().filter(|line| line.connection == lines[0].connection);
            assert_eq!(first.count(), 20);
        },
    );
}

#[test]
fn what_the_table_does_not_know_the_node_is_asked_once() {
    run(async |world| {
        let mut client = world.client();
        let answer = "*1\r\n*10\r\n$7\r\nfoo.get\r\n:2\r\n*2\r\n+readonly\r\n+module\r\n:1\r\n:1\r\n:1\r\n*0\r\n*0\r\n*0\r\n*0\r\n";
        world.a.once("COMMAND INFO", Fault::Answer(answer));
        world.a.always("FOO.GET k", Fault::Answer("$1\r\nv\r\n"));
        assert_eq!(client.ask("FOO.GET k; GET x; FOO.GET k").await, "v nil v");
        assert_eq!(
            client.ask("Foo.Get k; FOO.GET k").await.split(' ').next_back(),
            Some("v")
        );
        assert_eq!(world.a.received("COMMAND INFO").len(), 1);
        // It only reads: it is not held, and travels again.
        world.moving();
        assert_eq!(client.ask("FOO.GET k").await, "v");
    });
}

#[test]
fn a_command_that_a_module_blocks_in_stalls_nobody() {
    run(async |world| {
        let (mut blocked, mut other) = (world.client(), world.client());
        assert_eq!(other.ask("INCR n").await, ":1");
        let answer = "*1\r\n*10\r\n$7\r\nfoo.pop\r\n:2\r\n*2\r\n+write\r\n+blocking\r\n:1\r\n:1\r\n:1\r\n*0\r\n*0\r\n*0\r\n*0\r\n";
        world.a.once("COMMAND INFO", Fault::Answer(answer));
        world.a.once("FOO.POP k", Fault::Delay(Duration::from_secs(60)));
        blocked.send("FOO.POP k").await;
        settle().await;
        let started = Instant::now();
        assert_eq!(other.ask("INCR n").await, ":2");
        assert!(
            started.elapsed() < Duration::from_millis(20),
            "{:?}",
            started.elapsed()
        );
        let connection = |line: &str| world.a.received(line)[0].connection;
        assert_ne!(connection("FOO.POP k"), connection("INCR n"));
    });
}

/// The lease that was used last is used next: the others fall idle, and are not kept for ever by being used in turn.
#[test]
fn leases_that_are_not_needed_fall_idle_beside_one_that_is() {
    run(async |world| {
        let mut clients = [world.client(), world.client(), world.client()];
        for client in &mut clients {
            assert_eq!(client.ask("WATCH k").await, "+OK");
        }
        for client in &mut clients {
            assert_eq!(client.ask("UNWATCH").await, "+OK");
        }
        for _ in 0..20 {
            assert_eq!(clients[0].ask("WATCH k; UNWATCH").await, "+OK +OK");
        }
        let watches = world.a.executed("WATCH k").into_iter();
        let connections: Vec<u64> = watches.map(|line| line.connection).collect();
        let (first, later) = connections.split_at(3);
        let different = |some: &[u64]| some.iter().collect::<BTreeSet<_>>().len();
        assert_eq!((different(first), different(later)), (3, 1));
    });
}
