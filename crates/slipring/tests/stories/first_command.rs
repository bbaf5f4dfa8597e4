//! A client that knows nothing of Sentinel connects, and finds a plain Redis: to the byte.

use std::process::Command;

use anyhow::{Result, ensure};
use testkit::client::encode;
use testkit::{Cluster, Flavor, Node, on_each_server};

use super::support::{before, same_answers, says};

/// A bit of everything that answers the same at any time on any node.
const SCRIPT: &str = r#"
    PING
    PING hello
    ECHO hello
    GET nothing
    SET key value
    SET key other NX
    SET key other GET
    GET key
    get key
    GETRANGE key 1 2
    APPEND key more
    STRLEN key
    INCR key
    SET number 41
    INCR number
    INCRBYFLOAT number 0.5
    SETEX short 1000 x
    PERSIST short
    TTL short
    TTL nothing
    TYPE key
    MSET a 1 b 2 c ""
    MGET a b c nothing
    DEL a b nothing
    EXISTS c c c
    LPUSH list 1 2 3
    LRANGE list 0 -1
    LPOS list 2
    LPUSH key x
    HSET hash f 1 g 2
    HGET hash f
    HGETALL hash
    HSTRLEN hash f
    SADD set 3 1 2
    SMEMBERS set
    SMISMEMBER set 1 9
    ZADD zset 1 a 2.5 b
    ZRANGE zset 0 -1 WITHSCORES
    ZSCORE zset b
    ZADD zset XX INCR 1 nobody
    XADD stream 1-1 f v
    XRANGE stream - +
    XINFO STREAM nothing
    XREAD COUNT 1 STREAMS stream 0
    GEOADD geo 13.361389 38.115556 Palermo
    GEOPOS geo Palermo nobody
    SETBIT bits 7 1
    BITFIELD bits GET u8 0
    OBJECT ENCODING set
    BLPOP list 1
    BLMPOP 1 1 nothing-here LEFT
    EVAL return{1,{2,ARGV[1]},redis.status_reply('fine'),false} 0 x
    EVAL return(redis.error_reply('NO.good')) 0
    EVALSHA ffffffffffffffffffffffffffffffffffffffff 0
    DBSIZE
    COPY key copy
    RENAME copy copied
    RENAME nothing x
    DUMP nothing
    RESTORE key 0 x
    CONFIG GET maxmemory-policy
    COMMAND INFO get
    COMMAND GETKEYS mset a 1 b 2
    WAIT 0 10
    OBJECT HELP
    CLIENT
    CLIENT NOSUCH
    CLIENT ID extra
    CONFIG
    SELECT
    SELECT -1
    SELECT x
    SELECT 99999999
    SELECT 0
    AUTH
    AUTH password
    AUTH user password
    HELLO 4
    HELLO x
    HELLO 2 NOSUCH
    MULTI extra
    EXEC
    DISCARD
    UNWATCH
    WATCH
    NOSUCHCOMMAND with some args
    GET
    GET a b
    ""
    SUBSCRIBE
    UNSUBSCRIBE
    PUNSUBSCRIBE a
    PUBLISH channel message
    PUBSUB NUMSUB channel
    DEBUG PROTOCOL string
    DEBUG PROTOCOL integer
    DEBUG PROTOCOL double
    DEBUG PROTOCOL null
    DEBUG PROTOCOL array
    DEBUG PROTOCOL set
    DEBUG PROTOCOL map
    DEBUG PROTOCOL attrib
    DEBUG PROTOCOL bignum
    DEBUG PROTOCOL true
    DEBUG PROTOCOL verbatim
    FLUSHALL
"#;

on_each_server! {
    fn a_plain_client_is_served(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor).nodes(2).sentinels(1).start()?;
        let proxy = before(&cluster)?;
        let plain = Node::builder(flavor.server()?).start()?;

        for resp3 in [false, true] {
            let (mut node, mut client) = (plain.client()?, proxy.client()?);
            if resp3 {
                ensure!(client.command(&["HELLO", "3"])?.error().is_none(), "HELLO 3");
                ensure!(node.command(&["HELLO", "3"])?.error().is_none(), "HELLO 3");
            }
            same_answers(&mut node, &mut client, SCRIPT)?;
        }
        in_pieces(&mut proxy.client()?)?;
        by_command_line(&cluster, &proxy)?;

        let mut client = proxy.client()?;
        says(&mut client, "SET where here", "OK")?;
        let held = cluster.primary()?.command(&["GET", "where"])?;
        ensure!(held.text() == Some("here"), "{held:?}");
        ensure!(proxy.metric("slipring_commands_total", &["command=\"get\"", "outcome=\"ok\""])? > 0.0, "uncounted");
        ensure!(proxy.metric("slipring_session_panics_total", &[])? == 0.0, "a session panicked");
        Ok(())
    }
}

/// A request is the same however its bytes are cut.
fn in_pieces(client: &mut testkit::Client) -> Result<()> {
    let bytes = [encode(&["SET", "pieces", "a\r\nb"]), b"GET pieces\r\n".to_vec()].concat();
    for byte in &bytes {
        client.send_raw(&[*byte])?;
    }
    ensure!(client.read_raw()? == b"+OK\r\n", "SET");
    ensure!(client.read_raw()? == b"$4\r\na\r\nb\r\n", "GET");
    client.send_raw(b"\r\n\r\n*0\r\nSET \"in line\" 'quo\\'ted'\r\nGET \"in\\x20line\"\n")?;
    ensure!(client.read_raw()? == b"+OK\r\n", "inline SET");
    ensure!(client.read_raw()? == b"$7\r\nquo'ted\r\n", "inline GET");
    Ok(())
}

/// The server's own command-line client, which greets with COMMAND DOCS and HELLO.
fn by_command_line(cluster: &Cluster, proxy: &testkit::Proxy) -> Result<()> {
    let flavor_cli = cluster.shard().nodes[0].process().name().to_owned();
    let flavor = if flavor_cli.starts_with("valkey") {
        Flavor::Valkey
    } else {
        Flavor::Redis
    };
    let port = proxy.address().port().to_string();
    for (args, answer) in [
        (&["SET", "cli", "done"][..], "OK\n"),
        (&["-3", "GET", "cli"], "\"done\"\n"),
    ] {
        let output = Command::new(flavor.server()?.cli())
            .args(["-p", &port, "--no-raw"])
            .args(args)
            .output()?;
        ensure!(output.stdout == answer.as_bytes(), "{args:?}: {output:?}");
    }
    Ok(())
}
