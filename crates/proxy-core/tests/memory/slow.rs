//! One client that does not keep up costs the others nothing, and slipring no memory beyond its bounds.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::common::node::Fault;
use crate::common::world::{UNKNOWN, guard, run, run_with, settle};

const BIG: usize = 10 << 20;
const SECOND: Duration = Duration::from_secs(1);

/// Guards `OUTPUT_STALL_BYTES`, `REPLY_WHOLE_BYTES`, and that a connection which is not read takes nothing new.
#[test]
fn a_client_that_does_not_read_stalls_nobody() {
    run(async |world| {
        world.a.put("big", &vec![b'v'; BIG]);
        let (mut slow, mut other) = (world.narrow_client(1024), world.client());
        assert_eq!(other.ask("INCR n").await, ":1");
        slow.send("GET big").await;
        settle().await;
        for expected in 2..20 {
            let started = Instant::now();
            assert_eq!(other.ask("INCR n").await, format!(":{expected}"));
            assert!(
                started.elapsed() < Duration::from_millis(20),
                "{:?}",
                started.elapsed()
            );
        }
        sleep(20 * SECOND).await;
        let received = world.metric("slipring_received_bytes_total", "node");
        assert!(
            received < 2_500_000.0,
            "{received} bytes were taken for a client that reads nothing"
        );
        assert_eq!(
            slow.frame().await.len(),
            BIG + 13,
            "nobody waited behind it, so it may take its time"
        );
    });
}

/// Guards `SLOW_CLIENT_SECS`.
#[test]
fn who_waits_behind_a_slow_clients_reply_waits_no_longer_than_the_bound() {
    run(async |world| {
        world.a.put("big", &vec![b'v'; BIG]);
        world.a.put("x", b"1");
        let (mut slow, mut other) = (world.narrow_client(1024), world.client());
        assert_eq!(slow.ask("GET x").await, "1");
        world.a.once("GET big", Fault::Delay(Duration::from_millis(10)));
        slow.send("GET big").await;
        settle().await;
        other.send("INCR n; GET x").await;
        let started = Instant::now();
        assert_eq!(other.replies(2).await, ":1 1");
        let waited = started.elapsed();
        assert!(waited < 12 * SECOND, "{waited:?}");
        assert_eq!(world.a.executed("INCR n").len(), 1);
        assert_eq!(world.a.received("INCR n").len(), 1);
    });
}

/// Guards `State::let_reads_go`.
#[test]
fn reads_behind_a_slow_clients_reply_are_asked_again_elsewhere() {
    run(async |world| {
        world.a.put("big", &vec![b'v'; BIG]);
        world.a.put("x", b"1");
        let (mut slow, mut reader, mut writer) = (world.narrow_client(1024), world.client(), world.client());
        assert_eq!(slow.ask("GET x").await, "1");
        world.a.once("GET big", Fault::Delay(Duration::from_millis(10)));
        slow.send("GET big").await;
        settle().await;
        // The reader's stand between the writer's: their late replies must not reach it.
        writer.send("GET x").await;
        settle().await;
        reader.send("GET x; PING; GET x").await;
        settle().await;
        writer.send("INCR n").await;
        let started = Instant::now();
        assert_eq!(reader.replies(3).await, "1 +PONG 1");
        assert!(started.elapsed() < SECOND / 4, "{:?}", started.elapsed());
        writer.hears_nothing_for(SECOND).await;
        assert_eq!(writer.replies(2).await, "1 :1", "what may write is asked once");
        assert_eq!(world.a.received("INCR n").len(), 1);
        assert_eq!(reader.ask("INCR n").await, ":2");
    });
}

