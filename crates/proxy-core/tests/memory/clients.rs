//! CLIENT means this proxy's clients, whichever worker serves them.

use crate::common::world::{World, run_with, settle};
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
