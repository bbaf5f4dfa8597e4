//! Another process takes over: clients keep their connections and what they were at.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use rustix::io::FdFlags;
use testkit::client::{Cause, Client};
use testkit::port::Port;
use testkit::process::scratch;
use testkit::{Cluster, Flavor, Load, Proxy, Reply, on_each_server};

use super::support::{PATIENCE, ask, counts, says, slipring};

/// slipring that may be replaced, before this cluster.
fn upgradable(cluster: &Cluster) -> Result<Proxy> {
    slipring().sentinels(cluster).upgradable().start()
}

/// Another process in the place of this one, which ends.
fn replace(proxy: &mut Proxy) -> Result<()> {
    let former = proxy.succeed()?;
    let status = former.wait(PATIENCE)?;
    ensure!(
        status.code() == Some(0),
        "{status}\n{}\n{}",
        former.log_tail(),
        proxy.process().log_tail()
    );
    Ok(())
}

on_each_server! {
    fn three_times_under_load_and_nobody_is_told(flavor: Flavor) -> Result<()> {
        let cluster = Cluster::builder(flavor).nodes(2).sentinels(1).start()?;
        let mut proxy = upgradable(&cluster)?;
        let load = Load::builder(proxy.address()).clients(50).start()?;
        let stopping = Arc::new(AtomicBool::new(false));
        let mut busy = (0..4).map(|number| talk(&proxy, number, &stopping)).collect::<Result<Vec<_>>>()?;
        busy.extend((0..2).map(|_| come_and_go(&proxy, &stopping)));
        for _ in 0..3 {
            replace(&mut proxy)?;
            let moved = load.live().operations;
            proxy.process().wait_until("the load to go on", || {
                ensure!(load.live().operations > moved + 200, "it stands");
                Ok(())
            })?;
        }
        stopping.store(true, Ordering::Relaxed);
        for client in busy {
            client.join().expect("it returns what goes wrong")?;
        }
        let history = load.finish();
        let verdict = history.verify(&mut cluster.primary()?.client()?)?;
        ensure!(verdict.is_clean(), "{verdict:?}");
        let all = history.phase(&verdict, history.started, history.ended);
        ensure!(all.errors.is_empty() && all.unknown.is_empty(), "{all:?}");
        ensure!(all.dropped == 0 && all.stale == 0 && all.redelivered == 0, "{all:?}");
        ensure!(proxy.metric("slipring_clients_adopted_total", &[])? > 50.0, "they came by themselves");
        ensure!(proxy.metric("slipring_session_panics_total", &[])? == 0.0, "a panic");
        Ok(())
    }
}

/// WATCH, MULTI, two INCRs and EXEC, each in its own write, again and again.
fn talk(proxy: &Proxy, number: usize, stopping: &Arc<AtomicBool>) -> Result<JoinHandle<Result<()>>> {
    let (mut client, stopping) = (proxy.client()?, Arc::clone(stopping));
    let key = format!("talk:{number}");
    let mut transact = move |time: i64| -> Result<()> {
        says(&mut client, &format!("WATCH {key}"), "OK")?;
        says(&mut client, "MULTI", "OK")?;
        says(&mut client, &format!("INCR {key}"), "QUEUED")?;
        sleep(Duration::from_millis(3));
        says(&mut client, &format!("INCR {key}"), "QUEUED")?;
        let reply = ask(&mut client, "EXEC")?;
        let last = reply.items().last().and_then(Reply::integer);
        ensure!(last == Some(2 * time), "EXEC: {reply:?}");
        Ok(())
    };
    Ok(thread::spawn(move || {
        let goes_on = |_: &i64| !stopping.load(Ordering::Relaxed);
        (1..).take_while(goes_on).try_for_each(&mut transact)
    }))
}

/// Connects, asks and goes, again and again: no listening socket is ever closed with somebody in its backlog.
fn come_and_go(proxy: &Proxy, stopping: &Arc<AtomicBool>) -> JoinHandle<Result<()>> {
    let (address, stopping) = (proxy.address(), Arc::clone(stopping));
    thread::spawn(move || {
        while !stopping.load(Ordering::Relaxed) {
            says(&mut Client::connect(address)?, "ECHO here", "here")?;
            sleep(Duration::from_millis(3));
        }
        Ok(())
    })
}

