//! One client that asks for much, or sends much at once or hardly anything, has its turn and no more.

use std::time::Duration;

use proxy_core::ReadPolicy;
use tokio::time::{Instant, sleep, timeout};

use crate::common::node::Fault;
use crate::common::world::{run, settle};

const BIG: usize = 10 << 20;
const SECOND: Duration = Duration::from_secs(1);

/// Guards that a request enters a shared connection whole.
#[test]
fn half_a_request_stalls_nobody() {
    run(async |world| {
        let (mut half, mut other) = (world.client(), world.client());
        let request = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1000\r\nhalf";
        for (byte, asked) in request.iter().zip(1..) {
            half.send_bytes(&[*byte]).await;
            let started = Instant::now();
            assert_eq!(other.ask("INCR n").await, format!(":{asked}"));
            assert!(started.elapsed() < SECOND / 50, "{:?}", started.elapsed());
            sleep(SECOND).await;
        }
        drop(half);
        settle().await;
        assert_eq!(world.a.received("SET").len(), 0);
    });
}

/// Guards `PIPELINE_DEPTH` and `GROUP_COMMANDS`.
#[test]
fn a_deep_pipeline_has_its_turn_and_no_more() {
    run(async |world| {
        world.a.put("x", b"1");
        let (mut deep, mut other) = (world.narrow_client(8 << 20), world.client());
        assert_eq!(deep.ask("GET x").await, "1");
        deep.send(&vec!["GET x"; 50_000].join("; ")).await;
        assert_eq!(other.ask("INCR n").await, ":1");
        let ahead = world.a.executed("GET x").len();
        assert!(ahead < 5_000, "{ahead} commands of another came first");
        for _ in 0..50_000 {
            assert_eq!(deep.reply().await, "1");
        }
    });
}

/// Guards that readers of large replies have a connection of their own, that nobody overtakes himself on the way there, and
/// `LARGE_READER_BATCHES`.
#[test]
fn nobody_waits_behind_large_replies_of_another() {
    for (reads, node) in [(ReadPolicy::Primary, "a"), (ReadPolicy::Replica, "b")] {
        run(async |world| {
            let node = if node == "a" { &world.a } else { &world.b };
            world.a.put("big", &[b'v'; 200_000]);
            world.a.put("x", b"1");
            let mut large = world.client_reading(reads);
            let mut other = world.client_reading(reads);
            let over = |line: &str| node.executed(line).last().map(|line| line.connection);
            assert_eq!(other.ask("GET x").await, "1");
            assert_eq!(large.ask("GET big").await.len(), 200_000);
            assert_eq!(over("GET big"), over("GET x"), "nobody knew what it would read");
            large.send("GET big; GET big").await;
            for _ in 0..2 {
                assert_eq!(large.reply().await.len(), 200_000);
            }
            assert_ne!(over("GET big"), over("GET x"));

            node.always("GET big", Fault::Delay(SECOND));
            large.send("GET big").await;
            settle().await;
            let started = Instant::now();
            assert_eq!(other.ask("GET x").await, "1");
            assert!(started.elapsed() < SECOND / 10, "{:?}", started.elapsed());
            assert_eq!(large.reply().await.len(), 200_000);

            for _ in 0..70 {
                assert_eq!(large.ask("GET x; GET x").await, "1 1");
            }
            let again = over("GET x");
            assert_eq!(other.ask("GET x").await, "1");
            assert_eq!(over("GET x"), again, "it reads nothing large any more");
        });
    }
}

/// Guards that a session goes to the readers of large replies only once nothing of it is on its way elsewhere.
#[test]
fn who_turns_out_to_read_large_replies_does_not_overtake_itself() {
    run(async |world| {
        world.a.put("big", &[b'v'; 200_000]);
        let mut client = world.client();
        assert_eq!(client.ask("SET x 0").await, "+OK");
        world.a.always("SET x 1", Fault::Delay(SECOND));
        client.send("GET big; SET x 1").await;
        assert_eq!(client.reply().await.len(), 200_000);
        client.send("GET x").await;
        assert_eq!(client.replies(2).await, "+OK 1");
        assert_eq!(client.ask("GET x").await, "1");
        let lines = world.a.executed("GET");
        let [big, behind, after] = &lines[..] else {
            panic!("{lines:?}")
        };
        assert_eq!(big.connection, behind.connection);
        assert_ne!(behind.connection, after.connection);
    });
}

/// Guards `CONGESTED_MS`, and that nobody overtakes himself where his connection takes nothing new.
#[test]
fn who_comes_late_does_not_stand_behind_all_that_was_asked() {
    for (reads, node) in [(ReadPolicy::Primary, "a"), (ReadPolicy::Replica, "b")] {
        run(async |world| {
            let node = if node == "a" { &world.a } else { &world.b };
            world.a.put("slow", b"1");
            world.a.put("x", b"2");
            let mut early = world.client_reading(reads);
            let mut late = world.client_reading(reads);
            assert_eq!(early.ask("GET x").await, "2");
            assert_eq!(late.ask("GET x").await, "2");
            let opened = node.opened();
            node.always("GET slow", Fault::Delay(SECOND / 10));
            early.send(&["GET slow"; 20].join("; ")).await;
            sleep(SECOND / 2).await;
            let started = Instant::now();
            assert_eq!(late.ask("GET x; GET x").await, "2 2");
            assert!(started.elapsed() < SECOND / 10, "{:?}", started.elapsed());
            assert_eq!(node.opened(), opened + 1);
            early.send("GET x").await;
            settle().await;
            assert_eq!(node.executed("GET x").len(), 4, "it was asked before its time");
            assert_eq!(early.replies(21).await, format!("{} 2", ["1"; 20].join(" ")));
        });
    }
}

