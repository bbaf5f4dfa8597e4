//! A value of 100 MiB, in and out, while others are served.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use testkit::client::encode;
use testkit::memory::{peak_bytes, resident_bytes};
use testkit::{Client, Cluster, Flavor, Proxy, Reply, on_each_server};

use super::support::{before, counts, says};

const LARGE: usize = 100 << 20;

/// What slipring may grow by while such values pass through it, both ways, for several clients at once.
const GROWTH: u64 = 16 << 20;

on_each_server! {
    fn a_hundred_mebibytes_both_ways(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor).nodes(2).sentinels(1).down_after(Duration::from_secs(20)).start()?;
        let proxy = before(&cluster)?;
        let pid = proxy.process().pid().context("it has ended")?;
        let resident = resident_bytes(pid)?;
        let over = AtomicBool::new(false);
        let (told, served) = thread::scope(|scope| {
            let others = scope.spawn(|| served_meanwhile(&proxy, &over));
            let told = back_and_forth(&proxy).and_then(|()| {
                let peak = peak_bytes(pid)?;
                eprintln!("{flavor}: {} KiB more than at rest", (peak - resident) >> 10);
                ensure!(peak < resident + GROWTH, "{} KiB more than at rest", (peak - resident) >> 10);
                in_a_transaction(&proxy)
            });
            over.store(true, Ordering::Relaxed);
            (told, others.join().expect("it returns what goes wrong"))
        });
        told?;
        let (operations, longest) = served?;
        eprintln!("{flavor}: {operations} operations beside it, the longest {longest:?}");
        ensure!(operations > 200 && longest < Duration::from_secs(3), "{operations}, the longest {longest:?}");
        let after = resident_bytes(pid)?;
        eprintln!("{flavor}: {} MiB resident before, {} after", resident >> 20, after >> 20);
        ensure!(after < resident + (LARGE as u64) / 2, "it kept {} MiB", (after - resident) >> 20);
        ensure!(proxy.metric("slipring_session_panics_total", &[])? == 0.0, "a session panicked");
        Ok(())
    }
}

fn back_and_forth(proxy: &Proxy) -> Result<()> {
    let value: Vec<u8> = (0..LARGE).map(|at| (at / 7 + at % 251) as u8).collect();
    let mut client = proxy.client()?;
    let stored = client.command(&[&b"SET"[..], b"large", &value])?;
    ensure!(stored.text() == Some("OK"), "SET: {stored:?}");
    counts(&mut client, "STRLEN large", LARGE as i64)?;
    // Replies before and behind keep their places.
    client.send_raw(b"PING before\r\nGET large\r\nPING behind\r\n")?;
    ensure!(client.read()?.text() == Some("before"), "before");
    ensure!(
        client.read()? == Reply::Bulk(value.clone()),
        "not the value that was stored"
    );
    ensure!(client.read()?.text() == Some("behind"), "behind");

    // A reader that takes its time, and one that leaves in the middle.
    let mut slow = proxy.client()?;
    slow.send(&["GET", "large"])?;
    let mut leaver = proxy.client()?;
    leaver.send(&["GET", "large"])?;
    sleep(Duration::from_millis(300));
    drop(leaver);
    ensure!(
        slow.read()? == Reply::Bulk(value.clone()),
        "what the slow reader got"
    );
    let mut writer = proxy.client()?;
    writer.send_raw(&encode(&[&b"SET"[..], b"half", &value])[..LARGE / 2])?;
    drop(writer);
    says(&mut client, "PING still", "still")
}

/// What MULTI holds is kept whole; and one byte more than a server takes.
fn in_a_transaction(proxy: &Proxy) -> Result<()> {
    let mut client = proxy.client()?;
    client.send(&["MULTI"])?;
    client.send(&[&b"SET"[..], b"large", &vec![b'v'; LARGE / 4]])?;
    client.send(&["STRLEN", "large"])?;
    client.send(&["EXEC"])?;
    let replies = (0..4).map(|_| Ok(client.read()?)).collect::<Result<Vec<_>>>()?;
    ensure!(
        replies[3].items().last() == Some(&Reply::Integer(LARGE as i64 / 4)),
        "{replies:?}"
    );
    counts(&mut client, "EXISTS half", 0)?;
    too_large(proxy)?;
    counts(&mut client, "DEL large", 1)
}

fn too_large(proxy: &Proxy) -> Result<()> {
    let mut client = proxy.client()?;
    client.send_raw(format!("*2\r\n$3\r\nGET\r\n${}\r\n", (512 << 20) + 1).as_bytes())?;
    let (refusal, _) = client.read_to_end();
    ensure!(
        refusal == b"-ERR Protocol error: invalid bulk length\r\n",
        "{refusal:?}"
    );
    Ok(())
}

/// Small requests of another client: how many were served, and the longest that one took.
fn served_meanwhile(proxy: &Proxy, over: &AtomicBool) -> Result<(usize, Duration)> {
    let mut client: Client = proxy.client()?;
    let (mut operations, mut longest) = (0, Duration::ZERO);
    while !over.load(Ordering::Relaxed) {
        let sent = Instant::now();
        counts(&mut client, "INCR small", operations as i64 + 1)?;
        longest = longest.max(sent.elapsed());
        operations += 1;
        sleep(Duration::from_millis(2));
    }
    Ok((operations, longest))
}
