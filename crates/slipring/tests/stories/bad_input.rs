//! Bytes that are no requests: Redis' own answer, to the byte, and neither a crash nor growth.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use testkit::client::Cause;
use testkit::memory::resident_bytes;
use testkit::{Client, Cluster, Flavor, Node, Proxy, on_each_server};

use super::support::{before, says};

/// A server that answers nothing more within this has nothing to say.
const SILENCE: Duration = Duration::from_millis(120);

/// How much slipring may grow under all of it: its buffers' slack, not what the input announces.
const GROWTH_BYTES: u64 = 24 << 20;

on_each_server! {
    fn malformed_requests_get_the_nodes_own_answer(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor).nodes(2).sentinels(1).start()?;
        let proxy = before(&cluster)?;
        let plain = Node::builder(flavor.server()?).start()?;
        let mut bystander = proxy.client()?;
        let mut differing = Vec::new();
        // All are sent first and heard afterwards: silence is waited for once, not once for each.
        for requests in requests(flavor).chunks(64) {
            let mut pairs = Vec::new();
            for bytes in requests {
                pairs.push((bytes, told(plain.client()?, bytes)?, told(proxy.client()?, bytes)?));
            }
            sleep(SILENCE);
            for (bytes, node, client) in pairs {
                let (want, got) = (heard(node)?, heard(client)?);
                if got != want {
                    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
                    differing.push(format!("{shown:?}\n  node:     {want:?}\n  slipring: {got:?}"));
                }
            }
            says(&mut bystander, "PING", "PONG")?;
        }
        ensure!(differing.is_empty(), "{} differ:\n{}", differing.len(), differing.join("\n"));
        ensure!(proxy.metric("slipring_session_panics_total", &[])? == 0.0, "a session panicked");
        Ok(())
    }

    fn hostile_input_neither_crashes_nor_grows_it(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor).nodes(2).sentinels(1).start()?;
        let proxy = before(&cluster)?;
        let pid = proxy.process().pid().context("it has ended")?;
        let mut bystander = proxy.client()?;
        says(&mut bystander, "SET key value", "OK")?;
        let before = resident_bytes(pid)?;

        let mut silent = Vec::new();
        for bytes in hostile() {
            for _ in 0..20 {
                let mut client = proxy.client()?;
                client.set_timeout(Duration::from_secs(2))?;
                // slipring may close before it has read all of it.
                let _ = client.send_raw(&bytes);
                silent.push(client);
            }
            says(&mut bystander, "GET key", "value")?;
        }
        sleep(SILENCE);
        let during = resident_bytes(pid)?;
        ensure!(during < before + GROWTH_BYTES, "{silent} clients that say half a thing grew it from {before} to {during}",
            silent = silent.len());
        for client in &mut silent {
            let _ = client.finish_sending();
        }
        drop(silent);
        garbage(&proxy)?;
        deep_replies(&proxy)?;
        says(&mut bystander, "GET key", "value")?;
        proxy.process().wait_until("the clients to be forgotten", || {
            let clients = proxy.metric("slipring_clients", &[])?;
            ensure!(clients == 1.0, "{clients} clients");
            Ok(())
        })?;
        let after = resident_bytes(pid)?;
        ensure!(after < before + GROWTH_BYTES, "it grew from {before} to {after}");
        ensure!(proxy.metric("slipring_session_panics_total", &[])? == 0.0, "a session panicked");
        Ok(())
    }
}

/// Sends the bytes; a server that closes before it has read them all is no failure.
fn told(mut client: Client, bytes: &[u8]) -> Result<Client> {
    let _ = client.send_raw(bytes);
    client.set_timeout(Duration::from_millis(30))?;
    Ok(client)
}

/// What came, and how it ended: closed (whether by FIN or RST, which is a matter of what was left unread) or open.
fn heard(mut client: Client) -> Result<(String, &'static str)> {
    let (bytes, cause) = client.read_to_end();
    let end = match cause {
        Cause::Closed | Cause::Reset => "closed",
        Cause::Timeout => "open",
        other => anyhow::bail!("{other:?}"),
    };
    Ok((String::from_utf8_lossy(&bytes).into_owned(), end))
}

