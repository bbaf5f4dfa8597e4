//! Threads: one a worker, and the control thread (the first one), which keeps watchers, admin endpoint and signals,
//! so that a busy worker cannot delay a failover.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use proxy_core::{
    Address, Demand, Handle, Listen, Listener, ProxiedListen, TcpListen, TlsListen, UnixListen, Upstream,
    Worker,
};
use sentinel_watcher::{Dial, Watcher, watcher};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio_util::sync::CancellationToken;

use crate::admin::Admin;
use crate::config::{Config, Door};
use crate::descriptors;
use crate::dial::{LiveDial, dials};
use crate::log::Level;
use crate::reload::{Master, Reloader};
use crate::service;
use crate::spans::{self, Spans};
use crate::status::{Status, Watched};
use crate::upgrade::{self, House, Inherited, Predecessor, Successor};

/// A part of slipring died that should not: `EX_SOFTWARE` of sysexits.h.
const EXIT_SOFTWARE: u8 = 70;

/// How long after `--drain-timeout` a worker may take to end.
const DRAIN_GRACE: Duration = Duration::from_secs(5);

/// Why a process drains whose clients another one serves.
const TAKEN_OVER: &str = "taken over";

/// How often a process that is to take over looks whether it could serve.
const SERVING_LOOK: Duration = Duration::from_millis(5);

/// What the control thread looks after.
struct Control {
    handle: Handle,
    status: Arc<Status>,
    watchers: Vec<Watcher>,
    admin: Option<Admin>,
    spans: Option<Spans>,
    /// Whether the endpoint answers in this process.
    admin_open: watch::Sender<bool>,
    workers: Vec<Worker>,
    drain_delay: Duration,
    reloader: Reloader,
    /// Takes over from another process.
    successor: Option<Successor>,
    /// Lets another process take over.
    predecessor: Option<Predecessor>,
}

/// Signals that end nothing.
struct Orders {
    hangup: Signal,
    pause: Signal,
    resume: Signal,
}

