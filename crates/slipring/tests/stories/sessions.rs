//! What a session remembers is its own, whoever shares its connections.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testkit::client::Cause;
use testkit::{Client, Cluster, Flavor, Node, Proxy, Reply, on_each_server};

use super::support::{ask, counts, monitors, refuses, same_answers, same_batch, says, slipring, words};

on_each_server! {
    fn each_session_is_its_own(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor).nodes(2).sentinels(1).start()?;
        // One worker, so that all of them share one connection to the node.
        let proxy = slipring().sentinels(&cluster).flag("--workers", "1").start()?;
        let plain = Node::builder(flavor.server()?).start()?;
        let stage = Stage { proxy, plain };
        databases(&stage)?;
        identities(&stage)?;
        protocols(&stage)?;
        transactions_by_script(&stage)?;
        refused_inside_multi(&stage)?;
        watches(&stage)?;
        blocking(&stage)?;
        hanging_up(&stage, cluster.primary()?)?;
        subscriptions_by_script(&stage)?;
        subscriptions(&stage)?;
        monitor(&stage)?;
        resetting(&stage)?;
        quitting(&stage)?;
        ensure!(stage.proxy.metric("slipring_session_panics_total", &[])? == 0.0, "a session panicked");
        Ok(())
    }
}

struct Stage {
    proxy: Proxy,
    plain: Node,
}

impl Stage {
    fn client(&self) -> Result<Client> {
        self.proxy.client()
    }

    /// The script line by line, then in one write, on a fresh connection to the node and one to slipring.
    fn both(&self, script: &str) -> Result<()> {
        let replies = script.lines().filter(|line| !line.trim().is_empty()).count();
        for hello in ["HELLO 2", "HELLO 3"] {
            for flush in ["FLUSHALL", "PING"] {
                let (mut node, mut client) = (self.plain.client()?, self.client()?);
                for client in [&mut node, &mut client] {
                    ensure!(ask(client, hello)?.error().is_none(), "{hello}");
                    ask(client, flush)?;
                }
                if flush == "PING" {
                    same_batch(&mut node, &mut client, script, replies)?;
                } else {
                    same_answers(&mut node, &mut client, script)?;
                }
            }
        }
        Ok(())
    }
}

fn databases(stage: &Stage) -> Result<()> {
    let mut clients = (0..6).map(|_| stage.client()).collect::<Result<Vec<_>>>()?;
    for (db, client) in clients.iter_mut().enumerate() {
        says(client, &format!("SELECT {db}"), "OK")?;
    }
    for round in 0..50 {
        for client in &mut clients {
            client.send(&["GET", "where"])?;
            client.send(&["SET", "where", &round.to_string()])?;
        }
        for (db, client) in clients.iter_mut().enumerate() {
            let (before, set) = (client.read()?, client.read()?);
            let expected = (round > 0).then(|| {
                if db == 3 {
                    "three".to_owned()
                } else {
                    (round - 1).to_string()
                }
            });
            ensure!(
                before.text() == expected.as_deref() && set.text() == Some("OK"),
                "{before:?} in {db}"
            );
            if db == 3 {
                says(client, "SET where three", "OK")?;
            }
        }
    }
    for (db, client) in clients.iter_mut().enumerate() {
        let last = if db == 3 { "three" } else { "49" };
        says(client, "GET where", last)?;
    }
    stage.both(
        "SET a 0
         SELECT 1
         SET a 1
         SELECT 2
         GET a
         SELECT 1
         GET a
         DBSIZE
         SELECT 99
         GET a
         SELECT 1
         SWAPDB 0 1
         GET a
         SELECT 0
         GET a
         MOVE a 7
         EXISTS a
         FLUSHALL",
    )
}

