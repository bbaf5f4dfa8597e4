//! What is slow, hot and large is seen where it is looked for, over the shared connection and on a lease.

use std::time::Duration;

use proxy_core::{Settings, Watch};
use tokio::sync::mpsc;

use crate::common::node::Fault;
use crate::common::world::{World, run, run_with, settle};

const SLOW: Duration = Duration::from_millis(50);

/// Slow commands, every command sampled.
fn looking(settings: &mut Settings) {
    settings.watch.slower_than = Some(SLOW);
    settings.watch.sample = Some(1);
}

async fn shown(world: &World, what: &str) -> String {
    world.client().ask(&format!("PROXY SHOW {what}")).await
}

#[test]
fn a_slow_command_is_kept_with_who_sent_it_and_a_fast_one_is_not() {
    run_with(looking, async |world| {
        let mut client = world.client();
        client.ask("CLIENT SETNAME shop").await;
        client.ask("SET fast 1").await;
        world.a.once("SET slow", Fault::Delay(2 * SLOW));
        client.ask("SET slow 1").await;
        let told = shown(world, "SLOWLOG").await;
        assert!(told.contains("\"SET\" \"slow\" \"1\""), "{told}");
        assert!(
            told.contains("took_us=1") && told.contains("name=\"shop\""),
            "{told}"
        );
        assert!(told.contains("node=a:6379"), "{told}");
        assert!(!told.contains("fast"), "{told}");
    });
}

#[test]
fn on_a_lease_it_is_the_same_but_what_waits_on_purpose_is_not_slow() {
    run_with(looking, async |world| {
        let mut client = world.client();
        client.ask("WATCH k").await;
        world.a.once("SET k", Fault::Delay(2 * SLOW));
        client.ask("SET k leased").await;
        client.ask("UNWATCH").await;
        client.ask("BLPOP nothing 1").await;
        let told = shown(world, "SLOWLOG").await;
        assert!(told.contains("\"SET\" \"k\" \"leased\""), "{told}");
        assert!(!told.contains("BLPOP"), "{told}");
    });
}

/// One that is passed on as it comes is not kept, but for its head.
#[test]
fn a_large_request_is_seen_as_others_are() {
    run_with(looking, async |world| {
        let mut client = world.client();
        world.a.once("SET big", Fault::Delay(2 * SLOW));
        client.send_words(&[b"SET", b"big", &vec![b'v'; 1 << 20]]).await;
        assert_eq!(client.reply().await, "+OK");
        let told = shown(world, "SLOWLOG").await;
        let value = format!("\"{}... ({} more bytes)\"", "v".repeat(128), (1 << 20) - 128);
        assert!(told.contains(&format!("\"SET\" \"big\" {value}")), "{told}");
        let told = shown(world, "HOTKEYS").await;
        // `*3`, `$3`, `SET`, `$3`, `big`, `$1048576`, and the value.
        let bytes = 4 + 4 + 5 + 4 + 5 + 10 + (1 << 20) + 2;
        assert!(
            told.contains("key=\"big\"") && told.contains("command=set"),
            "{told}"
        );
        assert!(told.contains(&format!("bytes={bytes}")), "{told}");
    });
}

#[test]
fn hot_keys_and_large_values_are_named() {
    run_with(looking, async |world| {
        world.a.put("large", &vec![b'v'; 1 << 20]);
        let mut client = world.client();
        for _ in 0..20 {
            client.ask("INCR hot").await;
        }
        client.ask("SET other 1").await;
        client.ask("GET large").await;
        client.ask(&format!("SET long {}", "x".repeat(5000))).await;
        let told = shown(world, "HOTKEYS").await;
        let hot = told.find("key=\"hot\"").expect("it is the hottest");
        assert!(hot < told.find("key=\"other\"").unwrap(), "{told}");
        assert!(
            told.contains("command=get") && told.contains("bytes=1048588"),
            "{told}"
        );
        assert!(
            told.contains("command=set") && told.contains("key=\"long\""),
            "{told}"
        );
    });
}

#[test]
fn sampled_commands_are_sent_to_whoever_exports_them_and_a_full_queue_costs_samples_alone() {
    let (sender, mut spans) = mpsc::channel(4);
    let watch = Watch {
        sample: Some(1),
        spans: Some(sender),
        ..Watch::default()
    };
    run_with(
        |settings| settings.watch = watch,
        async |world| {
            let mut client = world.client();
            assert_eq!(client.ask("SET k v").await, "+OK");
            client.ask("INCR n").await;
            for _ in 0..10 {
                assert_eq!(client.ask("GET k").await, "v");
            }
            settle().await;
            let first = spans.try_recv().unwrap();
            assert_eq!((first.command, first.failed), ("set", false));
            assert_eq!((first.request_bytes, first.reply_bytes), (27, 5));
            let second = spans.try_recv().unwrap();
            assert_eq!((second.command, &*second.master), ("incr", "m"));
            assert_eq!(spans.len(), 2);
        },
    );
}

#[test]
fn where_nothing_is_looked_for_it_says_how_to_look() {
    run(async |world| {
        assert!(shown(world, "SLOWLOG").await.contains("--slowlog-threshold"));
        assert!(shown(world, "HOTKEYS").await.contains("--sample-commands"));
    });
}
