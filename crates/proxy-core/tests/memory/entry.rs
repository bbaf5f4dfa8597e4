//! Who may enter, and what those hear who may not.

use proxy_core::{ClientAuth, PasswordHash, Settings, User};
use sentinel_watcher::{Credentials, Secret};

use crate::common::world::{HOLD, World, guard, run_late, run_with, settle};

const ELSEWHERE: &str = "192.0.2.1";

const WRONGPASS: &str = "-WRONGPASS invalid username-password pair or user is disabled.";

/// The refusal that a client from elsewhere hears before its connection ends.
async fn refused(world: &World, start: &str, reason: &str) {
    let before = world.metric("slipring_clients_refused_total", reason);
    let mut client = world.client_from(ELSEWHERE);
    let reply = client.reply().await;
    assert!(reply.starts_with(start), "{reply}");
    client.is_closed().await;
    assert_eq!(
        world.metric("slipring_clients_refused_total", reason),
        before + 1.0
    );
}

#[test]
fn whoever_comes_from_the_network_needs_a_password_somewhere() {
    run_late(
        |_| {},
        async |world| {
            settle().await;
            refused(world, "-DENIED Redis is running in protected mode", "protected").await;
            assert_eq!(world.client().ask("PING").await, "+PONG", "this machine may");
            // From here on the nodes ask for a password.
            for node in [&world.a, &world.b] {
                node.require("default", "pw");
            }
            world.switch();
            settle().await;
            assert_eq!(
                world.client_from(ELSEWHERE).ask("GET n; AUTH pw; INCR n").await,
                "-NOAUTH Authentication required. +OK :1"
            );
        },
    );
}

#[test]
fn an_open_door_is_an_order() {
    run_with(
        |settings| settings.entry.protected_mode = false,
        async |world| assert_eq!(world.client_from(ELSEWHERE).ask("INCR n").await, ":1"),
    );
    let guarded = |settings: &mut Settings| guard(settings, b"door");
    run_with(guarded, async |world| {
        assert_eq!(
            world.client_from(ELSEWHERE).ask("AUTH door; INCR n").await,
            "+OK :1"
        );
    });
}

#[test]
fn nobody_is_let_in_before_the_nodes_have_said_whether_they_ask() {
    run_late(
        |world| world.a.freeze(),
        async |world| {
            let mut client = world.client_from(ELSEWHERE);
            client.send("INCR n").await;
            settle().await;
            world.a.thaw();
            let reply = client.reply().await;
            assert!(reply.starts_with("-DENIED"), "{reply}");
            assert_eq!(world.a.executed("INCR n").len(), 0);
        },
    );
    run_late(
        |world| world.a.freeze(),
        async |world| {
            let mut client = world.client_from(ELSEWHERE);
            tokio::time::sleep(HOLD * 2).await;
            let reply = client.reply().await;
            assert!(reply.starts_with("-MASTERDOWN no primary"), "{reply}");
            client.is_closed().await;
        },
    );
}

#[test]
fn each_user_of_the_proxy_is_its_own_user_to_the_nodes() {
    let credentials = |name: &str, password: &str| Credentials {
        username: Some(name.as_bytes().into()),
        password: Secret::new(password.as_bytes()),
    };
    let users = |settings: &mut Settings| {
        settings.client_auth = ClientAuth::Proxy;
        settings.node_credentials = Some(credentials("ann", "a1"));
        settings.admin_users = vec!["web".to_owned()];
        let mut add = |name: &[u8], passwords: &[&[u8]], node| {
            let passwords = passwords
                .iter()
                .map(|password| PasswordHash::of(password))
                .collect();
            assert!(settings.entry.users.add(name, User { passwords, node }));
        };
        add(b"web", &[b"old", b"new"], None);
        add(b"jobs", &[b"j"], Some(credentials("bob", "b1")));
    };
    run_with(users, async |world| {
        for node in [&world.a, &world.b] {
            node.require("ann", "a1");
            node.require("bob", "b1");
        }
        let mut client = world.client_from(ELSEWHERE);
        assert_eq!(client.ask("AUTH old; AUTH web j").await, [WRONGPASS; 2].join(" "));
        assert_eq!(
            client.ask("AUTH web old; INCR n; AUTH web new; INCR n").await,
            "+OK :1 +OK :2"
        );
        // (Nobody steers this world.)
        assert_eq!(
            client.ask("PROXY RESUME").await,
            "-ERR the watcher does not take orders now"
        );
        assert_eq!(client.ask("AUTH jobs j; INCR n").await, "+OK :3");
        assert!(client.ask("PROXY RESUME").await.starts_with("-NOPERM"));
        let line = client.ask("CLIENT INFO").await;
        assert!(line.contains(" user=jobs "), "{line}");
        let users: Vec<_> = world
            .a
            .executed("INCR n")
            .into_iter()
            .map(|line| line.user)
            .collect();
        assert_eq!(users, ["ann", "ann", "bob"]);
        // A connection of one's own is one user's for as long as it lasts.
        client.ask("HELLO 3; SUBSCRIBE c").await;
        let refusal = client.ask("AUTH web old").await;
        assert!(
            refusal.starts_with("-ERR slipring does not support AUTH as a user"),
            "{refusal}"
        );
        assert_eq!(
            client.ask("AUTH jobs j; AUTH jobs x").await,
            format!("+OK {WRONGPASS}")
        );
        assert_eq!(
            client.ask("RESET; GET n").await,
            "+RESET -NOAUTH Authentication required."
        );
    });
}

#[test]
fn addresses_are_told_apart_and_each_has_its_share() {
    let limits = |settings: &mut Settings| {
        settings.entry.protected_mode = false;
        settings.entry.allow = vec!["192.0.2.0/24".parse().unwrap(), "127.0.0.1/32".parse().unwrap()];
        settings.entry.max_clients_per_ip = Some(2);
        settings.entry.accept_rate_per_ip = Some(4);
        settings.workers = 2;
    };
    run_with(limits, async |world| {
        let mut clients = [world.client_from(ELSEWHERE), world.client_from(ELSEWHERE)];
        for client in &mut clients {
            assert_eq!(client.ask("PING").await, "+PONG");
        }
        let why = "-ERR max number of clients of this address reached (--max-clients-per-ip)";
        refused(world, why, "per_ip").await;
        assert_eq!(world.client_from("192.0.2.2").ask("PING").await, "+PONG");
        drop(clients);
        settle().await;
        let mut outcomes = Vec::new();
        for _ in 0..6 {
            outcomes.push(world.client_from(ELSEWHERE).ask("PING").await);
            settle().await;
        }
        let fast = outcomes
            .iter()
            .filter(|reply| reply.starts_with("-ERR clients of this address"))
            .count();
        assert!((3..=4).contains(&fast), "{outcomes:?}");
        assert_eq!(
            world.client().ask("PING").await,
            "+PONG",
            "others are not concerned"
        );
        let mut stranger = world.client_from("198.51.100.1");
        let reply = stranger.reply().await;
        assert_eq!(
            reply,
            "-DENIED clients may not connect from this address (--allow-cidr)"
        );
        stranger.is_closed().await;
        assert_eq!(world.metric("slipring_clients_refused_total", "address"), 1.0);
    });
}
