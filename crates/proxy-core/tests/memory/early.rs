//! Replies that come before their turn: behind a slower one of another node, or a command that is to be sent again.

use std::time::Duration;

use proxy_core::ReadPolicy;
use tokio::time::sleep;

use crate::common::node::{Fault, Temper};
use crate::common::world::{run, settle};

const BIG: usize = 10 << 20;
const SECOND: Duration = Duration::from_secs(1);

/// What waits for an earlier reply is bounded as what waits for its client is: many replies, or one.
///
/// Guards `OUTPUT_STALL_BYTES` as far as it counts them.
#[test]
fn replies_before_their_turn_stay_within_bounds_and_stall_nobody() {
    for (key, replies) in [("some", 100), ("big", 1)] {
        run(async |world| {
            world.a.put("big", &vec![b'v'; BIG]);
            world.a.put("some", &[b'v'; 100_000]);
            world.a.put("x", b"1");
            let client = || world.client_reading(ReadPolicy::PreferReplica);
            let (mut early, mut other) = (client(), client());
            assert_eq!(early.ask("INCR n; GET x").await, ":1 1");
            assert_eq!(other.ask("GET x").await, "1");
            world.a.once("INCR n", Fault::Delay(5 * SECOND));
            world
                .b
                .once(&format!("GET {key}"), Fault::Delay(Duration::from_millis(10)));
            let reads = vec![format!("GET {key}"); replies].join("; ");
            early.send(&format!("INCR n; {reads}")).await;
            settle().await;
            for _ in 0..3 {
                assert_eq!(other.ask("GET x").await, "1");
            }
            early.hears_nothing_for(SECOND).await;
            let asked = || world.b.received(&format!("GET {key}")).len();
            assert_eq!(asked(), replies, "nothing is asked again before its turn");
            assert_eq!(early.reply().await, ":2");
            for _ in 0..replies {
                assert!(early.frame().await.len() > 100_000);
            }
            assert_eq!(early.ask("INCR n").await, ":3");
        });
    }
}

/// The same where nobody waits behind them: the node keeps what comes before its turn.
///
/// Guards the same, and that more is not asked for meanwhile.
#[test]
fn replies_before_their_turn_are_left_to_the_node() {
    for (key, replies) in [("some", 100), ("big", 1)] {
        run(async |world| {
            world.a.put("big", &vec![b'v'; BIG]);
            world.a.put("some", &[b'v'; 100_000]);
            let mut early = world.client_reading(ReadPolicy::PreferReplica);
            assert_eq!(early.ask("INCR n; GET x").await, ":1 nil");
            world.a.once("INCR n", Fault::Delay(5 * SECOND));
            let reads = vec![format!("GET {key}"); replies].join("; ");
            early.send(&format!("INCR n; {reads}")).await;
            // What it says behind them waits: it would take a connection for each.
            for _ in 0..20 {
                early.send(&format!("GET {key}")).await;
                settle().await;
            }
            assert!(world.b.opened() < 8, "{} connections", world.b.opened());
            early.hears_nothing_for(SECOND).await;
            let received = world.metric("slipring_received_bytes_total", "node");
            assert!(received < 2_500_000.0, "{received} bytes before their turn");
            assert_eq!(early.reply().await, ":2");
            for _ in 0..replies + 20 {
                assert!(early.frame().await.len() > 100_000);
            }
            assert_eq!(world.b.received(&format!("GET {key}")).len(), replies + 20);
        });
    }
}

/// What is sent again goes only once all others have come: they are not waited with for it.
#[test]
fn replies_behind_a_command_that_came_back_are_not_left_to_the_node() {
    run(async |world| {
        world.a.put("big", &vec![b'v'; BIG]);
        let mut client = world.client_reading(ReadPolicy::PreferReplica);
        assert_eq!(client.ask("INCR n; GET x").await, ":1 nil");
        world.a.once("INCR n", Fault::Delay(SECOND));
        client.send("INCR n; GET big; GET big").await;
        sleep(SECOND / 2).await;
        world.a.become_a(Temper::Replica);
        sleep(SECOND).await;
        world.a.become_a(Temper::Primary);
        assert_eq!(client.reply().await, ":2");
        for _ in 0..2 {
            assert_eq!(client.frame().await.len(), BIG + 13);
        }
        assert_eq!(client.ask("INCR n").await, ":3");
    });
}

/// Guards `REPLY_WHOLE_BYTES` for a block.
#[test]
fn what_a_transaction_reads_is_not_kept_whole() {
    run(async |world| {
        world.a.put("some", &[b'v'; 100_000]);
        let mut client = world.narrow_client(64 << 10);
        let reads = ["GET some"; 100].join("; ");
        client.send(&format!("MULTI; {reads}; EXEC")).await;
        sleep(SECOND).await;
        let received = world.metric("slipring_received_bytes_total", "node");
        assert!(received < 2_500_000.0, "{received} bytes of 10 MB were kept");
        assert_eq!(client.reply().await, "+OK");
        for _ in 0..100 {
            assert_eq!(client.reply().await, "+QUEUED");
        }
        assert_eq!(client.frame().await.len(), 6 + 100 * 100_011);
        assert_eq!(client.ask("INCR n").await, ":1");
        assert_eq!(world.a.received("EXEC").len(), 1);
    });
}