fn identities(stage: &Stage) -> Result<()> {
    let mut clients = (0..8).map(|_| stage.client()).collect::<Result<Vec<_>>>()?;
    let mut ids = BTreeSet::new();
    for (number, client) in clients.iter_mut().enumerate() {
        let id = ask(client, "CLIENT ID")?.integer();
        ensure!(
            id.is_some_and(|id| id > 0) && ids.insert(id),
            "{id:?} after {ids:?}"
        );
        ensure!(
            ask(client, "CLIENT GETNAME")? == Reply::Null,
            "a name from the start"
        );
        says(client, &format!("CLIENT SETNAME name-{number}"), "OK")?;
    }
    for (number, client) in clients.iter_mut().enumerate() {
        says(client, "CLIENT GETNAME", &format!("name-{number}"))?;
        let id = ask(client, "CLIENT ID")?.integer();
        ensure!(ids.contains(&id), "another id: {id:?}");
        let hello = ask(client, &format!("HELLO 2 SETNAME hello-{number}"))?;
        let place = hello.items().iter().position(|item| item.text() == Some("id"));
        let greeted = place.and_then(|place| hello.items().get(place + 1)?.integer());
        ensure!(greeted == id, "HELLO says {greeted:?}, CLIENT ID {id:?}");
        says(client, "CLIENT GETNAME", &format!("hello-{number}"))?;
    }
    stage.both(
        "CLIENT GETNAME
         CLIENT SETNAME name
         CLIENT GETNAME
         CLIENT SETNAME \u{e9}
         CLIENT GETNAME
         CLIENT SETNAME
         CLIENT SETNAME \"\"
         CLIENT GETNAME",
    )
}

fn protocols(stage: &Stage) -> Result<()> {
    let (mut node, mut client) = (stage.plain.client()?, stage.client()?);
    let hash = "HSET hash field value\nHGETALL hash\nGET nothing\nZADD z 1.5 m\nZSCORE z m\nZRANGE z 0 -1 WITHSCORES";
    same_batch(&mut node, &mut client, hash, 6)?;
    let (mut three, mut two) = (stage.client()?, stage.client()?);
    three.send(&["HELLO", "3"])?;
    three.send(&["HGETALL", "hash"])?;
    three.send(&["HELLO", "2"])?;
    three.send(&["HGETALL", "hash"])?;
    three.send(&["HELLO", "3"])?;
    ensure!(
        matches!(three.read()?, Reply::Map(_)) && matches!(three.read()?, Reply::Map(_)),
        "RESP3"
    );
    ensure!(
        matches!(three.read()?, Reply::Array(_)) && matches!(three.read()?, Reply::Array(_)),
        "RESP2 again"
    );
    three.read()?;
    for _ in 0..20 {
        ensure!(
            matches!(ask(&mut two, "HGETALL hash")?, Reply::Array(_)),
            "RESP2 beside RESP3"
        );
        ensure!(
            matches!(ask(&mut three, "HGETALL hash")?, Reply::Map(_)),
            "RESP3 beside RESP2"
        );
        three.send_raw(b"GET nothing\r\n")?;
        ensure!(three.read_raw()? == b"_\r\n", "RESP3's null");
    }
    Ok(())
}

fn transactions_by_script(stage: &Stage) -> Result<()> {
    for script in [
        "MULTI
         SET a 1
         INCR a
         GET a
         EXEC
         GET a",
        "MULTI
         EXEC",
        "MULTI
         SET a 1
         DISCARD
         GET a
         DISCARD
         EXEC",
        "MULTI
         MULTI
         SET a 1
         WATCH b
         EXEC
         GET a",
        "MULTI
         SET a
         SET a 2
         EXEC
         GET a",
        "MULTI
         NOSUCHCOMMAND
         EXEC",
        "MULTI
         SET a text
         INCR a
         LPUSH a b
         SET b 1
         EXEC
         GET b",
        "MULTI
         SELECT 3
         SET a three
         EXEC
         GET a
         SELECT 0
         GET a",
        "MULTI
         PING
         ECHO x
         EVAL return{KEYS[1]} 1 key
         BLPOP nothing 0
         XREAD BLOCK 0 STREAMS nothing $
         EXEC
         PING",
        "WATCH a
         SET a 1
         MULTI
         GET a
         EXEC
         MULTI
         GET a
         EXEC",
        "WATCH a
         UNWATCH
         SET a 1
         MULTI
         GET a
         EXEC",
        "WATCH a
         SELECT 2
         SET a 1
         MULTI
         GET a
         EXEC
         GET a",
        "WATCH a
         WATCH a b c
         GET a
         MULTI
         DISCARD
         SET a 1
         MULTI
         EXEC",
        "WATCH
         MULTI
         EXEC extra
         EXEC",
        "MULTI
         RESET
         EXEC",
        "EXEC
         DISCARD
         UNWATCH",
    ] {
        stage.both(script)?;
    }
    let (mut inside, mut outside) = (stage.client()?, stage.client()?);
    says(&mut inside, "MULTI", "OK")?;
    for number in 0..20 {
        says(&mut inside, &format!("SET multi:{number} in"), "QUEUED")?;
        ensure!(
            ask(&mut outside, &format!("GET multi:{number}"))? == Reply::Null,
            "not yet executed"
        );
        says(&mut outside, &format!("SET other:{number} out"), "OK")?;
    }
    ensure!(ask(&mut inside, "EXEC")?.items().len() == 20, "EXEC");
    says(&mut outside, "GET multi:19", "in")?;
    Ok(())
}