/// Those who take nothing are not waited for: what they asked for is put off, and nobody else hears it twice.
///
/// Guards `State::put_off_front`, and that who was put off is asked for once it has read up.
#[test]
fn a_hundred_who_do_not_read_stall_nobody() {
    const CLIENTS: usize = 100;
    const REPLIES: usize = 24;
    run(async |world| {
        world.a.put("big", &[b'v'; 64 << 10]);
        let mut other = world.client();
        assert_eq!(other.ask("INCR n").await, ":1");
        let mut slow: Vec<_> = (0..CLIENTS).map(|_| world.narrow_client(1024)).collect();
        for client in &mut slow {
            assert_eq!(client.ask("PING").await, "+PONG");
        }
        let opened = world.a.opened();
        let pipeline = ["GET big"; REPLIES].join("; ");
        for client in &mut slow {
            client.send(&pipeline).await;
        }
        let started = Instant::now();
        for expected in 2..6 {
            assert_eq!(other.ask("INCR n; GET x").await, format!(":{expected} nil"));
        }
        // Each of them had its share of the node's replies before them, and none its patience.
        assert!(started.elapsed() < SECOND, "{:?}", started.elapsed());
        let asked = || world.a.received("GET big").len();
        assert_eq!(asked(), CLIENTS * REPLIES, "nobody has read anything");
        sleep(20 * SECOND).await;
        assert_eq!(asked(), CLIENTS * REPLIES, "nobody has read anything yet");
        let more = world.a.opened() - opened;
        assert!(more <= 2, "{more} connections more");
        assert_eq!(world.metric("slipring_clients_closed_total", "output"), 0.0);
        slow.truncate(10);
        for client in &mut slow {
            client.send("INCR m; GET big").await;
        }
        for (client, number) in slow.iter_mut().zip(1..) {
            for _ in 0..REPLIES {
                assert_eq!(client.frame().await.len(), (64 << 10) + 10);
            }
            assert_eq!(client.reply().await, format!(":{number}"));
            assert_eq!(client.frame().await.len(), (64 << 10) + 10);
        }
    });
}

#[test]
fn a_slow_client_that_does_read_gets_every_byte() {
    run(async |world| {
        let value: Vec<u8> = (0..BIG).map(|at| (at % 251) as u8).collect();
        world.a.put("big", &value);
        let mut slow = world.narrow_client(4096);
        slow.send("GET x; GET big; INCR n").await;
        sleep(5 * SECOND).await;
        assert_eq!(slow.reply().await, "nil");
        let frame = slow.frame().await;
        assert!(frame[11..].starts_with(&value), "{} bytes", frame.len());
        assert_eq!(frame.len(), BIG + 13);
        assert_eq!(slow.reply().await, ":1");
    });
}

/// Guards `OUTPUT_PUSH_BYTES`.
#[test]
fn a_subscriber_that_does_not_read_is_closed_at_the_bound() {
    run(async |world| {
        let (mut slow, mut publisher) = (world.narrow_client(1024), world.client());
        assert_eq!(slow.ask("SUBSCRIBE s").await, "[subscribe s :1]");
        let message = "m".repeat(100_000);
        let mut heard = 0;
        for _ in 0..450 {
            heard += u32::from(publisher.ask(&format!("PUBLISH s {message}")).await == ":1");
        }
        assert!(
            (320..400).contains(&heard),
            "{heard} messages of 100 kB were kept"
        );
        settle().await;
        assert_eq!(world.a.subscribers(), 0);
        assert_eq!(world.metric("slipring_clients_closed_total", "output"), 1.0);
    });
}

/// Guards `REQUEST_SHARED_BYTES`.
#[test]
fn a_large_request_travels_on_a_connection_of_its_own() {
    run(async |world| {
        let (mut large, mut other) = (world.client(), world.client());
        assert_eq!(other.ask("INCR n").await, ":1");
        let value = vec![b'v'; BIG];
        large.send("INCR m").await;
        large.send_words(&[b"SET", b"big", &value]).await;
        large.send("STRLEN big; INCR m; GET big").await;
        assert_eq!(large.replies(2).await, ":1 +OK");
        assert!(
            large.reply().await.starts_with("-ERR unknown command"),
            "the fake has no STRLEN"
        );
        assert_eq!(large.reply().await, ":2");
        assert_eq!(large.frame().await.len(), BIG + 13);
        let connection = |prefix: &str| world.a.executed(prefix)[0].connection;
        assert_ne!(connection("SET big"), connection("INCR n"));
        assert_eq!(connection("INCR m"), connection("INCR n"));
    });
}

/// Guards `OUTPUT_SOFT_BYTES`.
#[test]
fn who_leaves_replies_unread_is_not_asked_for_more() {
    run(async |world| {
        world.a.put("x", &[b'v'; 50_000]);
        let mut slow = world.narrow_client(1000);
        for _ in 0..20 {
            slow.send("GET x").await;
            settle().await;
        }
        let asked = world.a.received("GET x").len();
        assert!((5..8).contains(&asked), "{asked} of 20 were asked for");
    });
}