/// Every malformed request of Redis' protocol tests, and more of their kind. Behind most comes a PING, which shows
/// whether the connection still serves.
fn requests(flavor: Flavor) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = Vec::new();
    let plain: &[&[u8]] = &[
        // The protocol tests of Redis, in their order.
        b"\r\n",
        b"*-10\r\n",
        b"*3000000000\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nx\r\nfooz\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nx\r\n$-10\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nx\r\n$2000000000\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nx\r\n$blabla\r\n",
        b"*1\r\nfoo\r\n",
        b"*4\r\n$4\r\nPING\r\n$1\r\nx\r\n$1\r\ny\r\n$1\r\nz\r\n",
        b"set \"\"\"test-key\"\"\" test-value\r\n",
        b"*3\r\n$5\r\nBLPOP\r\n$7\r\nnothing\r\n$4\r\n0.01\r\n*3\r\n$5\r\nBLPOP\r\n$7\r\nnothing\r\n$4\r\n0.01\r\n",
        // Counts.
        b"*0\r\n", b"*-1\r\n", b"*-9223372036854775808\r\n", b"*0\r\n*-7\r\n", b"*\r\n", b"*x\r\n", b"*1x\r\n", b"* 1\r\n",
        b"*1 \r\n", b"*+1\r\n", b"*-0\r\n", b"*01\r\n", b"*1\n$4\r\nPING\r\n", b"*2147483648\r\n", b"*9223372036854775807\r\n",
        b"*9223372036854775808\r\n", b"*-9223372036854775809\r\n", b"*1\r\n$4\r\nPING\r\n*x\r\n",
        // Lengths.
        b"*1\r\n$-1\r\n", b"*1\r\n$\r\n", b"*1\r\n$x\r\n", b"*1\r\n$4x\r\nPING\r\n", b"*1\r\n$04\r\nPING\r\n", b"*1\r\n$+4\r\nPING\r\n",
        b"*1\r\n$536870913\r\n", b"*1\r\n$2147483648\r\n", b"*1\r\n$9223372036854775808\r\n", b"*1\r\n$0\r\n\r\n",
        // Types.
        b"*1\r\n*1\r\n", b"*1\r\n:1\r\n", b"*1\r\n\r\n", b"*1\r\n\n\r\n", b"*1\r\n'\r\n", b"*1\r\n\xff\r\n",
        // Inline.
        b"\n", b"\n\n\r\n", b" \t \r\n", b"set foo \"bar\r\n", b"set 'a'b c\r\n", b"ECHO \"a\\\"\r\n", b"ECHO \"\\x41\\n\\q\"\r\n",
        b"ECHO 'it\\'s'\r\n", b":1\r\n", b"+OK\r\n", b"$5\r\n", b"$5\r\nworld\r\n", b"-ERR x\r\n", b"%1\r\n", b"GET / HTTP/1.1\r\n",
        b"\xff\xfe\xfd\r\n", b"PI\0NG\r\n", b"NOSUCH \"quo ted\" args\r\n", b"NOSUCH 'with \\r\\n in it' x\r\n",
        b"*2\r\n$6\r\nNOSUCH\r\n$4\r\na\r\nb\r\n", b"*2\r\n$4\r\nA\rB\n\r\n$1\r\nx\r\n",
        // Arity, and names that are none.
        b"GET\r\n", b"SET a\r\n", b"CONFIG\r\n", b"CLIENT\r\n", b"CLIENT NOSUCH\r\n", b"XGROUP NOSUCH a b\r\n", b"MULTI x\r\n",
        b"*1\r\n$0\r\n\r\n", b"\"\"\r\n", b"SUBSCRIBE\r\n", b"BLPOP\r\n", b"WATCH\r\n", b"SELECT\r\n", b"HELLO x y z\r\n", b"AUTH\r\n",
        b"RESET x\r\n", b"QUIT x\r\n", b"EXEC x\r\n", b"WAIT\r\n", b"MONITOR x\r\n",
    ];
    for request in plain {
        all.push([request, &b"PING\r\n"[..]].concat());
    }
    // Half of something: what follows must not be taken for its other half by mistake.
    let halves: &[&[u8]] = &[
        b"*",
        b"*1",
        b"*1\r",
        b"*1\r\n",
        b"*1\r\n$",
        b"*1\r\n$4\r\n",
        b"*1\r\n$4\r\nPI",
        b"*1\r\n$4\r\nPING",
        b"*1\r\n$4\r\nPING\r",
        b"PIN",
        b"PING\r",
        b"*2147483647\r\n",
        b"*1\r\n$536870912\r\n",
        b"*1\r\nfoo",
    ];
    all.extend(halves.iter().map(|half| half.to_vec()));
    if flavor == Flavor::Valkey {
        // Redis 7.0 does not look at the bytes in a line end's place, nor past a NUL; slipring is as strict as Valkey,
        // so that both sides of it always see the same requests.
        let strict: &[&[u8]] = &[
            b"*1\r\n\0\r\nPING\r\n",
            b"*1\r\n$3\r\nPING\r\n",
            b"*1\rx",
            b"*1\r\n$4\rxPING\r\n",
            b"*1\r\n$4\r\nPINGxx",
        ];
        all.extend(strict.iter().map(|request| request.to_vec()));
    }
    // 64 KiB of a line is not too much; one byte more is. "Protocol desync" of the protocol tests.
    for (start, byte) in [
        (&b""[..], b'P'),
        (b"*", b'1'),
        (b"*1\r\n$", b'1'),
        (b"", b'\0'),
        (b"*", b'\0'),
        (b"*1\r\n$", b'\0'),
    ] {
        for len in [65_000, 66_000, 200_000] {
            all.push([start, &vec![byte; len]].concat());
        }
    }
    all.push(b"*1\r\n".repeat(5000));
    all.push([&b"PING\r\n".repeat(500)[..], b"*x\r\n"].concat());
    all.push([&b"*1\r\n$4\r\nPING\r\n".repeat(500)[..], b"*1\r\n$x\r\nPING\r\n"].concat());
    all
}