/// Binds, starts and serves, until drained by a signal.
///
/// # Errors
/// What keeps slipring from starting: an address that cannot be bound, a thread that cannot start.
pub(crate) fn run(mut config: Config, arguments: Vec<OsString>, level: Level) -> anyhow::Result<ExitCode> {
    config.settings.max_clients =
        descriptors::make_room(config.settings.max_clients, config.settings.workers);
    let control_runtime = runtime()?;
    let (successor, mut inherited) = match &config.upgrade.from {
        Some(path) => control_runtime
            .block_on(Successor::knock(path))
            .map(|(successor, sockets)| (Some(successor), sockets))?,
        None => (None, Inherited::from_service_manager()),
    };
    let bound = config
        .doors
        .iter()
        .map(|door| bind(door, &config, &mut inherited))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let admin = config
        .admin
        .map(|address| bind_admin(address, &mut inherited))
        .transpose()?;
    let predecessor =
        control_runtime.block_on(async { offer(&config, &bound, admin.as_deref(), &mut inherited) })?;
    if inherited.left() > 0 {
        tracing::warn!(
            sockets = inherited.left(),
            "no flag asks for some listening sockets: they are closed"
        );
    }
    drop(inherited);
    log_start(&config, &bound, admin.as_deref());

    let live = dials(&config).map(LiveDial::new);
    let [node_dial, sentinel_dial] = live.clone().map(|dial| -> Arc<dyn Dial> { dial });
    let (mut watchers, mut watched, mut upstreams) = (Vec::new(), Vec::new(), Vec::new());
    let mut masters = Vec::new();
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
        masters.push(Master {
            name: Arc::clone(&name),
            feed: feed.clone(),
            health: health.clone(),
            steering: steering.clone(),
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
    let mut settings = config.settings.clone();
    let (sender, commands) = mpsc::channel(spans::QUEUE);
    settings.watch.spans = config.collector.is_some().then_some(sender);
    let (workers, handle) = proxy_core::build(settings, upstreams, listeners.collect(), node_dial)
        .context("cannot share a listening socket between workers")?;
    let status = Arc::new(Status::new(watched, handle.metrics(), handle.timelines()));
    let timelines = handle.timelines();
    let spans = config
        .collector
        .map(|collector| Spans::new(collector, commands, timelines));
    let (admin_open, is_open) = watch::channel(true);
    let control = Control {
        status: Arc::clone(&status),
        handle,
        watchers,
        admin: admin.map(|listen| Admin::new(listen, status, is_open)),
        admin_open,
        spans: spans.transpose()?,
        workers,
        successor,
        predecessor,
        drain_delay: config.drain_delay,
        reloader: Reloader {
            arguments,
            facts: config.facts,
            settings: config.settings,
            doors: config.doors,
            masters,
            tls: config.tls,
            dials: live,
            level,
        },
    };
    control_runtime.block_on(control.run())
}

/// Runs `work` on this thread, and nothing beside it.
pub(crate) fn alone<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    runtime()?.block_on(work)
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
        let mut orders = Orders {
            hangup: signal(SignalKind::hangup()).context("cannot catch SIGHUP")?,
            pause: signal(SignalKind::user_defined1()).context("cannot catch SIGUSR1")?,
            resume: signal(SignalKind::user_defined2()).context("cannot catch SIGUSR2")?,
        };
        let (mut handle, mut reloader) = (self.handle, self.reloader);
        let cancel = CancellationToken::new();
        let mut watchers = JoinSet::new();
        for (index, watcher) in self.watchers.into_iter().enumerate() {
            watchers.spawn(watcher.run(cancel.clone()));
            watchers.spawn(Arc::clone(&self.status).record_failovers(index));
        }
        for timeline in handle.timelines() {
            watchers.spawn(async move { timeline.follow().await });
        }
        let passage = handle.passage();
        if let Some(successor) = &self.successor {
            let serving = wait_serving(&self.status);
            let _ = tokio::time::timeout(upgrade::SERVING_TIMEOUT, serving).await;
            match successor.begin().await {
                Ok(last_id) => passage.begin_above(last_id),
                Err(error) => tracing::warn!(%error, "the predecessor is gone: its clients are, too"),
            }
        }
        let mut endpoint = JoinSet::new();
        if let Some(admin) = self.admin {
            endpoint.spawn(admin.run());
        }
        if let Some(spans) = self.spans {
            watchers.spawn(spans.run());
        }
        let mut workers = JoinSet::new();
        for worker in self.workers.into_iter().enumerate() {
            // A value when it ended by itself, none when it panicked.
            let ended = start(worker)?;
            workers.spawn(async { ended.await.is_ok() });
        }
        let own_takeover = CancellationToken::new();
        let mut taking_over = JoinSet::new();
        if let Some(successor) = self.successor {
            let (passage, ending) = (passage.clone(), own_takeover.clone());
            taking_over.spawn(async move { successor.take_over(&passage, ending).await });
        }
        let house = House {
            passage: &passage,
            admin: &self.admin_open,
            own_takeover: &own_takeover,
        };

        service::ready();
        let cause = tokio::select! {
            biased;
            name = next_signal(&mut terminate, &mut interrupt) => Ok(name),
            Some(_) = workers.join_next() => Err("a worker"),
            Some(_) = watchers.join_next() => Err("a watcher"),
            Some(_) = endpoint.join_next() => Err("the admin endpoint"),
            drain = obey(&mut orders, &mut handle, &mut reloader) => Ok(drain),
            () = taken_over(self.predecessor.as_ref(), house) => Ok(TAKEN_OVER),
        };
        own_takeover.cancel();
        while taking_over.join_next().await.is_some() {}
        let code = match cause {
            Ok(name) => {
                tracing::info!(clients = handle.clients(), timeout = ?reloader.settings.drain_timeout, "{name}: draining");
                ExitCode::SUCCESS
            }
            Err(part) => {
                tracing::error!(
                    "{part} ended, which is a defect: draining, so that slipring can be started anew"
                );
                ExitCode::from(EXIT_SOFTWARE)
            }
        };
        // Whoever would have to notice has another process to talk to.
        let drain_delay = if matches!(cause, Ok(TAKEN_OVER)) {
            Duration::ZERO
        } else {
            self.drain_delay
        };
        service::stopping();
        self.status.drain();
        let all_ended = async {
            tokio::time::sleep(drain_delay).await;
            handle.drain();
            let ended = async { while workers.join_next().await.is_some() {} };
            tokio::time::timeout(reloader.settings.drain_timeout + DRAIN_GRACE, ended).await
        };
        tokio::select! {
            biased;
            name = next_signal(&mut terminate, &mut interrupt) => {
                tracing::warn!("{name} again: ending at once");
                return Ok(ExitCode::FAILURE);
            }
            ended = all_ended => match ended {
                Ok(()) => tracing::info!("drained"),
                Err(_) => tracing::warn!("workers did not end in time: ending without them"),
            },
        }
        cancel.cancel();
        Ok(code)
    }
}

