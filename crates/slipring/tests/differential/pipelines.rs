//! Pipelines longer than any buffer: a hundred thousand commands, the replies compared to the byte.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use testkit::client::encode;

use super::compare::shown;
use super::duel::Duel;

const COMMANDS: usize = 100_000;

/// So long may a side be silent.
const PATIENCE: Duration = Duration::from_secs(20);

/// Sends each pipeline to both, and compares all that comes until the connection ends.
pub(crate) fn check(duel: &Duel) -> Result<()> {
    for (what, stream) in pipelines() {
        let want = told(duel.plain_node.address(), &stream).context(what)?;
        let got = told(duel.proxy.address(), &stream).context(what)?;
        let at = want
            .iter()
            .zip(&got)
            .take_while(|(want, got)| want == got)
            .count();
        let from = at.saturating_sub(60);
        ensure!(
            want == got,
            "{what}: {} bytes, not {}; they differ at {at}\n    plain:    {}\n    slipring: {}",
            got.len(),
            want.len(),
            shown(&want[from..want.len().min(at + 60)]),
            shown(&got[from..got.len().min(at + 60)])
        );
    }
    Ok(())
}

fn pipelines() -> Vec<(&'static str, Vec<u8>)> {
    let quit = || encode(&["QUIT"]);
    let many = |command: &dyn Fn(usize) -> Vec<u8>, count: usize| -> Vec<u8> {
        (0..count).flat_map(command).chain(quit()).collect()
    };
    let mixed = |index: usize| match index % 16 {
        0 => encode(&["SET", &format!("k{}", index % 100), &index.to_string()]),
        1..=5 => encode(&["GET", &format!("k{}", index % 100)]),
        6 => encode(&["INCR", "counter"]),
        7 => format!("PING {index}\r\n").into_bytes(),
        8 => b"\r\n".to_vec(),
        9 => encode(&["NOSUCH", &index.to_string()]),
        10 => encode(&["RPUSH", "list", "x"]),
        11 => encode(&["LPOP", "list"]),
        12 => encode(&["GET", "counter"]),
        13 => encode(&["MGET", "k0", "none", "counter"]),
        14 => encode(&["ECHO", &"e".repeat(index % 300)]),
        _ => encode(&["EVAL", "return redis.call('incr','script')", "1", "script"]),
    };
    // What leaves the common way, all the time.
    let winding = |index: usize| match index % 10 {
        0 => encode(&["SELECT", &(index / 10 % 4).to_string()]),
        1 => encode(&["INCR", "counter"]),
        2 => [
            encode(&["MULTI"]),
            encode(&["INCR", "counter"]),
            encode(&["EXEC"]),
        ]
        .concat(),
        3 => encode(&["CLIENT", "SETNAME", &format!("n{index}")]),
        4 => encode(&["CLIENT", "GETNAME"]),
        5 => [encode(&["WATCH", "k"]), encode(&["UNWATCH"])].concat(),
        6 => [encode(&["RPUSH", "list", "x"]), encode(&["BLPOP", "list", "0"])].concat(),
        7 => [encode(&["SUBSCRIBE", "c"]), encode(&["UNSUBSCRIBE", "c"])].concat(),
        8 => encode(&["GET", "counter"]),
        _ => [
            encode(&["MULTI"]),
            encode(&["SELECT", "0"]),
            encode(&["INCR", "counter"]),
            encode(&["DISCARD"]),
        ]
        .concat(),
    };
    let large = |index: usize| match index % 3 {
        0 => encode(&["SET", "large", &"v".repeat(60_000 + index * 997)]),
        1 => encode(&["GET", "large"]),
        _ => encode(&["STRLEN", "large"]),
    };
    let transaction = |index: usize| match index {
        0 => encode(&["MULTI"]),
        index if index < 20_000 => encode(&["INCR", "counter"]),
        _ => encode(&["EXEC"]),
    };
    vec![
        (
            "one command over and over",
            many(&|_| encode(&["INCR", "counter"]), COMMANDS),
        ),
        ("many kinds of commands", many(&mixed, COMMANDS)),
        (
            "inline",
            many(&|index| format!("PING {index}\r\n").into_bytes(), COMMANDS),
        ),
        ("commands that leave the shared connection", many(&winding, 4_000)),
        ("large values", many(&large, 300)),
        ("one long transaction", many(&transaction, 20_001)),
        (
            "a protocol error at its end",
            (0..10_000).flat_map(mixed).chain(*b"*x\r\n").collect(),
        ),
    ]
}

/// All that comes back until the connection ends, read while it is written.
#[expect(clippy::disallowed_methods, reason = "a plain client")]
fn told(address: std::net::SocketAddr, stream: &[u8]) -> Result<Vec<u8>> {
    let mut reader = TcpStream::connect(address)?;
    reader.set_read_timeout(Some(PATIENCE))?;
    let mut writer = reader.try_clone()?;
    thread::scope(|scope| {
        let sent = scope.spawn(move || writer.write_all(stream));
        let mut heard = Vec::new();
        let end = reader.read_to_end(&mut heard);
        sent.join().expect("writing does not panic").context("sending")?;
        end.with_context(|| format!("after {} bytes", heard.len()))?;
        Ok(heard)
    })
}
