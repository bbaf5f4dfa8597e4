//! Who a session is: proven on the node each time, never shared with another, and carried along.

use std::time::Duration;

use proxy_core::{ClientAuth, Settings};
use sentinel_watcher::{Credentials, Secret};
use tokio::time::Instant;

use crate::common::node::Fault;
use crate::common::world::{World, guard, run, run_late, run_with, settle};

pub(crate) const NOAUTH: &str = "-NOAUTH Authentication required.";
const WRONGPASS: &str = "-WRONGPASS invalid username-password pair or user is disabled.";

/// Both nodes know the default user and two more; the proxy has had time to learn it.
pub(crate) async fn with_passwords(world: &World) {
    for node in [&world.a, &world.b] {
        for (user, password) in [("default", "pw"), ("ann", "a1"), ("bob", "b1")] {
            node.require(user, password);
        }
    }
    world.serve(&world.a);
    settle().await;
}

#[test]
fn a_session_is_nobody_until_the_node_has_proven_it() {
    run(async |world| {
        with_passwords(world).await;
        let mut client = world.client();
        assert_eq!(client.ask("INCR n; GET n").await, format!("{NOAUTH} {NOAUTH}"));
        assert_eq!(client.ask("AUTH wrong").await, WRONGPASS);
        assert_eq!(client.ask("INCR n").await, NOAUTH);
        assert_eq!(client.ask("AUTH pw; INCR n").await, "+OK :1");
        assert_eq!(client.ask("AUTH wrong; INCR n").await, format!("{WRONGPASS} :2"));
        assert_eq!(
            client.ask("AUTH ann b1; INCR n; AUTH ann a1; INCR n").await,
            format!("{WRONGPASS} :3 +OK :4")
        );
        assert_eq!(client.ask("RESET; INCR n").await, format!("+RESET {NOAUTH}"));
        let users: Vec<_> = world
            .a
            .executed("INCR n")
            .into_iter()
            .map(|line| line.user)
            .collect();
        assert_eq!(users, ["default", "default", "default", "ann"]);
        // A user who may not PING finds none in the ACL LOG that it has not said.
        let said = world.a.received("");
        assert!(
            said.iter()
                .all(|line| line.user != "ann" || !line.text.eq_ignore_ascii_case("ping"))
        );
    });
}

#[test]
fn the_node_is_asked_for_each_proof() {
    run(async |world| {
        with_passwords(world).await;
        let mut clients: Vec<_> = (0..3).map(|_| world.client()).collect();
        for client in &mut clients {
            assert_eq!(
                client.ask("AUTH ann a1; INCR n").await.split(' ').next(),
                Some("+OK")
            );
        }
        assert!(world.a.received("AUTH ann a1").len() >= 3);
        // Whoever knew yesterday's password is nobody today.
        world.a.require("ann", "a2");
        assert_eq!(world.client().ask("AUTH ann a1").await, WRONGPASS);
        let mut known = world.client();
        assert_eq!(known.ask("AUTH ann a2; GET n").await, "+OK 3");
        // Whoever has said today's is not asked again, though it be another one before the first command.
        let mut first = world.client();
        assert_eq!(first.ask("AUTH bob b1").await, "+OK");
        world.a.require("bob", "b2");
        assert_eq!(first.ask("INCR n").await, ":4");
    });
}

#[test]
fn newcomers_are_asked_for_a_password_that_was_set_meanwhile() {
    let change = [
        "CONFIG SET requirepass pw",
        "ACL SETUSER default on >pw",
        "MULTI; CONFIG SET maxmemory 1 requirepass pw; EXEC",
        "MULTI;; ACL SETUSER default >pw;; EXEC",
        "HELLO 3; SUBSCRIBE c; CONFIG SET requirepass pw",
    ];
    for change in change {
        run_with(
            |settings| settings.workers = 2,
            async |world| {
                world.serve(&world.a);
                settle().await;
                let mut residents: Vec<_> = (0..4).map(|_| world.client()).collect();
                for client in &mut residents {
                    client.ask("INCR n").await;
                }
                let pings = world.a.received("pInG").len();
                let mut operator = world.client();
                for part in change.split(";;") {
                    operator.ask(part.trim()).await;
                }
                // The connection that keeps what was granted is there: SLOWLOG shows the client's commands alone.
                assert_eq!(world.a.received("pInG").len(), pings, "{change}");
                for client in &mut residents {
                    assert_eq!(client.ask("SET k v; CLIENT GETNAME").await, "+OK nil", "{change}");
                }
                for _ in 0..4 {
                    let mut newcomer = world.client();
                    assert_eq!(newcomer.ask("GET k").await, NOAUTH, "{change}");
                    assert_eq!(newcomer.ask("CLIENT ID").await, NOAUTH, "{change}");
                    assert_eq!(newcomer.ask("AUTH pw; GET k").await, "+OK v", "{change}");
                }
                assert_eq!(residents[0].ask("RESET; GET k").await, format!("+RESET {NOAUTH}"));
            },
        );
    }
}

