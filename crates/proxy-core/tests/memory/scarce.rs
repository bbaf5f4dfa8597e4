//! `--max-memory`: what is refused when memory is short, who must go when it is over, and who notices nothing.

use std::time::Duration;

use bytes::BytesMut;
use proxy_core::{Pressure, Settings};
use resp_codec::write;
use tokio::time::timeout;

use crate::common::world::{World, run_with, settle};

const LIMIT: usize = 100 << 20;
/// Past it who has the most must go.
const AIM: usize = LIMIT / 32 * 31;
const SECOND: Duration = Duration::from_secs(1);
const OOM: &str =
    "-OOM slipring is short of memory (--max-memory) and takes no large command; it was not executed";

fn limited(settings: &mut Settings) {
    settings.max_memory = Some(LIMIT);
}

fn measured(world: &World, resident: usize) -> Pressure {
    world.handle().meter().measured(resident)
}

/// A command of so many words, with 300 KiB behind them.
fn large(words: &[&[u8]]) -> BytesMut {
    let (body, mut request) = (vec![b' '; 300 << 10], BytesMut::new());
    let words: Vec<&[u8]> = words.iter().copied().chain([&body[..]]).collect();
    write::command(&mut request, &words);
    request
}

#[test]
fn what_is_new_and_large_is_refused_and_what_is_small_goes_on() {
    run_with(limited, async |world| {
        let mut client = world.client();
        let mut early = world.client();
        let request = large(&[b"SET", b"early"]);
        let (begin, rest) = request.split_at(280 << 10);
        early.send_bytes(begin).await;
        assert_eq!(client.ask("INCR n").await, ":1");
        assert_eq!(measured(world, AIM), Pressure::Tight);

        let mut stranger = world.client();
        assert_eq!(
            stranger.reply().await,
            "-ERR slipring is short of memory (--max-memory) and lets nobody in"
        );
        stranger.is_closed().await;
        assert_eq!(world.metric("slipring_clients_refused_total", "memory"), 1.0);
        for words in [
            &[b"SET", &b"big"[..]][..],
            &[b"EVAL"],
            &[b"NO.SUCH", b"big"],
            &[b"PUBLISH", b"c"],
        ] {
            client.send_bytes(&large(words)).await;
            client.send("INCR n").await;
            assert_eq!(client.reply().await, OOM);
            assert!(client.reply().await.starts_with(':'));
        }
        assert_eq!(client.ask("MULTI; INCR n; EXEC").await, "+OK +QUEUED [:6]");
        early.send_bytes(rest).await;
        assert_eq!(early.reply().await, "+OK", "what has begun is finished");
        assert_eq!(world.a.received("SET big").len(), 0);

        assert_eq!(measured(world, LIMIT / 2), Pressure::Easy);
        client.send_bytes(&large(&[b"SET", b"big"])).await;
        assert_eq!(client.reply().await, "+OK");
        assert_eq!(world.client().ask("INCR n").await, ":7");
    });
}

#[test]
fn what_would_have_to_be_kept_is_not() {
    run_with(limited, async |world| {
        let (mut queued, mut client) = (world.client(), world.client());
        assert_eq!(queued.ask("MULTI").await, "+OK");
        assert_eq!(client.ask("PING").await, "+PONG");
        measured(world, AIM);
        queued.send_bytes(&large(&[b"SET", b"big"])).await;
        queued.is_closed().await;
        assert_eq!(world.metric("slipring_clients_closed_total", "memory"), 1.0);
        world.moving();
        settle().await;
        assert_eq!(
            client.ask("INCR n").await,
            "-MASTERDOWN too much waits for a primary (--failover-hold-bytes, --max-memory); the command was not executed"
        );
        assert_eq!(client.ask("GET n").await, "nil", "reads go on");
    });
}