/// Ends once another process serves instead.
async fn taken_over(predecessor: Option<&Predecessor>, house: House<'_>) {
    match predecessor {
        Some(predecessor) => predecessor.run(house).await,
        None => std::future::pending().await,
    }
}

async fn wait_serving(status: &Status) {
    while status.ready().is_err() {
        tokio::time::sleep(SERVING_LOOK).await;
    }
}

/// Obeys operators until one of them orders a drain.
async fn obey(orders: &mut Orders, handle: &mut Handle, reloader: &mut Reloader) -> &'static str {
    loop {
        let demand = tokio::select! {
            biased;
            _ = orders.hangup.recv() => Demand::Reload(oneshot::channel().0),
            _ = orders.pause.recv() => {
                reloader.pause(true).await;
                continue;
            }
            _ = orders.resume.recv() => {
                reloader.pause(false).await;
                continue;
            }
            demand = handle.demanded() => demand,
        };
        match demand {
            Demand::Drain => return "PROXY DRAIN",
            Demand::Reload(answer) => {
                service::reloading();
                // At SIGHUP the log is all that is told.
                let _ = answer.send(reloader.reload(handle).await);
                service::ready();
            }
        }
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

/// Where a successor finds this process, with all that listens.
fn offer(
    config: &Config,
    bound: &[Box<dyn Listen>],
    admin: Option<&dyn Listen>,
    inherited: &mut Inherited,
) -> anyhow::Result<Option<Predecessor>> {
    let upgrade = &config.upgrade;
    let Some(path) = &upgrade.socket else {
        return Ok(None);
    };
    let listening = bound.iter().map(|door| &**door).chain(admin);
    Predecessor::new(path, inherited, listening, upgrade.linger).map(Some)
}

fn bind(door: &Door, config: &Config, inherited: &mut Inherited) -> anyhow::Result<Box<dyn Listen>> {
    let plain: Box<dyn Listen> = match &door.address {
        address if let Some(listen) = inherited.take(address)? => listen,
        Address::Inet(address) => Box::new(listen(door.flag, *address)?),
        Address::Unix(path) => Box::new(UnixListen::bind(path).with_context(|| {
            let path = path.display();
            format!(
                "{} unix:{path}: cannot listen there; take a folder that slipring may write to",
                door.flag
            )
        })?),
    };
    let plain = if door.proxied {
        Box::new(ProxiedListen::new(plain)) as Box<dyn Listen>
    } else {
        plain
    };
    Ok(match &config.tls.listen {
        Some(tls) if door.tls => Box::new(TlsListen::new(plain, Arc::clone(tls))),
        _ => plain,
    })
}

fn bind_admin(address: SocketAddr, inherited: &mut Inherited) -> anyhow::Result<Box<dyn Listen>> {
    if let Some(listen) = inherited.take(&address.into())? {
        return Ok(listen);
    }
    Ok(Box::new(listen("--metrics-listen", address)?))
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
fn log_start(config: &Config, bound: &[Box<dyn Listen>], admin: Option<&dyn Listen>) {
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