fn hostile() -> Vec<Vec<u8>> {
    vec![
        b"*1\r\n".repeat(5120),
        b"*2\r\n$3\r\nGET\r\n$2147483648\r\n".to_vec(),
        b"*2\r\n$3\r\nGET\r\n$536870912\r\nx".to_vec(),
        b"*2147483648\r\n".to_vec(),
        b"*2147483647\r\n".to_vec(),
        b"*1000000\r\n".to_vec(),
        b"*1000000\r\n$3\r\nDEL\r\n".to_vec(),
        b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\nval".to_vec(),
        b"SET key".to_vec(),
        b"MULTI\r\n*1000000\r\n".to_vec(),
        b"SUBSCRIBE a\r\n*1000000\r\n".to_vec(),
        b"BLPOP nothing 0\r\n*1000000\r\n".to_vec(),
        b"\r\n".repeat(10_000),
        b"*0\r\n".repeat(10_000),
        [b"\"".repeat(60_000), b"\r\n".to_vec()].concat(),
        [b"a ".repeat(30_000), b"\r\n".to_vec()].concat(),
    ]
}

/// Random bytes, and requests with one byte changed. The same in each run.
fn garbage(proxy: &Proxy) -> Result<()> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut chance = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    let request = b"*3\r\n$3\r\nSET\r\n$3\r\nbad\r\n$5\r\nvalue\r\n*2\r\n$3\r\nGET\r\n$3\r\nbad\r\n";
    for round in 0..300 {
        let mut bytes: Vec<u8> = if round % 3 == 0 {
            (0..chance() % 2000).map(|_| chance() as u8).collect()
        } else {
            request.repeat(20)
        };
        if round % 3 == 1 {
            let at = chance() % bytes.len();
            bytes[at] = chance() as u8;
        }
        if round % 3 == 2 {
            bytes.truncate(chance() % bytes.len());
        }
        let mut client = proxy.client()?;
        client.set_timeout(Duration::from_secs(5))?;
        let _ = client.send_raw(&bytes);
        let _ = client.finish_sending();
        let (_, cause) = client.read_to_end();
        ensure!(
            matches!(cause, Cause::Closed | Cause::Reset),
            "{cause:?} after {:?}",
            String::from_utf8_lossy(&bytes)
        );
    }
    Ok(())
}

/// Depth is nothing that a client can make the node send without a limit; what it can, passes.
fn deep_replies(proxy: &Proxy) -> Result<()> {
    let mut client = proxy.client()?;
    let script = "local t={} for i=1,6 do t={t,t} end return t";
    let reply = client.command(&["EVAL", script, "0"])?;
    ensure!(reply.items().len() == 2, "{reply:?}");
    let nested = "local t={1} for i=1,40 do t={t} end return t";
    client.send(&["EVAL", nested, "0"])?;
    let raw = client.read_raw()?;
    let depth = raw.windows(4).filter(|window| *window == b"*1\r\n").count();
    ensure!(depth == 41, "{depth} levels");
    says(&mut client, "PING", "PONG")
}
