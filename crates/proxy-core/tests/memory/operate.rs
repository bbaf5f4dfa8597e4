//! What operators order: nobody else may notice.

use std::time::Duration;

use proxy_core::{ClientAuth, PasswordHash, ReadPolicy, Settings, User};
use tokio::time::sleep;

use crate::common::world::{run, run_with, settle};

#[test]
fn reconnecting_loses_nothing_and_keeps_the_order() {
    run(async |world| {
        let (mut operator, mut client) = (world.client(), world.client());
        assert_eq!(client.ask("INCR n").await, ":1");
        let opened = world.a.opened();
        world.a.freeze();
        client.send("INCR n; INCR n").await;
        settle().await;
        assert_eq!(operator.ask("PROXY RECONNECT").await, "[+OK]");
        client.send("INCR n; GET n").await;
        settle().await;
        world.a.thaw();
        for expected in [":2", ":3", ":4", "4"] {
            assert_eq!(client.reply().await, expected);
        }
        assert_eq!(world.a.executed("INCR n").len(), 4);
        assert!(world.a.opened() > opened, "new connections");
        // Until the next look at what is leaving.
        sleep(Duration::from_millis(200)).await;
        let pools = operator.ask("PROXY SHOW POOLS").await;
        assert!(
            pools.contains("node=a:6379 role=primary user=nobody db=0"),
            "{pools}"
        );
        assert!(pools.contains("shared=1 leaving=0"), "{pools}");
    });
}

#[test]
fn clients_are_seen_and_killed() {
    run(async |world| {
        let (mut operator, mut other) = (world.client(), world.client());
        assert_eq!(operator.ask("PING").await, "+PONG");
        assert_eq!(other.ask("PING").await, "+PONG");
        let stats = operator.ask("PROXY SHOW STATS").await;
        assert!(
            stats.contains("+clients 2 ") && stats.contains("+session_panics_total 0"),
            "{stats}"
        );
        assert!(!stats.contains("upgraded"), "{stats}");
        let passage = world.handle().passage();
        passage.comes_from(7);
        passage.goes_to(8);
        let stats = operator.ask("PROXY SHOW STATS").await;
        let kin = "[+upgraded_from process=7 taken=0 +upgraded_to process=8 moved=0 left=2";
        assert!(stats.replace(',', "").starts_with(kin), "{stats}");
        passage.stay().await;
        let stats = operator.ask("PROXY SHOW STATS").await;
        assert!(!stats.contains("upgraded_to"), "it came to nothing: {stats}");
        assert!(operator.ask("PROXY KILL").await.starts_with("-ERR"));
        assert!(operator.ask("PROXY KILL m COLOUR red").await.starts_with("-ERR"));
        assert_eq!(operator.ask("PROXY KILL m TYPE normal").await, "[+OK, 1 closed]");
        settle().await;
        assert_eq!(world.handle().clients(), 1, "whoever asked stays");
    });
}

#[test]
fn a_drain_goes_in_slices() {
    run(async |world| {
        let mut clients: Vec<_> = (0..200).map(|_| world.client()).collect();
        for client in &mut clients {
            assert_eq!(client.ask("PING").await, "+PONG");
        }
        world.handle().drain();
        settle().await;
        assert_eq!(world.handle().clients(), 150);
        sleep(Duration::from_secs(2)).await;
        assert_eq!(world.handle().clients(), 0);
    });
}

#[test]
fn a_reload_concerns_whom_it_names_and_nobody_else() {
    let knowing = |names: &[&str], password: &[u8], settings: &mut Settings| {
        settings.client_auth = ClientAuth::Proxy;
        for name in names {
            let passwords = vec![PasswordHash::of(password)];
            assert!(settings.entry.users.add(
                name.as_bytes(),
                User {
                    passwords,
                    node: None
                }
            ));
        }
    };
    let both = |settings: &mut Settings| knowing(&["ann", "bob"], b"old", settings);
    run_with(both, async |world| {
        let (mut ann, mut bob) = (world.client(), world.client());
        assert_eq!(ann.ask("AUTH ann old; INCR n").await, "+OK :1");
        assert_eq!(bob.ask("AUTH bob old; INCR n").await, "+OK :2");
        let mut settings = Settings::default();
        knowing(&["ann"], b"new", &mut settings);
        settings.entry.max_clients_per_ip = Some(2);
        settings.idle_timeout = Duration::from_secs(3);
        world
            .handle()
            .reload(settings, vec![ReadPolicy::Primary; 4])
            .await;
        bob.is_closed().await;
        assert_eq!(world.metric("slipring_clients_closed_total", "revoked"), 1.0);
        assert_eq!(ann.ask("INCR n").await, ":3", "who is in stays in");
        let mut newcomer = world.client();
        let told = newcomer
            .ask("AUTH ann old; AUTH bob old; AUTH ann new; INCR n")
            .await;
        assert!(
            told.starts_with("-WRONGPASS") && told.ends_with("+OK :4"),
            "{told}"
        );
        let refusal = world.client().reply().await;
        assert!(
            refusal.starts_with("-ERR max number of clients of this address"),
            "{refusal}"
        );
        ann.is_closed().await;
        assert!(world.metric("slipring_clients_closed_total", "idle") >= 1.0);
    });
}
