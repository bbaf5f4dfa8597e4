//! Builds all parts, and runs them.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use proxy_core::{Listener, Upstream};
use sentinel_watcher::{Dial, Watcher, WatcherConfig, watcher};
use tokio::sync::{mpsc, watch};

use crate::admin::Admin;
use crate::bind::{Bound, bind};
use crate::config::Config;
use crate::control::Control;
use crate::descriptors;
use crate::dial::{LiveDial, dials};
use crate::log::Level;
use crate::reload::{Master, Reloader};
use crate::spans::{self, Spans};
use crate::status::Status;
use crate::threads;
use crate::upgrade::{Inherited, Successor};

/// Binds, starts and serves, until drained by a signal.
///
/// # Errors
/// What keeps slipring from starting: an address that cannot be bound, a thread that cannot start.
pub(crate) fn run(mut config: Config, arguments: Vec<OsString>, level: Level) -> anyhow::Result<ExitCode> {
    config.settings.max_clients =
        descriptors::make_room(config.settings.max_clients, config.settings.workers);
    let event_loop = threads::event_loop()?;
    let (successor, inherited) = match &config.upgrade.from {
        Some(path) => event_loop
            .block_on(Successor::knock(path))
            .map(|(successor, sockets)| (Some(successor), sockets))?,
        None => (None, Inherited::from_service_manager()),
    };
    let bound = event_loop.block_on(async { bind(&config, inherited) })?;
    log_start(&config, &bound);

    let live = dials(&config).map(LiveDial::new);
    let [node_dial, sentinel_dial] = live.clone().map(|dial| -> Arc<dyn Dial> { dial });
    let mut watchers = Vec::new();
    let (mut upstreams, mut masters) = (Vec::new(), Vec::new());
    for master in config.masters {
        let (watcher, upstream) = watch(master, [&sentinel_dial, &node_dial]);
        masters.push(Master::of(&upstream));
        watchers.push(watcher);
        upstreams.push(upstream);
    }
    let listeners = config
        .doors
        .iter()
        .zip(bound.doors)
        .map(|(door, listen)| Listener {
            listen,
            upstream: door.upstream,
            reads: door.reads,
        });
    let mut settings = config.settings.clone();
    let (sender, commands) = mpsc::channel(spans::QUEUE);
    settings.watch.spans = config.collector.is_some().then_some(sender);
    let (workers, handle) = proxy_core::build(settings, upstreams, listeners.collect(), node_dial)
        .context("cannot share a listening socket between workers")?;
    let watched = masters.iter().map(|master| master.watched.clone()).collect();
    let timelines = handle.timelines();
    let memory = Arc::clone(handle.meter().memory());
    let status = Arc::new(Status::new(watched, handle.metrics(), memory, timelines.clone()));
    let spans = config
        .collector
        .map(|collector| Spans::new(collector, commands, timelines));
    let (admin_open, is_open) = watch::channel(true);
    let control = Control {
        status: Arc::clone(&status),
        handle,
        watchers,
        admin: bound.admin.map(|listen| Admin::new(listen, status, is_open)),
        admin_open,
        spans: spans.transpose()?,
        workers,
        successor,
        predecessor: bound.predecessor,
        reloader: Reloader {
            arguments,
            facts: config.facts,
            settings: config.settings,
            drain_delay: config.drain_delay,
            doors: config.doors,
            masters,
            tls: config.tls,
            dials: live,
            level,
        },
    };
    event_loop.block_on(control.run())
}

/// Who follows this master, and what it is followed for.
fn watch(master: WatcherConfig, [sentinels, nodes]: [&Arc<dyn Dial>; 2]) -> (Watcher, Upstream) {
    let name = Arc::from(&*master.master);
    let (watcher, feed, hints, health) = watcher(master, Arc::clone(sentinels), Arc::clone(nodes));
    let upstream = Upstream {
        master: name,
        feed,
        hints,
        health,
        steering: watcher.steering(),
    };
    (watcher, upstream)
}

/// The one line that says what runs here, with the real ports; before it, what is wrong with it.
fn log_start(config: &Config, bound: &Bound) {
    if let Some(fault) = &config.tls.out_of_date {
        tracing::warn!(
            "clients are shown a certificate that they refuse: {}",
            fault.what()
        );
    }
    let masters: Vec<_> = config.masters.iter().map(|master| &*master.master).collect();
    let doors = config.doors.iter().zip(&bound.doors).map(|(door, socket)| {
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
        metrics = bound
            .admin
            .as_ref()
            .map_or_else(|| "off".to_owned(), |admin| admin.address().to_string()),
        sentinels = sentinels.join(","),
        masters = masters.join(","),
        workers = config.settings.workers,
        max_clients = config.settings.max_clients,
        "slipring starts"
    );
}
