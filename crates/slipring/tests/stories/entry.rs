//! The way in, with real sockets: load balancers that say whose client it is, and more clients than descriptors.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use testkit::{Cluster, Flavor, Proxy};

use super::support::{PATIENCE, says, slipring};

/// A client that begins with these bytes.
fn knock(to: SocketAddr, bytes: &[u8]) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(bytes)?;
    Ok(stream)
}

/// All that comes until the connection ends, be it by a reset.
fn last_words(stream: &mut TcpStream) -> String {
    let mut words = Vec::new();
    let _ = stream.read_to_end(&mut words);
    String::from_utf8_lossy(&words).into_owned()
}

fn refused(proxy: &Proxy, reason: &str) -> Result<f64> {
    proxy.metric(
        "slipring_clients_refused_total",
        &[&format!("reason=\"{reason}\"")],
    )
}

/// Waits until so many have been refused: some are closed a moment before they are counted.
fn counts(proxy: &Proxy, wanted: &[(&str, f64)]) -> Result<()> {
    proxy.process().wait_until("what is counted", || {
        for (reason, number) in wanted {
            let counted = refused(proxy, reason)?;
            ensure!(counted == *number, "{counted} for {reason}");
        }
        Ok(())
    })
}

#[test]
fn a_load_balancer_says_who_its_clients_are() -> Result<()> {
    if !Flavor::Redis.runs_here() {
        return Ok(());
    }
    let cluster = Cluster::builder(Flavor::Redis).nodes(1).sentinels(1).start()?;
    let proxy = slipring()
        .sentinels(&cluster)
        .env("SLIPRING_PROXY_PROTOCOL", "true")
        .flag("--protected-mode", "no")
        .flag("--allow-cidr", "192.0.2.0/24,2001:db8::/32,127.0.0.1")
        .flag("--max-clients-per-ip", "1")
        .flag("--handshake-timeout", "500ms")
        .start()?;
    let at = proxy.address();
    let one = "PROXY TCP4 192.0.2.1 198.51.100.2 5000 6379\r\nCLIENT INFO\r\n";
    let two = [
        &b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x24"[..],
        &[0x20, 1, 0x0d, 0xb8],
        &[0; 11],
        &[1],
        &[0; 15],
        &[2],
    ]
    .concat();
    let two = [&two[..], b"\x13\x88\x18\xebCLIENT INFO\r\n"].concat();
    let mut kept = Vec::new();
    for (bytes, shown) in [
        (one.as_bytes(), " addr=192.0.2.1:5000 laddr=198.51.100.2:6379 "),
        (&two, " addr=[2001:db8::1]:5000 laddr=[::2]:6379 "),
    ] {
        let mut stream = knock(at, bytes)?;
        let mut answer = [0; 512];
        let length = stream.read(&mut answer)?;
        let answer = String::from_utf8_lossy(answer.get(..length).unwrap_or_default()).into_owned();
        ensure!(answer.contains(shown), "{answer}");
        // Whoever is elsewhere by the header's word is no operator, and nobody is here by its word alone.
        stream.write_all(b"PROXY RESUME\r\n")?;
        let mut answer = [0; 7];
        stream.read_exact(&mut answer)?;
        ensure!(&answer == b"-NOPERM", "{answer:?}");
        kept.push(stream);
    }
    let again = last_words(&mut knock(at, one.as_bytes())?);
    ensure!(
        again.starts_with("-ERR max number of clients of this address"),
        "{again}"
    );
    let far = last_words(&mut knock(
        at,
        b"PROXY TCP4 203.0.113.9 198.51.100.2 5000 6379\r\n",
    )?);
    ensure!(far.starts_with("-DENIED clients may not connect"), "{far}");
    for bytes in [
        &b"PING\r\nPING\r\nPING\r\n"[..],
        b"PROXY TCP9 \r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\xff\xff",
    ] {
        let words = last_words(&mut knock(at, bytes)?);
        ensure!(words.is_empty(), "{words}");
    }
    counts(
        &proxy,
        &[("proxy_header", 3.0), ("per_ip", 1.0), ("address", 1.0)],
    )?;
    // One who never comes to the point is sent away.
    let words = last_words(&mut knock(at, b"PROXY TCP4 192.0.2.7 ")?);
    ensure!(words.is_empty(), "{words}");
    counts(&proxy, &[("handshake", 1.0)])
}

/// slipring with as many descriptors as `ulimit -n` says.
fn with_descriptors(cluster: &Cluster, limit: u64) -> Result<(Proxy, tempfile::TempDir)> {
    let folder = tempfile::tempdir()?;
    let script = folder.path().join("limited");
    let program = env!("CARGO_BIN_EXE_slipring");
    fs::write(
        &script,
        format!("#!/bin/sh\nulimit -n {limit}\nexec {program} \"$@\"\n"),
    )?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let path = script.to_str().context("temporary folders have plain names")?;
    Ok((Proxy::builder(path).sentinels(cluster).start()?, folder))
}

#[test]
fn more_clients_than_descriptors_are_refused_and_harm_nobody() -> Result<()> {
    if !Flavor::Redis.runs_here() {
        return Ok(());
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(16_384), hard)?;
    let cluster = Cluster::builder(Flavor::Redis).nodes(1).sentinels(1).start()?;
    let (proxy, _folder) = with_descriptors(&cluster, 1024)?;
    let mut first = proxy.client()?;
    says(&mut first, "SET k v", "OK")?;
    let (mut served, mut turned_away) = (Vec::new(), 0);
    for number in 0..2000 {
        let mut stream = knock(proxy.address(), b"PING\r\n")?;
        let mut answer = [0; 7];
        match stream.read_exact(&mut answer) {
            Ok(()) if &answer == b"+PONG\r\n" => served.push(stream),
            Ok(()) => {
                let rest = last_words(&mut stream);
                ensure!(
                    answer == *b"-ERR ma" && rest == "x number of clients reached\r\n",
                    "{number}: {rest}"
                );
                turned_away += 1;
            }
            Err(error) => ensure!(
                error.kind() == std::io::ErrorKind::ConnectionReset,
                "{number}: {error}"
            ),
        }
    }
    ensure!(
        (700..1024).contains(&served.len()),
        "{} were served",
        served.len()
    );
    ensure!(turned_away > 900, "{turned_away} were told why not");
    ensure!(refused(&proxy, "max_clients")? as usize == 2000 - served.len());
    // Those who are in are served, also when connections of their own use up what descriptors are left.
    for stream in served.iter_mut().take(300) {
        stream.write_all(b"BLPOP nothing 0\r\n")?;
    }
    for stream in served.iter_mut().skip(300) {
        stream.write_all(b"GET k\r\n")?;
        let mut answer = [0; 7];
        stream.read_exact(&mut answer)?;
        ensure!(&answer == b"$1\r\nv\r\n", "{answer:?}");
    }
    says(&mut first, "SET k w", "OK")?;
    // Room again, once they go.
    drop(served);
    proxy.process().wait_until("room for others", || {
        let mut client = proxy.client()?;
        says(&mut client, "GET k", "w")
    })?;
    ensure!(proxy.get("/readyz")?.0 == 200);
    Ok(())
}