/// What slipring refuses inside MULTI breaks the transaction, as any refusal does.
fn refused_inside_multi(stage: &Stage) -> Result<()> {
    for line in [
        "HELLO 3",
        "AUTH password",
        "SUBSCRIBE a",
        "MONITOR",
        "CLIENT TRACKING ON",
    ] {
        let mut client = stage.client()?;
        says(&mut client, "MULTI", "OK")?;
        says(&mut client, "SET refused x", "QUEUED")?;
        if ask(&mut client, line)?.error().is_some() {
            refuses(&mut client, "EXEC", "EXECABORT")?;
            ensure!(
                ask(&mut client, "GET refused")? == Reply::Null,
                "executed in spite of a refusal of {line}"
            );
        }
    }
    Ok(())
}

fn watches(stage: &Stage) -> Result<()> {
    let (mut watcher, mut other) = (stage.client()?, stage.client()?);
    for touched in [false, true, false] {
        says(&mut watcher, "WATCH watched", "OK")?;
        if touched {
            says(&mut other, "SET watched other", "OK")?;
        }
        // In one write: it may not travel as a block of its own, past the WATCH.
        watcher.send_raw(b"MULTI\r\nSET watched mine\r\nEXEC\r\n")?;
        ensure!(
            watcher.read()?.text() == Some("OK") && watcher.read()?.text() == Some("QUEUED"),
            "MULTI"
        );
        let executed = watcher.read()?;
        ensure!(
            (executed == Reply::Null) == touched,
            "touched: {touched}; EXEC: {executed:?}"
        );
        says(&mut other, "GET watched", if touched { "other" } else { "mine" })?;
    }
    Ok(())
}

fn blocking(stage: &Stage) -> Result<()> {
    let mut pusher = stage.client()?;
    let mut blocked = (0..60).map(|_| stage.client()).collect::<Result<Vec<_>>>()?;
    for (number, client) in blocked.iter_mut().enumerate() {
        // What is sent behind waits, too.
        client.send_raw(format!("BLPOP block:{number} 0\r\nPING {number}\r\n").as_bytes())?;
    }
    stage.proxy.process().wait_until("all to be blocked", || {
        let blocked = ask(&mut pusher, "INFO clients")?;
        let all = blocked
            .text()
            .is_some_and(|info| info.contains("blocked_clients:60\r\n"));
        ensure!(all, "not all are blocked");
        Ok(())
    })?;
    for (number, client) in blocked.iter_mut().enumerate().rev() {
        ensure!(!client.is_over()?, "a blocked client was closed");
        counts(&mut pusher, &format!("RPUSH block:{number} element-{number}"), 1)?;
        ensure!(
            client.read()?.texts() == [format!("block:{number}"), format!("element-{number}")],
            "BLPOP"
        );
        ensure!(
            client.read()?.text() == Some(&number.to_string()),
            "PING behind BLPOP"
        );
    }
    let mut client = stage.client()?;
    let before = Instant::now();
    ensure!(
        ask(&mut client, "BLPOP nothing 0.3")? == Reply::Null,
        "BLPOP that runs out"
    );
    ensure!(before.elapsed() >= Duration::from_millis(300), "it ran out early");
    for (line, push, key) in [
        ("BLMOVE from to LEFT RIGHT 0", "RPUSH from x", None),
        ("BZPOPMIN scored 0", "ZADD scored 1 x", Some("scored")),
        ("XREAD BLOCK 0 STREAMS stream $", "XADD stream * f v", None),
        ("BRPOP one two 0", "RPUSH two x", Some("two")),
    ] {
        client.send(&words(line))?;
        sleep(Duration::from_millis(50));
        ask(&mut pusher, push)?;
        let reply = client.read()?;
        ensure!(
            reply.error().is_none() && reply != Reply::Null,
            "{line}: {reply:?}"
        );
        ensure!(
            key.is_none_or(|key| reply.texts().first().is_some_and(|first| first == key)),
            "{line}: {reply:?}"
        );
    }
    stage.both(
        "BLPOP key
         BLPOP key x
         BLPOP key -1
         RPUSH key a b
         BLPOP key 0
         BLPOP nothing 0.01
         XREAD BLOCK x STREAMS s $
         XREAD STREAMS s 0
         BLMPOP 0.01 1 key RIGHT
         BLPOP text 0.01
         SET text x
         BLPOP text 0",
    )
}