/// Guards `REPLY_WHOLE_BYTES` on a lease.
#[test]
fn what_a_lease_brings_is_not_kept_whole() {
    run(async |world| {
        world.a.put("big", &vec![b'v'; BIG]);
        let mut slow = world.narrow_client(64 << 10);
        assert_eq!(slow.ask("MULTI").await, "+OK");
        assert_eq!(slow.ask("GET big").await, "+QUEUED");
        slow.send("EXEC").await;
        sleep(SECOND).await;
        let received = world.metric("slipring_received_bytes_total", "node");
        assert!(received < 2_500_000.0, "{received} bytes of 10 MB were kept");
        assert_eq!(slow.frame().await.len(), 4 + BIG + 13);
    });
}

#[test]
fn a_large_write_whose_connection_is_lost_is_an_unknown_outcome() {
    run(async |world| {
        let mut client = world.client();
        let value = vec![b'v'; 1 << 20];
        world.a.once("SET big", Fault::CutAfter);
        client.send_words(&[b"SET", b"big", &value]).await;
        assert!(client.reply().await.starts_with(UNKNOWN));
        assert_eq!(world.a.received("SET big").len(), 1);
    });
}

#[test]
fn a_large_write_to_a_frozen_primary_ends_with_the_switch() {
    run(async |world| {
        let mut client = world.client();
        let value = vec![b'v'; 1 << 20];
        client.send_words(&[b"SET", b"big", &value]).await;
        assert_eq!(client.reply().await, "+OK", "it leaves a lease behind");
        world.a.freeze();
        client.send_words(&[b"SET", b"big", &value]).await;
        sleep(SECOND).await;
        world.switch();
        let started = Instant::now();
        assert!(client.reply().await.starts_with(UNKNOWN));
        assert!(started.elapsed() < SECOND / 10);
        assert_eq!(client.ask("INCR n").await, ":1");
    });
}

#[test]
fn a_client_that_reads_only_once_it_has_sent_all_is_served() {
    run(async |world| {
        world.a.put("x", &[b'v'; 1000]);
        let mut client = world.narrow_client(64 << 10);
        let line = vec!["GET x"; 100].join("; ");
        for _ in 0..100 {
            client.send(&line).await;
        }
        settle().await;
        let received = world.metric("slipring_received_bytes_total", "node");
        assert!(
            received < 2_500_000.0,
            "{received} bytes of 10 MB were kept for a client that reads none"
        );
        client.send("INCR n").await;
        for _ in 0..10_000 {
            assert_eq!(client.frame().await.len(), 1009);
        }
        assert_eq!(client.reply().await, ":1");
    });
}

/// Guards `KEPT_INPUT_BYTES` and `OUTPUT_GRANT_BYTES`.
#[test]
fn a_client_that_only_writes_is_not_read_for_ever() {
    run(async |world| {
        world.a.put("big", &vec![b'v'; BIG]);
        let mut client = world.narrow_client(64 << 10);
        client.send(&["GET big"; 6].join("; ")).await;
        let key = vec![b'k'; 200_000];
        let writing = async {
            for _ in 0..1500 {
                client.send_words(&[b"GET", &key]).await;
            }
        };
        let stuck = timeout(20 * SECOND, writing).await;
        assert!(
            stuck.is_err(),
            "300 MB of requests were kept for a client that reads no reply"
        );
        let received = world.metric("slipring_received_bytes_total", "client");
        assert!((260e6..280e6).contains(&received), "{received}");
        let replies = world.metric("slipring_received_bytes_total", "node");
        assert!((30e6..40e6).contains(&replies), "{replies}");
    });
}

/// As much as is kept of it, it may leave unread: small replies make room for large requests, and nobody waits for that.
///
/// Guards `Client::grant`, both where it lets the session ask and where the connection is read on.
#[test]
fn who_sends_much_and_is_told_little_is_served_before_it_reads() {
    const REQUESTS: usize = 20_000;
    run(async |world| {
        world.a.put("x", &[b'v'; 100]);
        let (mut client, mut other) = (world.narrow_client(64 << 10), world.client());
        assert_eq!(other.ask("INCR n").await, ":1");
        let request = format!("GET x{}", " ".repeat(1000));
        let line = [request.as_str(); 100].join("\r\n");
        for _ in 0..REQUESTS / 100 {
            client.send_bytes(format!("{line}\r\n").as_bytes()).await;
        }
        client.send("INCR m").await;
        settle().await;
        let served = world.a.received("GET x").len();
        assert!(
            served > REQUESTS * 3 / 4,
            "{served} of {REQUESTS}: the rest is kept until it reads"
        );
        let started = Instant::now();
        assert_eq!(other.ask("INCR n; GET y").await, ":2 nil");
        assert!(
            started.elapsed() < Duration::from_millis(20),
            "{:?}",
            started.elapsed()
        );
        sleep(20 * SECOND).await;
        for _ in 0..REQUESTS {
            assert_eq!(client.frame().await.len(), 108);
        }
        assert_eq!(client.reply().await, ":1");
        assert_eq!(world.a.received("GET x").len(), REQUESTS, "nothing was put off");
        assert_eq!(world.metric("slipring_clients_closed_total", "output"), 0.0);
    });
}

