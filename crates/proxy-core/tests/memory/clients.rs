//! CLIENT means this proxy's clients, whichever worker serves them.

use crate::common::node::Fault;
use crate::common::world::{World, run, run_late, run_with, settle};
use testkit::sim::client::Client;

/// The client's own id.
async fn id_of(client: &mut Client) -> String {
    client.ask("CLIENT ID").await.trim_start_matches(':').to_owned()
}

/// Four clients, let in one by one.
async fn four(world: &World) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(world.client());
        settle().await;
    }
    clients
}

/// Two clients on each of two workers.
const WORKERS: usize = 2;

/// The value of `field` in a line of CLIENT LIST.
fn field<'a>(line: &'a str, name: &str) -> &'a str {
    line.split(' ')
        .find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
        .unwrap_or_else(|| panic!("no {name} in {line}"))
}

#[test]
fn the_list_shows_the_clients_of_all_workers_in_the_order_of_their_ids() {
    run_with(
        |settings| settings.workers = WORKERS,
        async |world| {
            let mut clients = four(world).await;
            let mut ids = Vec::new();
            for (at, client) in clients.iter_mut().enumerate() {
                assert_eq!(client.ask(&format!("CLIENT SETNAME c{at}")).await, "+OK");
                ids.push(id_of(client).await);
            }
            assert_eq!(clients[1].ask("SELECT 3").await, "+OK");
            assert_eq!(clients[1].ask("GET x").await, "nil");
            let list = clients[0].ask("CLIENT LIST").await;
            let lines: Vec<_> = list.lines().collect();
            let shown = |name| lines.iter().map(|line| field(line, name)).collect::<Vec<_>>();
            assert_eq!(shown("name"), ["c0", "c1", "c2", "c3"]);
            assert_eq!(shown("id"), ids);
            assert_eq!(shown("db"), ["0", "3", "0", "0"]);
            assert_eq!(shown("cmd"), ["client|list", "get", "client|id", "client|id"]);
            assert_eq!(shown("user"), ["default"; 4]);
        },
    );
}

#[test]
fn a_kill_reaches_the_clients_of_all_workers_and_itself_last() {
    run_with(
        |settings| settings.workers = WORKERS,
        async |world| {
            let mut clients = four(world).await;
            for client in &mut clients {
                assert_eq!(client.ask("PING").await, "+PONG");
            }
            let id = id_of(&mut clients[3]).await;
            assert_eq!(clients[0].ask(&format!("CLIENT KILL ID {id}")).await, ":1");
            clients.pop().expect("the fourth").is_closed().await;
            assert_eq!(
                clients[0].ask("CLIENT KILL 10.0.0.1:1").await,
                "-ERR No such client"
            );
            let list = clients[0].ask("CLIENT LIST").await;
            let address = field(list.lines().nth(1).expect("three lines"), "addr").to_owned();
            assert_eq!(clients[0].ask(&format!("CLIENT KILL {address}")).await, "+OK");
            clients.remove(1).is_closed().await;
            assert_eq!(clients[0].ask("CLIENT KILL TYPE normal SKIPME no").await, ":2");
            for mut client in clients {
                client.is_closed().await;
            }
        },
    );
}

#[test]
fn a_killed_client_takes_its_blocked_command_with_it() {
    run_with(
        |settings| settings.workers = WORKERS,
        async |world| {
            let (mut blocked, mut other) = (world.client(), world.client());
            let id = id_of(&mut blocked).await;
            blocked.send("BLPOP l 0").await;
            settle().await;
            assert_eq!(world.a.blocked(), 1);
            let list = other.ask(&format!("CLIENT LIST ID {id}")).await;
            assert_eq!((field(&list, "flags"), field(&list, "cmd")), ("b", "blpop"));
            assert_eq!(other.ask(&format!("CLIENT KILL ID {id}")).await, ":1");
            blocked.is_closed().await;
            settle().await;
            assert_eq!(world.a.blocked(), 0);
            assert_eq!(other.ask("RPUSH l a").await, ":1");
            assert_eq!(world.a.list("l"), ["a"]);
        },
    );
}

