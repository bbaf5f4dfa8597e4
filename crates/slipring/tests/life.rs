//! From start to end where there is no Redis at all: slipring listens, says what it waits for, and drains.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use testkit::Proxy;
use testkit::port::Port;

const PATIENCE: Duration = Duration::from_secs(10);

/// A proxy whose only sentinel is a port that nobody listens on.
fn forsaken() -> Result<Proxy> {
    let nobody = Port::free()?;
    let builder = Proxy::builder(env!("CARGO_BIN_EXE_slipring"));
    let proxy = builder
        .flag("--sentinels", &nobody.address().to_string())
        .spawn()?;
    proxy
        .process()
        .wait_until("/healthz", || proxy.get("/healthz").map(drop))?;
    Ok(proxy)
}

#[test]
fn it_lives_without_a_primary_and_says_what_is_wrong() -> Result<()> {
    let proxy = forsaken()?;
    let (status, report) = proxy.get("/readyz")?;
    assert_eq!(status, 503);
    assert!(report.starts_with("mymaster: down"), "{report}");
    let (status, topology) = proxy.get("/topology")?;
    assert_eq!(status, 200);
    assert!(topology.contains("\"phase\": \"down\""), "{topology}");
    Ok(())
}

#[test]
fn the_service_manager_is_told() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path)?;
    manager.set_read_timeout(Some(PATIENCE))?;
    let told = || -> Result<String> {
        let mut message = [0; 256];
        let len = manager.recv(&mut message)?;
        Ok(String::from_utf8_lossy(&message[..len]).into_owned())
    };
    let nobody = Port::free()?;
    let proxy = Proxy::builder(env!("CARGO_BIN_EXE_slipring"))
        .flag("--sentinels", &nobody.address().to_string())
        .env("NOTIFY_SOCKET", path.to_str().expect("plain"))
        .spawn()?;
    ensure!(told()?.contains("READY=1"), "not told that it is ready");
    proxy.process().signal(Signal::SIGHUP)?;
    let reloading = told()?;
    ensure!(
        reloading.contains("RELOADING=1") && reloading.contains("MONOTONIC_USEC="),
        "{reloading}"
    );
    ensure!(told()?.contains("READY=1"), "not told that the reload is done");
    proxy.terminate(PATIENCE)?;
    ensure!(told()?.contains("STOPPING=1"), "not told that it stops");
    Ok(())
}

#[test]
fn a_signal_drains_at_once_where_nobody_is_served() -> Result<()> {
    let proxy = forsaken()?;
    let status = proxy.terminate(PATIENCE)?;
    assert!(status.success(), "{status}");
    Ok(())
}

#[test]
#[expect(clippy::disallowed_methods, reason = "real processes take real time")]
fn a_second_signal_does_not_wait_for_clients() -> Result<()> {
    let proxy = forsaken()?;
    let mut client = proxy.client()?;
    client.send(&["SET", "key", "value"])?;
    proxy.process().wait_until("the command to be held", || {
        let held = proxy.metric("slipring_held_commands", &[])?;
        ensure!(held == 1.0, "{held} are held");
        Ok(())
    })?;
    proxy.process().signal(Signal::SIGINT)?;
    proxy.process().wait_until("/readyz to say that it drains", || {
        let (status, report) = proxy.get("/readyz")?;
        ensure!(status == 503 && report == "draining\n", "{status}: {report}");
        Ok(())
    })?;
    let before = Instant::now();
    let status = proxy.terminate(PATIENCE)?;
    assert_eq!(status.code(), Some(1));
    assert!(
        before.elapsed() < Duration::from_secs(10),
        "it waited for its client"
    );
    Ok(())
}