#[test]
fn a_password_that_was_set_past_slipring_is_found_out_while_clients_come() {
    run(async |world| {
        world.serve(&world.a);
        settle().await;
        let mut resident = world.client();
        assert_eq!(resident.ask("SET k v").await, "+OK");
        world.a.require("default", "pw");
        drop(world.client());
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(world.client().ask("GET k").await, NOAUTH);
        assert_eq!(resident.ask("GET k").await, "v");
        world.a.require_nothing();
        let mut newcomer = world.client();
        assert_eq!(newcomer.ask("CLIENT GETNAME; GET k").await, "nil v");
        // Nobody comes, and nothing is asked.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let pings = world.a.received("pInG").len();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(world.a.received("pInG").len(), pings);
    });
}

#[test]
fn two_users_never_share_a_connection() {
    run(async |world| {
        with_passwords(world).await;
        let mut sessions = Vec::new();
        for (user, password) in [
            ("ann", "a1"),
            ("bob", "b1"),
            ("default", "pw"),
            ("ann", "a1"),
            ("bob", "b1"),
        ] {
            let mut client = world.client();
            assert_eq!(client.ask(&format!("AUTH {user} {password}")).await, "+OK");
            sessions.push((user, client));
        }
        let mut nobody = world.client();
        for round in 0..5 {
            for (user, client) in &mut sessions {
                client
                    .send(&format!(
                        "SET {user}:x {round}; WATCH {user}:w; MULTI; SET {user}:y 1; EXEC"
                    ))
                    .await;
            }
            assert_eq!(nobody.ask("SET nobody:x 1").await, NOAUTH);
            for (_, client) in &mut sessions {
                client.replies(5).await;
            }
        }
        let mut users_of = std::collections::BTreeMap::<u64, std::collections::BTreeSet<String>>::new();
        for line in world.a.executed("SET") {
            assert!(line.text.starts_with(&format!("SET {}:", line.user)), "{line:?}");
            users_of.entry(line.connection).or_default().insert(line.user);
        }
        assert!(users_of.values().all(|users| users.len() == 1), "{users_of:?}");
    });
}

#[test]
fn a_wrong_password_costs_nobody_elses_session() {
    run(async |world| {
        with_passwords(world).await;
        let mut right = world.client();
        assert_eq!(right.ask("AUTH pw").await, "+OK");
        let mut wrong = world.client();
        for _ in 0..20 {
            assert_eq!(
                wrong.ask("AUTH nonsense; INCR n").await,
                format!("{WRONGPASS} {NOAUTH}")
            );
        }
        assert_eq!(right.ask("INCR n").await, ":1");
        let mut late = world.client();
        assert_eq!(
            late.ask("INCR n").await,
            NOAUTH,
            "what was proven for one is not lent to another"
        );
    });
}

#[test]
fn a_session_stays_who_it_is_through_a_switch() {
    run(async |world| {
        with_passwords(world).await;
        let mut client = world.client();
        assert_eq!(client.ask("AUTH ann a1; SELECT 3; SET a 1").await, "+OK +OK +OK");
        world.moving();
        client.send("GET a; INCR n; WATCH a; UNWATCH").await;
        settle().await;
        world.switch();
        assert_eq!(client.replies(4).await, "1 :1 +OK +OK");
        for prefix in ["INCR n", "WATCH a"] {
            let line = &world.b.executed(prefix)[0];
            assert_eq!((&*line.user, line.db), ("ann", 3));
        }
    });
}

#[test]
fn a_user_that_the_new_primary_does_not_know_loses_its_session() {
    run(async |world| {
        with_passwords(world).await;
        let mut client = world.client();
        assert_eq!(client.ask("AUTH ann a1; INCR n").await, "+OK :1");
        world.b.require("ann", "other");
        world.switch();
        assert!(client.ask("INCR n").await.starts_with("-WRONGPASS"));
        assert_eq!(world.b.executed("INCR n").len(), 0);
        client.is_closed().await;
    });
}

