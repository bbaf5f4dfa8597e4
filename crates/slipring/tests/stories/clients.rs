//! CLIENT means slipring's clients, in the words of the server behind it.

use anyhow::{Context as _, Result, ensure};
use testkit::{Client, Cluster, Flavor, Node, Proxy, on_each_server};

use super::support::{ask, counts, same_answers, says, slipring};

on_each_server! {
    fn clients_are_those_of_the_proxy(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor).nodes(1).sentinels(1).start()?;
        let proxy = slipring().sentinels(&cluster).flag("--workers", "2").flag("--spread-after", "1").start()?;
        let plain = Node::builder(flavor.server()?).start()?;
        let node = cluster.primary()?;
        errors(&proxy, &plain)?;
        lines(&proxy, &plain)?;
        kills(&proxy)?;
        unblocking(&proxy, node)?;
        many_blocked(&proxy, node)?;
        replies(&proxy, &plain)?;
        pause(&proxy, node)?;
        deleted_user(&proxy)?;
        ensure!(proxy.metric("slipring_session_panics_total", &[])? == 0.0, "a session panicked");
        Ok(())
    }
}

fn errors(proxy: &Proxy, plain: &Node) -> Result<()> {
    let script = "CLIENT
        CLIENT NONSENSE
        CLIENT ID x
        CLIENT LIST NONSENSE
        CLIENT LIST TYPE
        CLIENT LIST TYPE nonsense
        CLIENT LIST ID x
        CLIENT LIST ID 999999
        CLIENT LIST TYPE pubsub
        CLIENT KILL
        CLIENT KILL nonsense
        CLIENT KILL ID 0
        CLIENT KILL ID x
        CLIENT KILL ID 999999
        CLIENT KILL ID 999999 nonsense x
        CLIENT KILL TYPE nonsense
        CLIENT KILL TYPE pubsub
        CLIENT KILL USER nobody
        CLIENT KILL SKIPME nonsense
        CLIENT KILL MAXAGE 100000
        CLIENT KILL ADDR 1.2.3.4:5 LADDR 1.2.3.4:5
        CLIENT UNBLOCK x
        CLIENT UNBLOCK 999999
        CLIENT UNBLOCK 999999 nonsense
        CLIENT GETNAME
        CLIENT SETNAME name
        CLIENT GETNAME
        CLIENT SETNAME \u{1}
        CLIENT SETNAME \"\"
        CLIENT GETNAME
        CLIENT SETINFO lib-name x
        CLIENT SETINFO nonsense x
        CLIENT SETINFO lib-ver \u{1}
        CLIENT REPLY nonsense
        CLIENT PAUSE x
        CLIENT PAUSE 1 nonsense
        CLIENT PAUSE -1
        CLIENT UNPAUSE
        CLIENT CAPA redirect
        CLIENT IMPORT-SOURCE on
        CLIENT NO-TOUCH nonsense
        CLIENT GETREDIR
        CLIENT TRACKINGINFO
        CLIENT HELP
        HELLO 1
        HELLO 4
        HELLO x
        HELLO 03
        HELLO 2 SETNAME \u{1}
        HELLO 2 NONSENSE
        HELLO 2 AUTH x
        HELLO 2 AUTH nobody wrong
        AUTH x y z
        AUTH x
        RESET x
        RESET
        QUIT";
    for hello in ["HELLO 2", "HELLO 3"] {
        let (mut node, mut client) = (plain.client()?, proxy.client()?);
        ask(&mut node, hello)?;
        ask(&mut client, hello)?;
        same_answers(&mut node, &mut client, script)?;
    }
    Ok(())
}

/// The names in the line that a server prints of this client.
fn line(client: &mut Client) -> Result<Vec<(String, String)>> {
    let info = ask(client, "CLIENT INFO")?;
    let fields = info.text().context("a text")?.trim().split(' ');
    let field = |field: &str| {
        let (name, value) = field.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    };
    Ok(fields.filter_map(field).collect())
}

fn lines(proxy: &Proxy, plain: &Node) -> Result<()> {
    let (mut node, mut client) = (plain.client()?, proxy.client()?);
    for preparation in ["SELECT 3", "CLIENT SETNAME me", "HELLO 3"] {
        ask(&mut node, preparation)?;
        ask(&mut client, preparation)?;
        let (theirs, ours) = (line(&mut node)?, line(&mut client)?);
        let names = |fields: &[(String, String)]| -> Vec<String> {
            fields.iter().map(|(name, _)| name.clone()).collect()
        };
        ensure!(names(&theirs) == names(&ours), "{ours:?} instead of {theirs:?}");
        for (their, our) in theirs.iter().zip(&ours) {
            let alike = [
                "name", "flags", "db", "sub", "psub", "ssub", "multi", "watch", "argv-mem", "cmd", "user",
                "redir", "resp", "events", "capa", "lib-name", "lib-ver",
            ];
            ensure!(
                !alike.contains(&our.0.as_str()) || our == their,
                "{our:?} instead of {their:?}"
            );
        }
    }
    let own = client.local_address()?.to_string();
    let ours = line(&mut client)?;
    ensure!(
        ours.contains(&("addr".to_owned(), own.clone())),
        "{ours:?} is not {own}"
    );
    Ok(())
}

fn kills(proxy: &Proxy) -> Result<()> {
    let (mut one, mut other) = (proxy.client()?, proxy.client()?);
    let id = ask(&mut one, "CLIENT ID")?.integer().context("an id")?;
    counts(&mut other, &format!("CLIENT KILL ID {id}"), 1)?;
    is_over(proxy, &mut one)?;
    let own = other.local_address()?;
    says(&mut other, &format!("CLIENT KILL {own}"), "OK")?;
    is_over(proxy, &mut other)
}