/// As on Redis: a buffer of 16 KiB, blocks behind that, and the requests that nobody has looked at.
#[test]
fn what_waits_for_a_client_and_behind_it_is_shown() {
    const BUFFER: usize = 16 << 10;
    let line = "$51\r\nid=3 qbuf=26 obl=0 oll=0 omem=0 tot-mem=0 events=r\n\r\n";
    let prepare = |world: &World| world.a.once("cLiEnT INFO", Fault::Answer(line));
    run_late(prepare, async |world| {
        world.a.put("x", &[b'v'; 100_000]);
        let (mut slow, mut other) = (world.narrow_client(1000), world.client());
        let id = id_of(&mut slow).await;
        slow.send("GET x; BLPOP l 0").await;
        settle().await;
        slow.send_bytes(&b"*1\r\n$4\r\nPING\r\n".repeat(10_000)).await;
        settle().await;
        let line = other.ask(&format!("CLIENT LIST ID {id}")).await;
        let number = |name| field(line.trim_end(), name).parse::<usize>().unwrap();
        let (kept, past) = (number("qbuf"), number("omem"));
        assert_eq!((number("obl"), field(line.trim_end(), "events")), (BUFFER, "rw"));
        let unread = 100_000 - BUFFER;
        assert!((unread - 2000..unread).contains(&past), "{line}");
        assert_eq!(number("oll"), past.div_ceil(BUFFER));
        assert_eq!(kept, 140_000, "{line}");
        assert!(number("tot-mem") > BUFFER + past + kept, "{line}");
    });
}

#[test]
fn a_blocked_client_is_unblocked_by_its_own_id() {
    run_with(
        |settings| settings.workers = WORKERS,
        async |world| {
            let (mut blocked, mut other) = (world.client(), world.client());
            let id = id_of(&mut blocked).await;
            let unblock = |way| format!("CLIENT UNBLOCK {id} {way}");
            assert_eq!(other.ask(&unblock("TIMEOUT")).await, ":0");
            blocked.send("BLPOP l 0").await;
            settle().await;
            assert_eq!(other.ask(&unblock("TIMEOUT")).await, ":1");
            assert_eq!(blocked.reply().await, "nil");
            blocked.send("BLPOP l 0").await;
            settle().await;
            assert_eq!(other.ask(&unblock("ERROR")).await, ":1");
            assert_eq!(
                blocked.reply().await,
                "-UNBLOCKED client unblocked via CLIENT UNBLOCK"
            );
            assert_eq!(other.ask(&unblock("ERROR")).await, ":0");
            assert_eq!(other.ask("CLIENT UNBLOCK 999").await, ":0");
        },
    );
}

#[test]
fn a_blocked_client_that_is_subscribed_is_unblocked_too() {
    run(async |world| {
        let (mut blocked, mut other) = (world.client(), world.client());
        let id = id_of(&mut blocked).await;
        blocked.ask("HELLO 3").await;
        blocked.ask("SUBSCRIBE s").await;
        let unblock = format!("CLIENT UNBLOCK {id} ERROR");
        assert_eq!(other.ask(&unblock).await, ":0");
        for _ in 0..2 {
            blocked.send("BLPOP l 0").await;
            settle().await;
            assert_eq!(other.ask(&unblock).await, ":1");
            let unblocked = "-UNBLOCKED client unblocked via CLIENT UNBLOCK";
            assert_eq!(blocked.reply().await, unblocked);
            assert_eq!(other.ask(&unblock).await, ":0");
        }
        blocked.send("BLPOP l 0").await;
        settle().await;
        world.switch();
        settle().await;
        assert_eq!(other.ask(&unblock).await, ":1", "where it waits now");
    });
}