#[test]
fn a_deleted_users_sessions_end_with_their_connection_and_nobody_elses_do() {
    run_with(
        |settings| settings.workers = 2,
        async |world| {
            with_passwords(world).await;
            let mut clients = Vec::new();
            for _ in 0..4 {
                clients.push(world.client());
                settle().await;
            }
            for (client, auth) in clients.iter_mut().zip(["ann a1", "ann a1", "bob b1", "bob b1"]) {
                assert_eq!(client.ask(&format!("AUTH {auth}; PING")).await, "+OK +PONG");
            }
            // The node cuts them; another user of that name is not who they are.
            world.a.require("ann", "a2");
            world.a.cut();
            for client in clients.drain(..2) {
                let mut client = client;
                client.is_closed().await;
            }
            for client in &mut clients {
                assert_eq!(client.ask("PING").await, "+PONG");
            }
            let mut again = world.client();
            assert_eq!(again.ask("AUTH ann a2; PING").await, "+OK +PONG");
        },
    );
}

#[test]
fn a_user_that_is_made_anew_is_not_the_one_who_was_deleted() {
    run(async |world| {
        with_passwords(world).await;
        let mut former = world.client();
        assert_eq!(former.ask("AUTH ann a1; INCR n").await, "+OK :1");
        world.a.require("ann", "a2");
        world.a.cut();
        // The node has refused the former; nobody has been sent away for it yet.
        settle().await;
        world.a.require("ann", "a1");
        let mut anew = world.client();
        assert_eq!(anew.ask("AUTH ann a1; INCR n").await, "+OK :2");
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(anew.ask("INCR n").await, ":3");
    });
}

#[test]
fn a_connection_is_what_it_is_to_be_after_one_round_trip() {
    let (there, back) = (Duration::from_millis(10), Duration::from_millis(20));
    // Who may select the database only himself does so in one more.
    for (who, round_trips) in [
        ("SELECT 3", 1),
        ("AUTH ann a1", 1),
        ("AUTH ann a1; HELLO 3", 1),
        ("AUTH ann a1; SELECT 3", 2),
        ("AUTH ann a1; SELECT 3; AUTH bob b1", 1),
    ] {
        run(async |world| {
            if who.contains("AUTH") {
                with_passwords(world).await;
            }
            let mut client = world.client();
            client.ask(&format!("{who}; PING")).await;
            world.a.latency(there, back);
            let sent = Instant::now();
            assert_eq!(client.ask("BLPOP q 0.1").await, "nil", "{who}");
            let came = world.a.received("BLPOP")[0].at.duration_since(sent);
            assert_eq!(came, round_trips * (there + back) + there, "{who}");
            world.a.latency(Duration::ZERO, Duration::ZERO);
        });
    }
}

#[test]
fn nothing_is_asked_on_a_connection_of_which_any_part_was_refused() {
    run(async |world| {
        let mut client = world.client();
        assert_eq!(client.ask("SELECT 3; GET a").await, "+OK nil");
        world
            .a
            .once("sElEcT", Fault::Answer("-ERR DB index is out of range\r\n"));
        assert_eq!(client.ask("BLPOP q 0.1").await, "-ERR DB index is out of range");
        assert_eq!(world.a.received("BLPOP").len(), 0);
        assert_eq!(client.ask("BLPOP q 0.1; GET a").await, "nil nil");
    });
}

#[test]
fn databases_are_apart() {
    run(async |world| {
        let (mut one, mut two) = (world.client(), world.client());
        assert_eq!(
            one.ask("SET a zero; SELECT 1; SET a one; SELECT 2; GET a").await,
            "+OK +OK +OK +OK nil"
        );
        assert_eq!(two.ask("GET a; SELECT 1; GET a").await, "zero +OK one");
        assert_eq!(one.ask("SELECT 0; GET a").await, "+OK zero");
        let out_of_range = "-ERR DB index is out of range";
        assert_eq!(one.ask("SELECT 99; GET a").await, format!("{out_of_range} zero"));
        assert!(one.ask("SELECT x").await.starts_with("-ERR"));
        assert_eq!(
            one.ask("SELECT 1; WATCH a; MULTI; INCR n; EXEC").await,
            "+OK +OK +OK +QUEUED [:1]"
        );
        assert_eq!(two.ask("GET n; SELECT 0; GET n").await, "1 +OK nil");
        for line in world.a.executed("SET a") {
            let db = if line.text == "SET a zero" { 0 } else { 1 };
            assert_eq!(line.db, db);
        }
    });
}

#[test]
fn databases_that_do_not_exist_leave_nothing_behind() {
    run(async |world| {
        let mut client = world.client();
        assert_eq!(client.ask("GET a").await, "nil");
        settle().await;
        let open = world.a.open();
        for db in 100..150 {
            assert_eq!(
                client.ask(&format!("SELECT {db}")).await,
                "-ERR DB index is out of range"
            );
        }
        settle().await;
        assert!(world.a.open() <= open + 1, "{} connections", world.a.open());
    });
}

