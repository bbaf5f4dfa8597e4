//! A new primary: the old one is fenced before anybody acts on the new one.

use std::time::Duration;

use proxy_core::ReadPolicy;
use tokio::time::{Instant, sleep};

use crate::common::node::{Fault, Temper};
use crate::common::world::{UNKNOWN, run, settle};

#[test]
fn nothing_reaches_the_old_primary_once_the_new_one_is_known() {
    run(async |world| {
        let mut clients: Vec<_> = (0..8).map(|_| world.client()).collect();
        for client in &mut clients {
            assert_eq!(
                client
                    .ask("INCR n; WATCH w; SET before 1")
                    .await
                    .split(' ')
                    .next_back(),
                Some("+OK")
            );
        }
        let before = world.a.received("").len();
        world.switch();
        for client in &mut clients {
            assert!(client.ask("SET after 1").await.starts_with("+OK"));
            assert_eq!(
                client
                    .ask("RPUSH after-list x; GET after; MULTI; EXEC")
                    .await
                    .split(' ')
                    .nth(1),
                Some("1")
            );
        }
        sleep(Duration::from_secs(2)).await;
        assert_eq!(world.a.received("").len(), before);
        assert_eq!(world.a.open(), 0, "every connection to it is closed");
    });
}

/// A worker that was not let run for a while finds its clients' commands first, and the watcher's news behind them.
#[test]
fn what_comes_beside_the_news_goes_by_the_news() {
    for (mode, greeting) in [("PING", 1), ("WATCH w", 1), ("HELLO 3; SUBSCRIBE c", 2)] {
        run(async |world| {
            let mut client = world.client();
            client.send(mode).await;
            client.replies(greeting).await;
            assert_eq!(client.ask("SET k before").await, "+OK", "{mode}");
            client.send("SET k after").await;
            world.moving();
            settle().await;
            assert_eq!(world.a.received("SET k after").len(), 0, "{mode}");
            world.switch();
            assert_eq!(client.reply().await, "+OK", "{mode}");
            assert_eq!(world.b.executed("SET k after").len(), 1, "{mode}");
            // The same where the switch itself is the news.
            client.send("SET k last").await;
            world.serve(&world.a);
            assert_eq!(client.reply().await, "+OK", "{mode}");
            assert_eq!(world.b.received("SET k last").len(), 0, "{mode}");
        });
    }
}

/// The old primary is stopped and wakes up behind the switch: what it then executes is what it had been sent before.
#[test]
fn a_write_in_flight_at_the_switch_is_unknown_at_once_and_none_is_sent_behind_it() {
    run(async |world| {
        let mut client = world.client();
        assert_eq!(client.ask("INCR n").await, ":1");
        world.a.freeze();
        client.send("INCR n; GET n").await;
        settle().await;
        world.moving();
        client.send("INCR n").await;
        settle().await;
        let started = Instant::now();
        world.switch();
        assert!(client.reply().await.starts_with(UNKNOWN));
        assert_eq!(client.replies(2).await, "1 :2");
        assert!(started.elapsed() < Duration::from_millis(50));
        world.a.thaw();
        sleep(Duration::from_secs(1)).await;
        assert_eq!(
            world.a.executed("INCR n").len(),
            2,
            "the one before, and the unknown one"
        );
        assert_eq!(world.b.executed("INCR n").len(), 1);
        assert!(world.metric("slipring_fenced_connections_total", "") >= 1.0);
    });
}

#[test]
fn a_node_that_regains_its_role_is_dialled_anew() {
    run(async |world| {
        let mut client = world.client();
        assert_eq!(client.ask("INCR n").await, ":1");
        world.a.freeze();
        client.send("INCR n").await;
        settle().await;
        let opened = world.a.opened();
        world.serve(&world.a);
        assert!(client.reply().await.starts_with(UNKNOWN));
        client.send("INCR n").await;
        settle().await;
        assert!(world.a.opened() > opened);
        world.a.thaw();
        assert!([":2", ":3"].contains(&&*client.reply().await));
        settle().await;
        assert_eq!(
            world.a.text("n").as_deref(),
            Some("3"),
            "over the old connection, and over the new one"
        );
    });
}