/// A blocked client that hangs up takes nothing with it.
fn hanging_up(stage: &Stage, node: &Node) -> Result<()> {
    let is_blocked = |many: &str| {
        stage
            .proxy
            .process()
            .wait_until("the node's count of blocked clients", || {
                let blocked = node.info("blocked_clients")?;
                ensure!(blocked == many, "{blocked} are blocked");
                Ok(())
            })
    };
    let much = "x".repeat(300 << 10);
    for round in 0..9 {
        let mut leaver = stage.client()?;
        // What it has not read makes its end a reset.
        if round % 3 == 1 {
            leaver.send(&["PING"])?;
        }
        leaver.send(&["BLPOP", "left", "0"])?;
        is_blocked("1")?;
        if round % 3 == 2 {
            leaver.send(&["SET", "left", &much])?;
        }
        drop(leaver);
        is_blocked("0")?;
    }
    let unblocked = node.info("cmdstat_client|unblock")?;
    ensure!(
        unblocked.starts_with("calls=9,"),
        "the node was told: {unblocked}"
    );
    let mut client = stage.client()?;
    counts(&mut client, "RPUSH left element", 1)?;
    says(&mut client, "LPOP left", "element")
}

fn subscriptions_by_script(stage: &Stage) -> Result<()> {
    // In RESP2, where a subscriber may say little.
    for (script, replies) in [
        (
            "SUBSCRIBE a b\nPING\nPING x\nGET a\nSET a 1\nSUBSCRIBE a c\nUNSUBSCRIBE a c\nUNSUBSCRIBE\nGET a",
            12,
        ),
        ("PSUBSCRIBE a*\nPUNSUBSCRIBE nothing\nPUNSUBSCRIBE\nPING", 4),
        (
            "SUBSCRIBE a\nPSUBSCRIBE a*\nUNSUBSCRIBE\nGET a\nPUNSUBSCRIBE\nGET a",
            6,
        ),
        ("UNSUBSCRIBE\nUNSUBSCRIBE a b\nPUNSUBSCRIBE\nSUBSCRIBE\nGET a", 6),
        ("SUBSCRIBE a\nRESET\nGET a", 3),
        ("SUBSCRIBE a\nMULTI\nUNSUBSCRIBE\nMULTI\nEXEC", 5),
        ("SSUBSCRIBE a\nSUNSUBSCRIBE\nGET a", 3),
    ] {
        let (mut node, mut client) = (stage.plain.client()?, stage.client()?);
        same_batch(&mut node, &mut client, script, replies)?;
    }
    for (script, replies) in [
        (
            "SUBSCRIBE a\nGET a\nSET a 1\nGET a\nPING\nUNSUBSCRIBE\nGET a\nDEL a",
            8,
        ),
        (
            "SUBSCRIBE a\nPUBLISH a hello\nPUBLISH b hello\nPSUBSCRIBE *\nPUBLISH a again\nUNSUBSCRIBE a\nPUNSUBSCRIBE *\nGET a",
            11,
        ),
        (
            "SUBSCRIBE a\nSELECT 3\nSET a x\nUNSUBSCRIBE\nGET a\nSELECT 0\nGET a",
            7,
        ),
        (
            "SUBSCRIBE a\nCLIENT GETNAME\nCLIENT SETNAME x\nCLIENT GETNAME\nUNSUBSCRIBE\nCLIENT GETNAME",
            6,
        ),
    ] {
        let (mut node, mut client) = (stage.plain.client()?, stage.client()?);
        for client in [&mut node, &mut client] {
            ask(client, "HELLO 3")?;
            ask(client, "FLUSHALL")?;
        }
        same_batch(&mut node, &mut client, script, replies)?;
    }
    Ok(())
}