#[test]
fn versions_of_the_protocol_are_apart() {
    run(async |world| {
        let (mut two, mut three) = (world.client(), world.client());
        assert!(three.ask("HELLO 3").await.starts_with("%["));
        two.send("GET x").await;
        three.send("GET x").await;
        assert_eq!(two.frame().await, &b"$-1\r\n"[..]);
        assert_eq!(three.frame().await, &b"_\r\n"[..]);
        assert!(three.ask("HELLO 2").await.starts_with("[server"));
        three.send("GET x").await;
        assert_eq!(three.frame().await, &b"$-1\r\n"[..]);
    });
}

#[test]
fn each_session_has_an_id_of_its_own() {
    run(async |world| {
        let (mut one, mut two) = (world.client(), world.client());
        let (id, other) = (one.ask("CLIENT ID").await, two.ask("CLIENT ID").await);
        assert_ne!(id, other);
        assert!(one.ask("HELLO 3").await.ends_with(&format!("id {id}]")));
    });
}

#[test]
fn each_hello_is_the_nodes_of_now() {
    const RENAMED: &str = "%2\r\n$6\r\nserver\r\n$6\r\nvalkey\r\n$2\r\nid\r\n:1\r\n";
    run(async |world| {
        let (mut one, mut two) = (world.client(), world.client());
        assert!(one.ask("HELLO 3").await.contains("server redis"));
        world.a.once("hElLo 3", Fault::Answer(RENAMED));
        assert!(two.ask("HELLO 3").await.contains("server valkey"));
        assert!(one.ask("HELLO").await.contains("server redis"));
        // Where nothing comes through, what it said last is better than nothing.
        world.a.once("hElLo 3", Fault::Hang);
        assert!(two.ask("HELLO 3").await.contains("server redis"));
    });
}

#[test]
fn nobody_may_send_more_than_a_redis_would_read_of_nobody() {
    run(async |world| {
        with_passwords(world).await;
        let mut client = world.client();
        client.send_bytes(b"*11\r\n").await;
        let reply = client.reply().await;
        assert_eq!(reply, "-ERR Protocol error: unauthenticated multibulk length");
        client.is_closed().await;
    });
}

#[test]
fn a_proxy_with_a_password_of_its_own_asks_for_that() {
    let own = |settings: &mut Settings| {
        guard(settings, b"door");
        settings.node_credentials = Some(Credentials {
            username: Some(b"ann"[..].into()),
            password: Secret::new(b"a1"),
        });
    };
    run_with(own, async |world| {
        with_passwords(world).await;
        let mut client = world.client();
        assert_eq!(
            client.ask("INCR n; SUBSCRIBE s; MULTI").await,
            [NOAUTH; 3].join(" ")
        );
        assert_eq!(
            client.ask("AUTH a1; INCR n").await,
            format!("{WRONGPASS} {NOAUTH}")
        );
        assert_eq!(client.ask("AUTH door; INCR n").await, "+OK :1");
        assert_eq!(world.a.executed("INCR n")[0].user, "ann");
        assert_eq!(client.ask("RESET; INCR n").await, format!("+RESET {NOAUTH}"));
        assert_eq!(
            world.a.received("AUTH door").len(),
            0,
            "the door's password is not the nodes' affair"
        );
    });
}

#[test]
fn a_proxy_that_asks_nobody_runs_sessions_as_its_own_user() {
    let own = |settings: &mut Settings| {
        settings.client_auth = ClientAuth::None;
        settings.node_credentials = Some(Credentials {
            username: None,
            password: Secret::new(b"pw"),
        });
    };
    run_with(own, async |world| {
        with_passwords(world).await;
        let mut client = world.client();
        assert_eq!(
            client.ask("INCR n; WATCH w; UNWATCH; SELECT 1; GET n").await,
            ":1 +OK +OK +OK nil"
        );
        assert!(
            client
                .ask("AUTH x")
                .await
                .starts_with("-ERR AUTH <password> called without any password")
        );
        for prefix in ["INCR", "WATCH", "GET"] {
            assert!(
                world.a.executed(prefix).iter().all(|line| line.user == "default"),
                "{prefix}"
            );
        }
    });
}

#[test]
fn nobody_may_send_more_even_if_the_topology_was_known_before_the_start() {
    run_late(
        |world| world.a.require("default", "pw"),
        async |world| {
            let mut client = world.client();
            client.send_bytes(b"*11\r\n").await;
            assert_eq!(
                client.reply().await,
                "-ERR Protocol error: unauthenticated multibulk length"
            );
            client.is_closed().await;
        },
    );
}