/// Guards that a node which answers nobody is not asked over one more connection after the other.
#[test]
fn a_silent_node_is_asked_over_no_more_connections() {
    run(async |world| {
        let (mut early, mut late) = (world.client(), world.client());
        assert_eq!(early.ask("INCR n").await, ":1");
        let opened = world.a.opened();
        world.a.once("INCR n", Fault::Delay(SECOND * 9 / 10));
        early.send("INCR n").await;
        sleep(SECOND / 2).await;
        assert_eq!(late.ask("INCR n").await, ":3");
        assert_eq!(early.reply().await, ":2");
        assert_eq!(world.a.opened(), opened);
    });
}

/// Guards that a connection which only finishes what it has counts where all must be answered first.
#[test]
fn a_pause_waits_for_what_a_congested_connection_owes() {
    run(async |world| {
        let (mut early, mut late) = (world.client(), world.client());
        assert_eq!(early.ask("GET slow").await, "nil");
        world.a.always("GET slow", Fault::Delay(SECOND / 10));
        early.send(&["GET slow"; 8].join("; ")).await;
        sleep(SECOND * 2 / 5).await;
        assert_eq!(late.ask("GET x").await, "nil");
        assert!(world.a.executed("GET slow").len() < 8, "it is asked elsewhere");
        assert_eq!(late.ask("CLIENT PAUSE 10000 WRITE").await, "+OK");
        assert_eq!(world.a.executed("GET slow").len(), 1 + 8);
        assert_eq!(late.ask("CLIENT UNPAUSE").await, "+OK");
        assert_eq!(early.replies(8).await, ["nil"; 8].join(" "));
    });
}

/// Guards `LEAVING_CONNECTIONS`.
#[test]
fn congestion_takes_a_bounded_number_of_connections() {
    run(async |world| {
        let mut crowd: Vec<_> = (0..20).map(|_| world.client()).collect();
        assert_eq!(crowd[0].ask("GET x").await, "nil");
        let open = world.a.open();
        world.a.always("GET x", Fault::Delay(SECOND / 10));
        for client in &mut crowd {
            client.send(&["GET x"; 200].join("; ")).await;
            sleep(SECOND / 2).await;
        }
        let more = world.a.open() - open;
        assert!((3..6).contains(&more), "{more} connections more");
        for client in &mut crowd {
            assert_eq!(client.replies(200).await, ["nil"; 200].join(" "));
        }
        settle().await;
        assert!(world.a.open() <= open + 1, "those that leave close");
    });
}

/// Guards `PIPELINE_BYTES`.
#[test]
fn a_deep_pipeline_of_large_requests_is_read_no_further_than_its_bound() {
    run(async |world| {
        let mut deep = world.client();
        assert_eq!(deep.ask("GET x").await, "nil");
        world.a.freeze();
        let value = vec![b'v'; 100_000];
        let writing = async {
            for _ in 0..100 {
                deep.send_words(&[b"SET", b"k", &value]).await;
            }
        };
        let stuck = timeout(SECOND / 2, writing).await;
        assert!(stuck.is_err(), "10 MB of unanswered requests were taken");
        let received = world.metric("slipring_received_bytes_total", "client");
        assert!(received < 1_500_000.0, "{received}");
    });
}

/// Whoever has much to be read, it is read by turns: what a client sends at once, or a node.
///
/// Guards `READS_PER_TURN` of each of them, and `SCRATCH_BYTES`.
#[test]
fn nobody_has_more_than_a_turn() {
    /// A turn is of 512 KiB; whoever looks on may miss one or two.
    const TURN: f64 = 3.0 * 524_288.0;
    /// One of a large reply is a quarter of it.
    const LARGE_REPLY_TURN: f64 = TURN / 4.0;
    run(async |world| {
        world.widen(8 << 20);
        world.a.put("big", &vec![b'v'; BIG]);
        let mut client = world.narrow_client(16 << 20);
        client.send("GET big").await;
        let most = world.most_in_a_turn("node").await;
        assert!(most < LARGE_REPLY_TURN, "{most} bytes of a value");
        assert_eq!(client.frame().await.len(), BIG + 13);

        client.send_bytes(&b"\r\n".repeat(1_000_000)).await;
        let most = world.most_in_a_turn("client").await;
        assert!(most < TURN, "{most} bytes of requests");

        client.send_words(&[b"SET", b"big", &vec![b'v'; BIG]]).await;
        let most = world.most_in_a_turn("client").await;
        assert!(most < TURN, "{most} bytes of a large request");
        assert_eq!(client.reply().await, "+OK");

        let mut unread = world.narrow_client(2 << 20);
        unread.send("GET big").await;
        settle().await;
        unread.send_bytes(&vec![b' '; 2 << 20]).await;
        let most = world.most_in_a_turn("client").await;
        assert!(most < TURN, "{most} bytes behind what is unread");
    });
}

/// Guards `PIPELINE_DEPTH` of a session that streams.
#[test]
fn who_is_subscribed_has_no_deeper_pipeline_than_others() {
    run(async |world| {
        let mut deep = world.client();
        assert_eq!(deep.ask("SUBSCRIBE s").await, "[subscribe s :1]");
        world.a.freeze();
        let before = world.metric("slipring_sent_bytes_total", "node");
        deep.send(&vec!["PING"; 4000].join("; ")).await;
        settle().await;
        let sent = world.metric("slipring_sent_bytes_total", "node") - before;
        assert!(sent < 20_000.0, "{sent} bytes of 56,000");
        world.a.thaw();
        for _ in 0..4000 {
            assert_eq!(deep.reply().await, "[pong ]");
        }
    });
}