#[test]
fn who_has_the_most_unread_output_makes_room() {
    run_with(limited, async |world| {
        let mut reader = world.client();
        let value = "v".repeat(50_000);
        assert_eq!(reader.ask(&format!("SET big {value}")).await, "+OK");
        let mut hoards = Vec::new();
        for replies in [4, 8] {
            let mut hoard = world.narrow_client(1000);
            for _ in 0..replies {
                hoard.send("GET big").await;
            }
            hoards.push(hoard);
        }
        settle().await;
        assert_eq!(measured(world, AIM), Pressure::Tight);
        settle().await;
        assert_eq!(world.metric("slipring_clients_closed_total", "memory"), 0.0);
        assert_eq!(measured(world, AIM + 1), Pressure::Over(1));
        settle().await;
        assert_eq!(
            world.metric("slipring_clients_closed_total", "memory"),
            1.0,
            "one is enough"
        );
        assert_eq!(hoards.remove(0).reply().await, value, "the smaller one stays");
        measured(world, LIMIT + (1 << 30));
        settle().await;
        assert_eq!(reader.ask("GET big").await, value, "whoever reads stays");
    });
}

/// What a client has sent and nobody has looked at counts as its unread replies do.
#[test]
fn who_keeps_the_most_input_makes_room() {
    run_with(limited, async |world| {
        world.a.put("big", &[b'v'; 50_000]);
        let mut other = world.client();
        assert_eq!(other.ask("PING").await, "+PONG");
        let (mut little, mut much, mut most) = (world.client(), world.client(), world.narrow_client(1000));
        let requests = |bytes: usize| "*2\r\n$3\r\nGET\r\n$1\r\nx\r\n".repeat(bytes / 20).into_bytes();
        for (client, bytes) in [(&mut little, 200_000), (&mut much, 800_000)] {
            client.send("BLPOP q 0").await;
            client.send_bytes(&requests(bytes)).await;
        }
        most.send(&["GET big"; 8].join("; ")).await;
        settle().await;
        // Its replies are larger than its requests: it is not asked for all that is kept.
        most.send_bytes(&b"GET big\r\n".repeat(600_000 / 9)).await;
        settle().await;
        let closed = || world.metric("slipring_clients_closed_total", "memory");
        for (client, count) in [(&mut most, 1.0), (&mut much, 2.0)] {
            assert_eq!(measured(world, AIM + 1), Pressure::Over(1));
            settle().await;
            assert_eq!(closed(), count, "one is enough");
            client.is_closed().await;
        }
        assert_eq!(measured(world, AIM), Pressure::Tight);
        assert_eq!(other.ask("RPUSH q v").await, ":1");
        assert_eq!(little.replies(2).await, "[q v] nil", "it is served on");
        settle().await;
        measured(world, LIMIT + (1 << 30));
        settle().await;
        assert_eq!(closed(), 2.0, "what was kept and is done with counts no more");
    });
}

/// What may wait for each follows from what is left, so that many who read nothing stay within the limit.
///
/// Guards `OUTPUT_SHARES`.
#[test]
fn the_less_is_left_the_less_waits_for_who_does_not_read() {
    const CLIENTS: usize = 10;
    let kept_for_each = |resident: usize| {
        let mut kept = 0;
        run_with(limited, async |world| {
            world.a.put("big", &[b'v'; 50_000]);
            let mut other = world.client();
            assert_eq!(other.ask("INCR n").await, ":1");
            let mut slow: Vec<_> = (0..CLIENTS).map(|_| world.narrow_client(1000)).collect();
            for client in &mut slow {
                assert_eq!(client.ask("PING").await, "+PONG");
            }
            measured(world, resident);
            for client in &mut slow {
                client.send(&["GET big"; 40].join("; ")).await;
            }
            settle().await;
            assert_eq!(other.ask("INCR n").await, ":2");
            settle().await;
            // What comes now is what was kept.
            world.a.freeze();
            for client in &mut slow {
                while timeout(SECOND / 10, client.frame()).await.is_ok() {
                    kept += 1;
                }
            }
        });
        kept / CLIENTS
    };
    let (easy, tight) = (kept_for_each(LIMIT / 10), kept_for_each(LIMIT));
    assert!((20..28).contains(&easy), "{easy} replies of 50 kB");
    assert!((2..8).contains(&tight), "{tight} replies of 50 kB");
}