fn subscriptions(stage: &Stage) -> Result<()> {
    let mut publisher = stage.client()?;
    let mut subscribers = (0..20).map(|_| stage.client()).collect::<Result<Vec<_>>>()?;
    for (number, subscriber) in subscribers.iter_mut().enumerate() {
        let line = if number % 2 == 0 {
            "SUBSCRIBE news"
        } else {
            "PSUBSCRIBE n?ws"
        };
        ensure!(ask(subscriber, line)?.items().len() == 3, "{line}");
    }
    for message in 0..100 {
        publisher.send(&["PUBLISH", "news", &message.to_string()])?;
    }
    for _ in 0..100 {
        ensure!(publisher.read()?.integer() == Some(20), "PUBLISH counts");
    }
    for subscriber in &mut subscribers {
        for message in 0..100 {
            let heard = subscriber.read()?;
            ensure!(
                heard.texts().last() == Some(&message.to_string()),
                "{heard:?} instead of {message}"
            );
        }
    }
    drop(subscribers);
    stage
        .proxy
        .process()
        .wait_until("the subscribers to be forgotten", || {
            counts(&mut publisher, "PUBLISH news nobody", 0)
        })
}

fn monitor(stage: &Stage) -> Result<()> {
    let (mut monitor, mut client) = (stage.client()?, stage.client()?);
    says(&mut monitor, "MONITOR", "OK")?;
    says(&mut client, "SET monitored value", "OK")?;
    monitors(&mut monitor, r#""SET" "monitored" "value""#)?;
    monitor.send(&["QUIT"])?;
    let (rest, cause) = monitor.read_to_end();
    ensure!(
        cause == Cause::Closed && rest.ends_with(b"+OK\r\n"),
        "{cause:?} after {rest:?}"
    );
    Ok(())
}

fn resetting(stage: &Stage) -> Result<()> {
    let mut client = stage.client()?;
    ask(&mut client, "FLUSHALL")?;
    for line in [
        "HELLO 3",
        "SELECT 4",
        "CLIENT SETNAME name",
        "SET here four",
        "WATCH here",
        "MULTI",
    ] {
        ensure!(ask(&mut client, line)?.error().is_none(), "{line}");
    }
    says(&mut client, "RESET", "RESET")?;
    client.send_raw(b"CLIENT GETNAME\r\nGET here\r\n")?;
    ensure!(
        client.read_raw()? == b"$-1\r\n",
        "the name, or RESP3, outlived RESET"
    );
    ensure!(client.read_raw()? == b"$-1\r\n", "the database outlived RESET");
    refuses(&mut client, "EXEC", "ERR EXEC without MULTI")
}

fn quitting(stage: &Stage) -> Result<()> {
    for before in ["", "SUBSCRIBE a\r\n", "MULTI\r\n", "WATCH a\r\n", "SELECT 3\r\n"] {
        let (mut node, mut client) = (stage.plain.client()?, stage.client()?);
        let told = |client: &mut Client| {
            client.send_raw(format!("{before}PING\r\nQUIT\r\n").as_bytes())?;
            Ok::<_, anyhow::Error>(client.read_to_end())
        };
        let (want, got) = (told(&mut node)?, told(&mut client)?);
        ensure!(got == want, "{before:?} then QUIT: {got:?} instead of {want:?}");
    }
    Ok(())
}
