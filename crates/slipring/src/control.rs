//! The control thread: it keeps watchers, admin endpoint and signals, so that a busy worker cannot delay a failover.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use proxy_core::{Demand, Handle, Passage, Worker};
use sentinel_watcher::Watcher;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin::Admin;
use crate::memory;
use crate::reload::Reloader;
use crate::service;
use crate::spans::Spans;
use crate::status::Status;
use crate::threads::start;
use crate::upgrade::{self, House, Predecessor, Successor};

/// A part of slipring died that should not: `EX_SOFTWARE` of sysexits.h.
const EXIT_SOFTWARE: u8 = 70;

/// How long after `--drain-timeout` a worker may take to end.
const DRAIN_GRACE: Duration = Duration::from_secs(5);

/// Why a process drains whose clients another one serves.
const TAKEN_OVER: &str = "taken over";

/// How often a process that is to take over looks whether it could serve.
const SERVING_LOOK: Duration = Duration::from_millis(5);

/// What the control thread looks after.
pub(crate) struct Control {
    pub(crate) handle: Handle,
    pub(crate) status: Arc<Status>,
    pub(crate) watchers: Vec<Watcher>,
    pub(crate) admin: Option<Admin>,
    pub(crate) spans: Option<Spans>,
    /// Whether the endpoint answers in this process.
    pub(crate) admin_open: watch::Sender<bool>,
    pub(crate) workers: Vec<Worker>,
    pub(crate) reloader: Reloader,
    /// Takes over from another process.
    pub(crate) successor: Option<Successor>,
    /// Lets another process take over.
    pub(crate) predecessor: Option<Predecessor>,
}

/// What must not end before it is told to.
struct Parts {
    /// Watchers, and all that follows them.
    watchers: JoinSet<()>,
    endpoint: JoinSet<()>,
    /// True when it ended by itself, false when it panicked.
    workers: JoinSet<bool>,
}

/// Signals that end slipring.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

/// Signals that end nothing.
struct Orders {
    hangup: Signal,
    pause: Signal,
    resume: Signal,
}

// === impl Control ===

impl Control {
    /// Starts all parts, and serves until one of them dies, or slipring is to end.
    ///
    /// # Errors
    /// A signal that cannot be caught, a thread that cannot start.
    pub(crate) async fn run(mut self) -> anyhow::Result<ExitCode> {
        let (mut ends, mut orders) = (Ends::catch()?, Orders::catch()?);
        let cancel = CancellationToken::new();
        let passage = self.handle.passage();
        let mut parts = self.start(&passage, &cancel).await?;
        let own_takeover = CancellationToken::new();
        let mut taking_over = JoinSet::new();
        if let Some(successor) = self.successor.take() {
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
            name = ends.next() => Ok(name),
            part = parts.ended() => Err(part),
            drain = orders.obey(&mut self.handle, &mut self.reloader) => Ok(drain),
            () = taken_over(self.predecessor.as_ref(), house) => Ok(TAKEN_OVER),
        };
        own_takeover.cancel();
        while taking_over.join_next().await.is_some() {}
        let code = self.tell(cause);
        // Whoever would have to notice has another process to talk to.
        let drain_delay = if matches!(cause, Ok(TAKEN_OVER)) {
            Duration::ZERO
        } else {
            self.reloader.drain_delay
        };
        service::stopping();
        self.status.drain();
        tokio::select! {
            biased;
            name = ends.next() => {
                tracing::warn!("{name} again: ending at once");
                return Ok(ExitCode::FAILURE);
            }
            () = self.drain(drain_delay, &mut parts.workers) => {}
        }
        cancel.cancel();
        Ok(code)
    }

    /// Workers come last: a process that takes over is to know the primary before its first client.
    async fn start(&mut self, passage: &Passage, cancel: &CancellationToken) -> anyhow::Result<Parts> {
        let mut watchers = JoinSet::new();
        for (index, watcher) in self.watchers.drain(..).enumerate() {
            watchers.spawn(watcher.run(cancel.clone()));
            watchers.spawn(Arc::clone(&self.status).record_failovers(index));
        }
        for timeline in self.handle.timelines() {
            watchers.spawn(async move { timeline.follow().await });
        }
        watchers.spawn(memory::watch(self.handle.meter()));
        if let Some(successor) = &self.successor {
            let serving = wait_serving(&self.status);
            let _ = tokio::time::timeout(upgrade::SERVING_TIMEOUT, serving).await;
            match successor.begin().await {
                Ok(last_id) => {
                    passage.begin_above(last_id);
                    passage.comes_from(successor.predecessor());
                }
                Err(error) => tracing::warn!(%error, "the predecessor is gone: its clients are, too"),
            }
        }
        let mut endpoint = JoinSet::new();
        if let Some(admin) = self.admin.take() {
            endpoint.spawn(admin.run());
        }
        if let Some(spans) = self.spans.take() {
            watchers.spawn(spans.run());
        }
        let mut workers = JoinSet::new();
        for worker in self.workers.drain(..).enumerate() {
            let ended = start(worker)?;
            workers.spawn(async { ended.await.is_ok() });
        }
        Ok(Parts {
            watchers,
            endpoint,
            workers,
        })
    }

    /// Logs why slipring ends: its exit code.
    fn tell(&self, cause: Result<&str, &str>) -> ExitCode {
        match cause {
            Ok(name) => {
                let timeout = self.reloader.settings.drain_timeout;
                tracing::info!(clients = self.handle.clients(), ?timeout, "{name}: draining");
                ExitCode::SUCCESS
            }
            Err(part) => {
                tracing::error!(
                    "{part} ended, which is a defect: draining, so that slipring can be started anew"
                );
                ExitCode::from(EXIT_SOFTWARE)
            }
        }
    }

    async fn drain(&self, delay: Duration, workers: &mut JoinSet<bool>) {
        tokio::time::sleep(delay).await;
        self.handle.drain();
        let ended = async { while workers.join_next().await.is_some() {} };
        let timeout = self.reloader.settings.drain_timeout + DRAIN_GRACE;
        match tokio::time::timeout(timeout, ended).await {
            Ok(()) => tracing::info!("drained"),
            Err(_) => tracing::warn!("workers did not end in time: ending without them"),
        }
    }
}

// === impl Parts ===

impl Parts {
    /// The one that has ended.
    async fn ended(&mut self) -> &'static str {
        tokio::select! {
            biased;
            Some(_) = self.workers.join_next() => "a worker",
            Some(_) = self.watchers.join_next() => "a watcher",
            Some(_) = self.endpoint.join_next() => "the admin endpoint",
        }
    }
}

// === impl Ends ===

impl Ends {
    fn catch() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("cannot catch SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("cannot catch SIGINT")?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

// === impl Orders ===

impl Orders {
    fn catch() -> anyhow::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup()).context("cannot catch SIGHUP")?,
            pause: signal(SignalKind::user_defined1()).context("cannot catch SIGUSR1")?,
            resume: signal(SignalKind::user_defined2()).context("cannot catch SIGUSR2")?,
        })
    }

    /// Obeys operators until one of them orders a drain.
    async fn obey(&mut self, handle: &mut Handle, reloader: &mut Reloader) -> &'static str {
        loop {
            let demand = tokio::select! {
                biased;
                _ = self.hangup.recv() => Demand::Reload(oneshot::channel().0),
                _ = self.pause.recv() => {
                    reloader.pause(true).await;
                    continue;
                }
                _ = self.resume.recv() => {
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
