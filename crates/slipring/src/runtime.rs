//! Threads: one a worker, and the control thread (the first one), which keeps watchers, admin endpoint and signals,
//! so that a busy worker cannot delay a failover.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use proxy_core::{
    Address, Handle, Listen, Listener, TcpDial, TcpListen, TlsDial, TlsListen, UnixListen, Upstream, Worker,
};
use sentinel_watcher::{Dial, Watcher, watcher};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::{JoinSet, LocalSet};
use tokio_util::sync::CancellationToken;

use crate::admin::Admin;
use crate::config::{Config, Door};
use crate::descriptors;
use crate::service;
use crate::status::{Status, Watched};
use crate::tls::Tls;

/// A part of slipring died that should not: `EX_SOFTWARE` of sysexits.h.
const EXIT_SOFTWARE: u8 = 70;

/// How long after `--drain-timeout` a worker may take to end.
const DRAIN_GRACE: Duration = Duration::from_secs(5);

/// A client that has not finished its TLS handshake within this time is closed.
const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the control thread looks after.
struct Control {
    handle: Handle,
    status: Arc<Status>,
    watchers: Vec<Watcher>,
    admin: Option<Admin>,
    /// One a worker: a value when it ended by itself, none when it panicked.
    ended: Vec<oneshot::Receiver<()>>,
    drain_timeout: Duration,
    tls: Tls,
}

/// Binds, starts and serves, until drained by a signal.
///
/// # Errors
/// What keeps slipring from starting: an address that cannot be bound, a thread that cannot start.
pub(crate) fn run(mut config: Config) -> anyhow::Result<ExitCode> {
    config.settings.max_clients =
        descriptors::make_room(config.settings.max_clients, config.settings.workers);
    let bound = config
        .doors
        .iter()
        .map(|door| bind(door, &config))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let admin = config.admin.map(bind_admin).transpose()?;
    log_start(&config, &bound, admin.as_ref());

    let drain_timeout = config.settings.drain_timeout;
    let [node_dial, sentinel_dial] = dials(&config);
    let (mut watchers, mut watched, mut upstreams) = (Vec::new(), Vec::new(), Vec::new());
    for master in config.masters {
        let name: Arc<str> = Arc::from(&*master.master);
        let (watcher, feed, hints, health) =
            watcher(master, Arc::clone(&sentinel_dial), Arc::clone(&node_dial));
        let steering = watcher.steering();
        watchers.push(watcher);
        watched.push(Watched {
            master: Arc::clone(&name),
            topology: feed.clone(),
            health: health.clone(),
        });
        upstreams.push(Upstream {
            master: name,
            feed,
            hints,
            health,
            steering,
        });
    }
    let listeners = config.doors.iter().zip(bound).map(|(door, listen)| Listener {
        listen,
        upstream: door.upstream,
        reads: door.reads,
    });
    let (workers, handle) = proxy_core::build(config.settings, upstreams, listeners.collect(), node_dial)
        .context("cannot share a listening socket between workers")?;
    let status = Arc::new(Status::new(watched, handle.metrics(), handle.timelines()));
    let control = Control {
        status: Arc::clone(&status),
        handle,
        watchers,
        admin: admin.map(|listen| Admin::new(listen, status)),
        ended: workers
            .into_iter()
            .enumerate()
            .map(start)
            .collect::<anyhow::Result<_>>()?,
        drain_timeout,
        tls: config.tls,
    };
    runtime()?.block_on(control.run())
}

/// Runs `worker` on a thread of its own.
fn start((number, worker): (usize, Worker)) -> anyhow::Result<oneshot::Receiver<()>> {
    let (sender, ended) = oneshot::channel();
    let runtime = runtime()?;
    std::thread::Builder::new()
        .name(format!("worker-{number}"))
        .spawn(move || {
            LocalSet::new().block_on(&runtime, worker.run());
            // The control thread may have ended already, at the second signal.
            let _ = sender.send(());
        })
        .with_context(|| format!("cannot start the thread of worker {number}"))?;
    Ok(ended)
}

// === impl Control ===

impl Control {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
        let mut hangup = signal(SignalKind::hangup()).context("cannot catch SIGHUP")?;
        let cancel = CancellationToken::new();
        let mut watchers = JoinSet::new();
        for (index, watcher) in self.watchers.into_iter().enumerate() {
            watchers.spawn(watcher.run(cancel.clone()));
            watchers.spawn(Arc::clone(&self.status).record_failovers(index));
        }
        for timeline in self.handle.timelines() {
            watchers.spawn(async move { timeline.follow().await });
        }
        let mut endpoint = JoinSet::new();
        if let Some(admin) = self.admin {
            endpoint.spawn(admin.run());
        }
        let mut workers = JoinSet::new();
        for ended in self.ended {
            workers.spawn(async { ended.await.is_ok() });
        }