/// Guards `OUTPUT_STALL_BYTES` for who has taken all: what it was granted is over.
#[test]
fn what_a_client_may_leave_unread_is_forgotten_once_it_has_taken_all() {
    run(async |world| {
        world.a.put("big", &vec![b'v'; BIG]);
        let mut client = world.narrow_client(64 << 10);
        client.send("GET big").await;
        settle().await;
        let ping = format!("PING{}\r\n", " ".repeat(1000));
        client.send_bytes(ping.repeat(3000).as_bytes()).await;
        settle().await;
        assert_eq!(client.frame().await.len(), BIG + 13);
        for _ in 0..3000 {
            assert_eq!(client.frame().await.len(), 7);
        }
        let before = world.metric("slipring_received_bytes_total", "node");
        client.send("GET big").await;
        settle().await;
        let more = world.metric("slipring_received_bytes_total", "node") - before;
        assert!(more < 2_500_000.0, "{more} bytes were taken for it");
    });
}

/// A change of database waits until all before it is answered, which is once the client has taken enough.
#[test]
fn a_client_that_reads_only_once_it_has_sent_all_is_served_around_a_select() {
    run(async |world| {
        world.a.put("big", &vec![b'v'; BIG]);
        let mut client = world.narrow_client(64 << 10);
        client.send("GET big; SELECT 0").await;
        settle().await;
        let pings = format!("PING{}\r\n", " ".repeat(1000)).repeat(1000);
        let sent = timeout(SECOND, client.send_bytes(pings.as_bytes())).await;
        assert!(sent.is_ok(), "it is not read while it waits");
        assert_eq!(client.frame().await.len(), BIG + 13);
        assert_eq!(client.reply().await, "+OK");
        for _ in 0..1000 {
            assert_eq!(client.frame().await.len(), 7);
        }
    });
}

/// Guards `STRANGER_INPUT_BYTES`.
#[test]
fn little_is_kept_of_who_has_not_authenticated() {
    run_with(
        |settings| guard(settings, b"secret"),
        async |world| {
            let mut stranger = world.narrow_client(64 << 10);
            let flood = b"GET x\r\n".repeat(1 << 20);
            assert!(timeout(SECOND, stranger.send_bytes(&flood)).await.is_err());
            let received = world.metric("slipring_received_bytes_total", "client");
            assert!(received < 2.5e6, "{received}");
        },
    );
}

#[test]
fn a_slow_client_that_has_said_quit_gets_every_byte() {
    run(async |world| {
        world.a.put("x", &[b'v'; 1 << 20]);
        let mut slow = world.narrow_client(64 << 10);
        let line = ["GET x"; 12].join("; ");
        slow.send(&format!("{line}; QUIT")).await;
        for _ in 0..12 {
            sleep(4 * SECOND).await;
            assert_eq!(slow.frame().await.len(), (1 << 20) + 12);
        }
        assert_eq!(slow.reply().await, "+OK");
        slow.is_closed().await;
    });
}

#[test]
fn a_client_that_has_said_quit_and_takes_nothing_is_closed() {
    run(async |world| {
        world.a.put("x", &[b'v'; 500_000]);
        let mut slow = world.narrow_client(64 << 10);
        slow.send("GET x; QUIT").await;
        sleep(15 * SECOND).await;
        slow.is_closed().await;
    });
}

#[test]
fn quit_waits_for_slow_answers_before_it() {
    run(async |world| {
        world.a.put("x", b"1");
        let mut client = world.client();
        assert_eq!(client.ask("GET x").await, "1");
        world.a.once("GET x", Fault::Delay(15 * SECOND));
        client.send("GET x; QUIT").await;
        assert_eq!(client.replies(2).await, "1 +OK");
        client.is_closed().await;
    });
}