#[test]
fn a_client_is_what_it_has_become() {
    run_with(
        |settings| settings.workers = WORKERS,
        async |world| {
            let (mut client, mut other) = (world.client(), world.client());
            let id = id_of(&mut client).await;
            let mut check = async |name: &str, expected: &str| {
                let line = other.ask(&format!("CLIENT LIST ID {id}")).await;
                assert_eq!(field(&line, name), expected, "{line}");
            };
            client.ask("MULTI").await;
            client.ask("PING").await;
            check("flags", "x").await;
            check("multi", "1").await;
            client.ask("EXEC").await;
            check("flags", "N").await;
            check("multi", "-1").await;
            client.ask("SUBSCRIBE a").await;
            check("flags", "P").await;
            check("sub", "1").await;
            client.ask("UNSUBSCRIBE a").await;
            check("flags", "N").await;
            client.ask("CLIENT SETNAME n").await;
            client.ask("SELECT 2").await;
            check("name", "n").await;
            check("db", "2").await;
            client.ask("RESET").await;
            check("name", "").await;
            check("db", "0").await;
        },
    );
}

#[test]
fn what_the_node_does_not_allow_is_not_done() {
    run_with(
        |settings| settings.workers = WORKERS,
        async |world| {
            world.a.require("default", "pw");
            world.a.require("alice", "secret");
            let (mut nobody, mut alice) = (world.client(), world.client());
            assert_eq!(alice.ask("AUTH alice secret").await, "+OK");
            for line in [
                "CLIENT KILL SKIPME yes",
                "CLIENT LIST",
                "CLIENT INFO",
                "CLIENT SETNAME x",
            ] {
                let reply = nobody.ask(line).await;
                assert!(reply.starts_with("-NOAUTH"), "{line}: {reply}");
            }
            let list = alice.ask("CLIENT LIST").await;
            let users: Vec<_> = list.lines().map(|line| field(line, "user")).collect();
            assert_eq!(users, ["default", "alice"]);
            assert_eq!(alice.ask("CLIENT KILL USER default").await, ":1");
            nobody.is_closed().await;
        },
    );
}

#[test]
fn replies_are_kept_back_for_as_long_as_the_client_wants() {
    run_with(
        |settings| settings.workers = WORKERS,
        async |world| {
            let mut client = world.client();
            client
                .send_bytes(
                    b"CLIENT REPLY OFF\r\nSET a 1\r\nGET a\r\nNONSENSE\r\nCLIENT REPLY ON\r\nGET a\r\n",
                )
                .await;
            assert_eq!(client.replies(2).await, "+OK 1");
            client
                .send_bytes(b"CLIENT REPLY SKIP\r\nGET a\r\nGET b\r\n")
                .await;
            assert_eq!(client.reply().await, "nil");
            client
                .send_bytes(b"CLIENT REPLY SKIP\r\nCLIENT REPLY SKIP\r\nGET b\r\nGET a\r\n")
                .await;
            assert_eq!(client.reply().await, "1");
            client
                .send_bytes(b"CLIENT REPLY SKIP\r\nCLIENT REPLY ON\r\n")
                .await;
            assert_eq!(client.reply().await, "+OK");
            client
                .send_bytes(b"CLIENT REPLY SKIP\r\nMULTI\r\nGET a\r\nEXEC\r\n")
                .await;
            assert_eq!(client.replies(2).await, "+QUEUED [1]");
            client
                .send_bytes(b"CLIENT REPLY OFF\r\nMULTI\r\nGET a\r\nEXEC\r\nRESET\r\n")
                .await;
            assert_eq!(client.reply().await, "+RESET");
        },
    );
}

#[test]
fn what_is_published_reaches_a_client_that_wants_no_replies() {
    run_with(
        |settings| settings.workers = WORKERS,
        async |world| {
            let (mut client, mut other) = (world.client(), world.client());
            client
                .send_bytes(b"CLIENT REPLY OFF\r\nGET a\r\nSUBSCRIBE c\r\n")
                .await;
            assert_eq!(client.reply().await, "[subscribe c :1]");
            assert_eq!(other.ask("PUBLISH c m").await, ":1");
            assert_eq!(client.reply().await, "[message c m]");
        },
    );
}

/// The node's statistics are to show what clients have asked, and nothing more.
#[test]
fn the_fields_of_a_list_are_known_before_anybody_asks() {
    run(async |world| {
        let (mut two, mut three) = (world.client(), world.client());
        settle().await;
        assert_eq!(world.a.received("cLiEnT INFO").len(), 1);
        assert!(two.ask("CLIENT LIST").await.contains(" cmd=client|list "));
        assert!(two.ask("SELECT 1; CLIENT LIST").await.contains(" db=1 "));
        three.ask("HELLO 3").await;
        assert!(three.ask("CLIENT LIST").await.contains(" resp=3"));
        assert_eq!(world.a.received("cLiEnT INFO").len(), 1);
    });
}