        service::ready();
        let cause = tokio::select! {
            biased;
            name = next_signal(&mut terminate, &mut interrupt) => Ok(name),
            Some(_) = workers.join_next() => Err("a worker"),
            Some(_) = watchers.join_next() => Err("a watcher"),
            Some(_) = endpoint.join_next() => Err("the admin endpoint"),
            never = reload_at(&mut hangup, &self.tls) => match never {},
        };
        let code = match cause {
            Ok(name) => {
                tracing::info!(clients = self.handle.clients(), timeout = ?self.drain_timeout, "{name}: draining");
                ExitCode::SUCCESS
            }
            Err(part) => {
                tracing::error!(
                    "{part} ended, which is a defect: draining, so that slipring can be started anew"
                );
                ExitCode::from(EXIT_SOFTWARE)
            }
        };
        service::stopping();
        self.status.drain();
        self.handle.drain();
        let all_ended = async { while workers.join_next().await.is_some() {} };
        tokio::select! {
            biased;
            name = next_signal(&mut terminate, &mut interrupt) => {
                tracing::warn!("{name} again: ending at once");
                return Ok(ExitCode::FAILURE);
            }
            ended = tokio::time::timeout(self.drain_timeout + DRAIN_GRACE, all_ended) => match ended {
                Ok(()) => tracing::info!("drained"),
                Err(_) => tracing::warn!("workers did not end in time: ending without them"),
            },
        }
        cancel.cancel();
        Ok(code)
    }
}

/// Reads the certificates again at each SIGHUP. Where one is wrong, all stay as they are.
async fn reload_at(hangup: &mut Signal, tls: &Tls) -> Infallible {
    loop {
        hangup.recv().await;
        service::reloading();
        match tls.reload() {
            Ok(()) => tracing::info!("SIGHUP: certificates read again"),
            Err(error) => tracing::error!("SIGHUP: nothing is changed: {error}"),
        }
        service::ready();
    }
}

async fn next_signal(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        biased;
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

fn runtime() -> anyhow::Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot create an event loop")
}

/// How nodes and sentinels are reached.
fn dials(config: &Config) -> [Arc<dyn Dial>; 2] {
    let timeout = config.settings.connect_timeout;
    let tcp: Arc<dyn Dial> = Arc::new(TcpDial { timeout });
    let [node_name, sentinel_name] = config.server_names.clone();
    [
        (&config.tls.node, node_name),
        (&config.tls.sentinel, sentinel_name),
    ]
    .map(|(side, server_name)| match side {
        None => Arc::clone(&tcp),
        Some((_, config)) => Arc::new(TlsDial {
            inner: Arc::clone(&tcp),
            config: Arc::clone(config),
            server_name,
            timeout,
        }),
    })
}

fn bind(door: &Door, config: &Config) -> anyhow::Result<Box<dyn Listen>> {
    let plain: Box<dyn Listen> = match &door.address {
        Address::Inet(address) => Box::new(listen(door.flag, *address)?),
        Address::Unix(path) => Box::new(UnixListen::bind(path).with_context(|| {
            let path = path.display();
            format!(
                "{} unix:{path}: cannot listen there; take a folder that slipring may write to",
                door.flag
            )
        })?),
    };
    Ok(match &config.tls.listen {
        Some((_, tls)) if door.tls => Box::new(TlsListen::new(plain, Arc::clone(tls), TLS_HANDSHAKE_TIMEOUT)),
        _ => plain,
    })
}

fn bind_admin(address: SocketAddr) -> anyhow::Result<TcpListen> {
    listen("--metrics-listen", address)
}

fn listen(flag: &str, address: SocketAddr) -> anyhow::Result<TcpListen> {
    use std::io::ErrorKind::{AddrInUse, AddrNotAvailable, PermissionDenied};
    TcpListen::bind(address).map_err(|error| {
        let remedy = match error.kind() {
            AddrInUse => "something listens there already: stop it, or choose another port",
            AddrNotAvailable => "this machine has no such address: choose one of its own, or * for all",
            PermissionDenied => {
                "ports below 1024 need CAP_NET_BIND_SERVICE: grant it, or choose a higher port"
            }
            _ => "choose another address",
        };
        anyhow::anyhow!("{flag} {address}: {error}; {remedy}")
    })
}

/// The one line that says what runs here, with the real ports.
fn log_start(config: &Config, bound: &[Box<dyn Listen>], admin: Option<&TcpListen>) {
    let masters: Vec<_> = config.masters.iter().map(|master| &*master.master).collect();
    let doors = config.doors.iter().zip(bound).map(|(door, socket)| {
        format!(
            "{}={}",
            socket.address(),
            masters.get(door.upstream).copied().unwrap_or_default()
        )
    });
    let sentinels: Vec<_> = config
        .masters
        .iter()
        .take(1)
        .flat_map(|master| &master.sentinels)
        .map(ToString::to_string)
        .collect();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        listen = doors.collect::<Vec<_>>().join(","),
        metrics = admin.map_or_else(|| "off".to_owned(), |admin| admin.address().to_string()),
        sentinels = sentinels.join(","),
        masters = masters.join(","),
        workers = config.settings.workers,
        max_clients = config.settings.max_clients,
        "slipring starts"
    );
}