fn is_over(proxy: &Proxy, client: &mut Client) -> Result<()> {
    proxy.process().wait_until("the end of a connection", || {
        ensure!(client.is_over()?, "it stays");
        Ok(())
    })
}

fn blocked(proxy: &Proxy, node: &Node, many: usize) -> Result<()> {
    proxy
        .process()
        .wait_until("the node's count of blocked clients", || {
            let blocked = node.info("blocked_clients")?;
            ensure!(blocked == many.to_string(), "{blocked} are blocked");
            Ok(())
        })
}

fn unblocking(proxy: &Proxy, node: &Node) -> Result<()> {
    let (mut waits, mut other) = (proxy.client()?, proxy.client()?);
    let id = ask(&mut waits, "CLIENT ID")?.integer().context("an id")?;
    counts(&mut other, &format!("CLIENT UNBLOCK {id}"), 0)?;
    for (way, expected) in [
        ("TIMEOUT", None),
        ("ERROR", Some("UNBLOCKED client unblocked via CLIENT UNBLOCK")),
    ] {
        waits.send(&["BLPOP", "queue", "0"])?;
        blocked(proxy, node, 1)?;
        counts(&mut other, &format!("CLIENT UNBLOCK {id} {way}"), 1)?;
        let reply = waits.read()?;
        ensure!(reply.error() == expected, "{reply:?} instead of {expected:?}");
    }
    Ok(())
}

/// A thousand wait at once and are served in their order; those that leave, with unread input too, take nothing along.
fn many_blocked(proxy: &Proxy, node: &Node) -> Result<()> {
    let mut waiting = Vec::new();
    for at in 1..=1000 {
        let mut client = proxy.client()?;
        client.send(&["BLPOP", "queue", "0"])?;
        waiting.push(client);
        if at % 100 == 0 {
            blocked(proxy, node, at)?;
        }
    }
    for mut leaver in waiting.drain(500..) {
        leaver.send(&["SET", "left", "behind"])?;
    }
    blocked(proxy, node, 500)?;
    let mut producer = proxy.client()?;
    for at in 0..500 {
        ask(&mut producer, &format!("RPUSH queue {at}"))?;
    }
    for client in &mut waiting {
        let popped = client.read()?;
        ensure!(popped.items().len() == 2, "{popped:?}");
    }
    counts(&mut producer, "RPUSH queue kept", 1)?;
    says(&mut producer, "LPOP queue", "kept")
}

fn replies(proxy: &Proxy, plain: &Node) -> Result<()> {
    let batch = b"CLIENT REPLY OFF\r\nSET a 1\r\nGET a\r\nMULTI\r\nGET a\r\nEXEC\r\nCLIENT REPLY ON\r\n\
                  CLIENT REPLY SKIP\r\nGET a\r\nGET a\r\nMULTI\r\nCLIENT REPLY SKIP\r\nPING\r\nEXEC\r\nPING\r\n\
                  ECHO end\r\nMULTI\r\nPING\r\nCLIENT REPLY OFF\r\nPING\r\nEXEC\r\nPING\r\nSUBSCRIBE c\r\n\
                  UNSUBSCRIBE c\r\nCLIENT REPLY ON\r\nQUIT\r\n";
    let mut seen = Vec::new();
    for mut client in [plain.client()?, proxy.client()?] {
        client.send_raw(batch)?;
        let (bytes, _) = client.read_to_end();
        seen.push(String::from_utf8_lossy(&bytes).into_owned());
    }
    ensure!(seen[0] == seen[1], "{:?}\ninstead of {:?}", seen[1], seen[0]);
    Ok(())
}

fn pause(proxy: &Proxy, node: &Node) -> Result<()> {
    let (mut one, mut other, mut third) = (proxy.client()?, proxy.client()?, proxy.client()?);
    says(&mut one, "SET paused 0", "OK")?;
    says(&mut one, "CLIENT PAUSE 60000 WRITE", "OK")?;
    other.send(&["SET", "paused", "1"])?;
    third.send(&["EVAL", "return 1", "0"])?;
    blocked(proxy, node, 2)?;
    says(&mut one, "GET paused", "0")?;
    says(&mut one, "CLIENT UNPAUSE", "OK")?;
    ensure!(other.read()?.text() == Some("OK"), "the write goes on");
    ensure!(third.read()?.integer() == Some(1), "the script goes on");
    says(&mut one, "GET paused", "1")?;
    says(&mut one, "CLIENT PAUSE 200 ALL", "OK")?;
    says(&mut other, "GET paused", "1")?;
    says(&mut other, "SET paused 2", "OK")
}

fn deleted_user(proxy: &Proxy) -> Result<()> {
    let (mut admin, mut ann) = (proxy.client()?, proxy.client()?);
    says(&mut admin, "ACL SETUSER ann on >secret +@all ~* &*", "OK")?;
    says(&mut ann, "AUTH ann secret", "OK")?;
    says(&mut ann, "SET mine 1", "OK")?;
    says(&mut ann, "ACL WHOAMI", "ann")?;
    says(&mut admin, "ACL WHOAMI", "default")?;
    says(&mut admin, "ACL SETUSER ann -client|kill", "OK")?;
    let refused = ask(&mut ann, "CLIENT KILL TYPE normal")?;
    ensure!(
        refused.error().is_some_and(|error| error.starts_with("NOPERM")),
        "{refused:?}"
    );
    counts(&mut admin, "ACL DELUSER ann", 1)?;
    is_over(proxy, &mut ann)?;
    says(&mut admin, "PING", "PONG")
}