#[test]
fn a_replica_that_is_promoted_gets_connections_of_its_own_for_writes() {
    run(async |world| {
        world.a.put("x", b"1");
        let mut client = world.client_reading(ReadPolicy::PreferReplica);
        assert_eq!(client.ask("GET x; INCR n").await, "1 :1");
        world.moving();
        client.send("INCR n").await;
        world.switch();
        assert_eq!(client.reply().await, ":2");
        world.a.become_a(Temper::Replica);
        assert_eq!(client.ask("GET x; INCR n").await, "1 :3");
        let of = |prefix| world.b.executed(prefix)[0].connection;
        assert_ne!(
            of("GET x"),
            of("INCR n"),
            "a connection as replica does not become one as primary"
        );
    });
}

#[test]
fn a_replica_that_leaves_is_fenced_and_its_reads_are_asked_elsewhere() {
    run(async |world| {
        world.a.put("x", b"1");
        let mut client = world.client_reading(ReadPolicy::PreferReplica);
        assert_eq!(client.ask("GET x").await, "1");
        world.b.freeze();
        client.send("GET x").await;
        settle().await;
        world.alone();
        assert_eq!(client.reply().await, "1");
        assert_eq!(world.a.executed("GET x").len(), 1);
        world.b.thaw();
        settle().await;
        assert_eq!(world.b.open(), 0);
    });
}

#[test]
fn a_silent_primary_is_hinted_at_and_not_cut() {
    run(async |world| {
        let mut client = world.client();
        assert_eq!(client.ask("INCR n").await, ":1");
        world.suspicions();
        world.a.freeze();
        client.send("INCR n").await;
        sleep(Duration::from_secs(4)).await;
        assert!(world.suspicions().contains(&sentinel_watcher::Suspicion::Silent));
        world.a.thaw();
        assert_eq!(client.reply().await, ":2", "a timeout proves nothing");
    });
}

#[test]
fn a_frozen_replica_is_left_after_a_probe() {
    run(async |world| {
        world.a.put("x", b"1");
        let mut client = world.client_reading(ReadPolicy::PreferReplica);
        assert_eq!(client.ask("GET x").await, "1");
        world.b.freeze();
        client.send("GET x").await;
        sleep(Duration::from_secs(4)).await;
        world.without_replicas();
        assert_eq!(client.reply().await, "1");
    });
}

/// A node that says that it is busy is alive: it is neither suspected nor cut, be it the primary or a replica.
#[test]
fn a_busy_node_is_waited_for() {
    run(async |world| {
        world.a.put("x", b"1");
        let mut client = world.client_reading(ReadPolicy::PreferReplica);
        assert_eq!(client.ask("INCR n; GET x").await, ":1 1");
        world.suspicions();
        let pings = || [&world.a, &world.b].map(|node| node.received("pInG").len());
        let before = pings();
        for (node, line) in [(&world.a, "INCR n"), (&world.b, "GET x")] {
            node.once(line, Fault::Delay(Duration::from_secs(4)));
            (0..20)
                .for_each(|_| node.once("pInG", Fault::Answer("-BUSY Redis is busy running a script.\r\n")));
        }
        assert_eq!(client.ask("INCR n; GET x").await, ":2 1");
        assert!(!world.suspicions().contains(&sentinel_watcher::Suspicion::Silent));
        assert!(
            pings().iter().zip(before).all(|(now, before)| *now > before),
            "nobody asked"
        );
        assert_eq!(world.a.executed("GET x").len(), 0, "asked again elsewhere");
    });
}

#[test]
fn leases_on_the_old_primary_are_aborted() {
    run(async |world| {
        let (mut watcher, mut multi) = (world.client(), world.client());
        let (mut popper, mut subscriber) = (world.client(), world.client());
        assert_eq!(watcher.ask("WATCH w").await, "+OK");
        assert_eq!(multi.ask("MULTI").await, "+OK");
        popper.send("BLPOP q 0").await;
        assert_eq!(subscriber.ask("SUBSCRIBE s").await, "[subscribe s :1]");
        settle().await;
        assert!(world.a.open() >= 4);
        world.a.freeze();
        world.switch();
        sleep(Duration::from_secs(3)).await;
        world.a.thaw();
        settle().await;
        assert_eq!(world.a.open(), 0);
        assert_eq!(world.a.blocked(), 0);
        assert_eq!(world.b.subscribers(), 1);
    });
}