#[test]
fn a_pause_sends_what_may_be_postponed_over_leases() {
    run_with(
        |settings| settings.workers = WORKERS,
        async |world| {
            let (mut client, mut other) = (world.client(), world.client());
            assert_eq!(
                (client.ask("SET a 1").await, other.ask("SET a 1").await),
                ("+OK".into(), "+OK".into())
            );
            assert_eq!(client.ask("CLIENT PAUSE 10000 WRITE").await, "+OK");
            let opened = world.a.opened();
            assert_eq!(other.ask("GET a").await, "1");
            assert_eq!(world.a.opened(), opened);
            assert_eq!(other.ask("SET a 2").await, "+OK");
            assert_eq!(other.ask("MULTI; SET a 3; EXEC").await, "+OK +QUEUED [+OK]");
            let leased = world.a.opened();
            assert!(leased > opened, "a write shared a connection");
            assert_eq!(client.ask("CLIENT UNPAUSE").await, "+OK");
            assert_eq!(other.ask("SET a 4").await, "+OK");
            assert_eq!(
                client.ask("CLIENT PAUSE 10000 WRITE; CLIENT PAUSE 1").await,
                "+OK +OK"
            );
            settle().await;
            assert_eq!(other.ask("GET a").await, "4");
            let reads = world.a.received("GET a");
            assert_ne!(
                reads[0].connection, reads[1].connection,
                "a pause ends no earlier for another, and postpones no less"
            );
            assert_eq!(client.ask("CLIENT UNPAUSE").await, "+OK");
            assert_eq!(
                client.ask("CLIENT PAUSE nonsense").await,
                "-ERR timeout is not an integer or out of range"
            );
        },
    );
}

#[test]
fn inside_multi_it_means_the_same() {
    run_with(
        |settings| settings.workers = WORKERS,
        async |world| {
            let (mut client, mut other) = (world.client(), world.client());
            settle().await;
            let (id, victim) = (id_of(&mut client).await, id_of(&mut other).await);
            let lines = format!(
                "MULTI; CLIENT ID; CLIENT SETNAME n; CLIENT GETNAME; CLIENT KILL ID {victim}; CLIENT KILL 1.1.1.1:1; EXEC"
            );
            let queued = "+QUEUED ".repeat(5);
            assert_eq!(
                client.ask(&lines).await,
                format!("+OK {queued}[:{id} +OK n :1 -ERR No such client]")
            );
            other.is_closed().await;
            // Redis announces the elements before it leaves them out: the next replies stand in for them.
            client
                .send_bytes(b"MULTI\r\nPING\r\nCLIENT REPLY SKIP\r\nEXEC\r\nGET a\r\nGET b\r\n")
                .await;
            assert_eq!(client.replies(4).await, "+OK +QUEUED +QUEUED [+PONG nil]");
            client
                .send_bytes(
                    b"MULTI\r\nCLIENT REPLY OFF\r\nPING\r\nEXEC\r\nGET a\r\nCLIENT REPLY ON\r\nECHO x\r\n",
                )
                .await;
            assert_eq!(client.replies(4).await, "+OK +QUEUED +QUEUED [+OK x]");
        },
    );
}

#[test]
fn a_client_that_replicates_is_a_replica() {
    run(async |world| {
        let (mut replica, mut other) = (world.client(), world.client());
        world.a.once("SYNC", Fault::Answer("$1\r\nx\r\n"));
        assert_eq!(replica.ask("SYNC").await, "x");
        let listed = other.ask("CLIENT LIST TYPE replica").await;
        assert!(listed.contains(" flags=S "), "{listed}");
        assert_eq!(
            other.ask("CLIENT LIST TYPE master; CLIENT KILL TYPE slave").await,
            " :1"
        );
        replica.is_closed().await;
    });
}