/// What each client was at, on one server: no word of theirs matters here.
#[test]
fn each_client_goes_on_where_it_was() -> Result<()> {
    if !Flavor::Redis.runs_here() {
        return Ok(());
    }
    let cluster = Cluster::builder(Flavor::Redis).nodes(1).sentinels(1).start()?;
    let folder = scratch("manager")?;
    let manager = folder.path().join("notify");
    let manager = (UnixDatagram::bind(&manager)?, manager.display().to_string());
    manager.0.set_read_timeout(Some(PATIENCE))?;
    // Subscribers share a connection here; each of those of the load above has its own.
    let sharing = slipring()
        .sentinels(&cluster)
        .env("NOTIFY_SOCKET", &manager.1)
        .flag("--workers", "1")
        .env("SLIPRING_SHARE_SUBSCRIPTIONS", "true");
    let mut proxy = sharing.upgradable().start()?;
    let mut plain = proxy.client()?;
    says(&mut plain, "SELECT 3", "OK")?;
    says(&mut plain, "CLIENT SETNAME me", "OK")?;
    let id = ask(&mut plain, "CLIENT ID")?;
    let mut half = proxy.client()?;
    half.send_raw(b"*2\r\n$4\r\nECHO\r\n$5\r\nhel")?;
    let mut subscribers = [proxy.client()?, proxy.client()?];
    ask(&mut subscribers[1], "HELLO 3")?;
    for subscriber in &mut subscribers {
        ask(subscriber, "SUBSCRIBE news")?;
        ask(subscriber, "PSUBSCRIBE n*")?;
    }
    let mut blocked = proxy.client()?;
    blocked.send(&["BLPOP", "queue", "0"])?;
    let mut talking = proxy.client()?;
    says(&mut talking, "MULTI", "OK")?;

    let former = proxy.succeed()?;
    proxy
        .process()
        .wait_until("all but the transaction to move", || {
            let adopted = proxy.metric("slipring_clients_adopted_total", &[])?;
            ensure!(adopted == 5.0, "{adopted} have moved");
            Ok(())
        })?;
    let main = format!("MAINPID={}\n", proxy.process().pid().unwrap_or(0));
    let told = || -> Result<String> {
        let mut word = [0; 256];
        let len = manager
            .0
            .recv(&mut word)
            .context("the service manager is not told who the service is")?;
        Ok(String::from_utf8_lossy(&word[..len]).into_owned())
    };
    while !told()?.contains(&main) {}
    let mut new = proxy.client()?;
    let stats = ask(&mut new, "PROXY SHOW STATS")?.texts();
    ensure!(
        stats[0] == format!("upgraded_from process={} taken=5", former.pid().unwrap_or(0)),
        "{stats:?}"
    );
    let newest = ask(&mut new, "CLIENT ID")?;
    ensure!(newest.integer() > id.integer(), "{newest:?} after {id:?}");
    says(&mut talking, "SET talked yes", "QUEUED")?;
    ensure!(ask(&mut talking, "EXEC")?.items().len() == 1, "the transaction");
    let status = former.wait(PATIENCE)?;
    ensure!(status.code() == Some(0), "{status}\n{}", former.log_tail());

    says(&mut plain, "CLIENT GETNAME", "me")?;
    ensure!(ask(&mut plain, "CLIENT ID")? == id, "another id");
    half.send_raw(b"lo\r\n")?;
    ensure!(half.read()?.text() == Some("hello"), "the half-read request");
    // The node counts one subscriber and one pattern, however many have come.
    counts(&mut new, "PUBLISH news now", 2)?;
    for subscriber in &mut subscribers {
        for heard in [
            &["message", "news", "now"][..],
            &["pmessage", "n*", "news", "now"],
        ] {
            ensure!(subscriber.read()?.texts() == *heard, "a subscriber");
        }
    }
    counts(&mut new, "RPUSH queue item", 1)?;
    ensure!(blocked.read()?.texts() == ["queue", "item"], "the blocked client");
    says(&mut talking, "GET talked", "yes")?;
    Ok(())
}

/// As systemd's socket activation does it: the socket listens before slipring runs, and who came meanwhile is served.
#[test]
fn a_socket_of_the_service_manager_is_served() -> Result<()> {
    let port = Port::free()?;
    let listening = TcpListener::bind(port.address())?;
    rustix::io::fcntl_setfd(&listening, FdFlags::empty())?;
    let mut early = Client::connect(port.address())?;
    early.send(&["PROXY", "HELP"])?;
    let folder = scratch("activation")?;
    let manager = folder.path().join("manager");
    let socket = listening.as_raw_fd();
    let program = env!("CARGO_BIN_EXE_slipring");
    fs::write(
        &manager,
        format!("#!/bin/bash\nexec 3<&{socket}\nLISTEN_PID=$$ LISTEN_FDS=1 exec '{program}' \"$@\"\n"),
    )?;
    fs::set_permissions(&manager, Permissions::from_mode(0o755))?;
    let proxy = Proxy::builder(&manager)
        .flag("--sentinels", "127.0.0.1:1")
        .port(port)
        .spawn()?;
    drop(listening);
    let lines = early.read()?.texts().len();
    ensure!(lines > 3, "{}", proxy.process().log_tail());
    Ok(())
}

/// A successor that dies on the way leaves everything as it was.
#[test]
fn a_successor_that_dies_leaves_the_clients_where_they_were() -> Result<()> {
    if !Flavor::Redis.runs_here() {
        return Ok(());
    }
    let cluster = Cluster::builder(Flavor::Redis).nodes(1).sentinels(1).start()?;
    let mut proxy = upgradable(&cluster)?;
    let mut talking = proxy.client()?;
    says(&mut talking, "MULTI", "OK")?;
    let mut idle: Vec<_> = (0..20).map(|_| proxy.client()).collect::<Result<_>>()?;
    for client in &mut idle {
        says(client, "PING", "PONG")?;
    }
    let former = proxy.succeed()?;
    proxy
        .process()
        .wait_until("all but the transaction to move", || {
            ensure!(
                proxy.metric("slipring_clients_adopted_total", &[])? == 20.0,
                "not yet"
            );
            Ok(())
        })?;
    proxy.process().signal(Signal::SIGKILL)?;
    for client in &mut idle {
        ensure!(
            client.read_to_end() == (Vec::new(), Cause::Closed),
            "these died with it"
        );
    }
    // Who had not moved is served, and so is whoever comes.
    says(&mut talking, "SET talked yes", "QUEUED")?;
    ensure!(ask(&mut talking, "EXEC")?.items().len() == 1, "the transaction");
    let mut new = proxy.client()?;
    says(&mut new, "GET talked", "yes")?;
    former.signal(Signal::SIGTERM)?;
    ensure!(former.wait(PATIENCE)?.code() == Some(0), "{}", former.log_tail());
    Ok(())
}
