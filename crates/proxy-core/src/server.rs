//! Accept, admit, spawn.
//!
//! ```text
//!   listening socket, shared by all workers --accept--> whoever is to serve it --admit--> session task
//! ```

mod admit;
mod drain;
mod orders;
mod passage;
mod place;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwap;
use sentinel_watcher::{Credentials, Dial};
use slab::Slab;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use crate::backend::fleet::{Fleet, FleetParts};
use crate::client::{Client, Order};
use crate::crowd::Crowd;
use crate::demand::{Demand, DemandReceiver, Demands, demands};
use crate::door::{Door, Master, Upstream, WorkerState};
use crate::entry::Entry;
use crate::failover::Timeline;
use crate::limits;
use crate::live::Live;
use crate::lookout::Lookout;
use crate::memory::{Memory, Meter};
use crate::metrics::{CloseReason, Counter, Gauge, Metrics};
use crate::net::{Accepted, Listen};
use crate::passage::Kin;
use crate::roster::{Message, Roster};
use crate::settings::{ReadPolicy, Settings};
pub use passage::Passage;

/// One address that clients connect to.
pub struct Listener {
    /// The bound socket.
    pub listen: Box<dyn Listen>,
    /// Index into the upstreams: whom its clients mean.
    pub upstream: usize,
    /// Which node answers their reads.
    pub reads: ReadPolicy,
}

/// One thread's share of the proxy: run it on a LocalSet.
pub struct Worker {
    number: usize,
    shared: Arc<Shared>,
    listeners: Vec<Listener>,
    inbox: mpsc::Receiver<Message>,
    dial: Arc<dyn Dial>,
}

/// What the control thread may ask of all workers.
pub struct Handle {
    shared: Arc<Shared>,
    draining: watch::Sender<bool>,
    demanded: DemandReceiver,
}

/// What crosses the workers' threads.
struct Shared {
    /// As last loaded, for workers that begin.
    settings: ArcSwap<Settings>,
    /// Set once, whatever a reload says.
    workers: usize,
    demands: Demands,
    masters: Arc<[Master]>,
    metrics: Arc<Metrics>,
    /// Clients of each worker.
    loads: Vec<AtomicUsize>,
    roster: Arc<Roster>,
    memory: Arc<Memory>,
    kin: Arc<Kin>,
    draining: watch::Receiver<bool>,
    held_bytes: Arc<AtomicUsize>,
    crowd: Arc<Crowd>,
    last_id: AtomicU64,
    /// The master and the address of each listener.
    doors: Vec<(Arc<str>, Arc<str>)>,
}

/// A worker while it runs.
struct Running {
    number: usize,
    shared: Arc<Shared>,
    state: Rc<WorkerState>,
    fleets: Vec<Rc<Fleet>>,
    doors: Vec<Rc<Door>>,
    clients: RefCell<Slab<Rc<Client>>>,
    emptied: Notify,
    /// When sessions that could not leave are asked again.
    asked: Cell<Instant>,
}

/// How long after a failed accept (no file descriptors) the next one is tried.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// How often accepts that fail one behind the other are told of.
const ACCEPT_COMPLAINT: Duration = Duration::from_secs(1);

/// Builds the workers of a proxy. Nothing is served until each of them runs.
///
/// # Errors
/// A listening socket that cannot be shared between workers.
pub fn build(
    settings: Settings,
    upstreams: Vec<Upstream>,
    listeners: Vec<Listener>,
    dial: Arc<dyn Dial>,
) -> io::Result<(Vec<Worker>, Handle)> {
    let workers = settings.workers.max(1);
    let masters = upstreams
        .iter()
        .map(|upstream| Arc::clone(&upstream.master))
        .collect();
    let addresses: Vec<Arc<str>> = listeners
        .iter()
        .map(|door| Arc::from(door.listen.address().to_string()))
        .collect();
    let master_of = |door: &Listener| {
        let upstream = upstreams.get(door.upstream);
        Arc::clone(&upstream.expect("a listener names an upstream").master)
    };
    let doors = listeners
        .iter()
        .map(master_of)
        .zip(addresses.iter().cloned())
        .collect();
    let (draining, drained) = watch::channel(false);
    let (demands, demanded) = demands();
    let (roster, receivers) = Roster::new(workers);
    let metrics = Metrics::new(workers, masters, addresses);
    let memory = Arc::new(Memory::limited_to(settings.max_memory));
    let masters = upstreams
        .into_iter()
        .enumerate()
        .map(|(number, upstream)| Master::new(upstream, number, &settings, workers, &metrics))
        .collect();
    let shared = Arc::new(Shared {
        masters,
        metrics,
        settings: ArcSwap::from_pointee(Settings { workers, ..settings }),
        workers,
        demands,
        loads: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
        roster: Arc::new(roster),
        memory,
        kin: Arc::default(),
        draining: drained,
        held_bytes: Arc::default(),
        crowd: Arc::default(),
        last_id: AtomicU64::new(0),
        doors,
    });
    let workers = receivers.into_iter().enumerate().map(|(number, inbox)| {
        Ok(Worker {
            number,
            shared: Arc::clone(&shared),
            listeners: listeners.iter().map(Listener::share).collect::<io::Result<_>>()?,
            inbox,
            dial: Arc::clone(&dial),
        })
    });
    let workers = workers.collect::<io::Result<_>>()?;
    let handle = Handle {
        shared,
        draining,
        demanded,
    };
    Ok((workers, handle))
}

// === impl Listener ===

impl Listener {
    /// The same socket, for another worker.
    fn share(&self) -> io::Result<Self> {
        Ok(Self {
            listen: self.listen.share()?,
            upstream: self.upstream,
            reads: self.reads,
        })
    }
}

// === impl Handle ===

impl Handle {
    /// Stops accepting; sessions close at their next request boundary, the last ones at `--drain-timeout`.
    /// Every [`Worker::run`] ends then.
    pub fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// Gives all workers other settings, and each listener, in their order, another read policy. Whoever asks for what
    /// cannot change (`workers`) is not heard.
    pub async fn reload(&self, settings: Settings, reads: Vec<ReadPolicy>) {
        let workers = self.shared.workers;
        let settings = Arc::new(Settings { workers, ..settings });
        self.shared.memory.limit_to(settings.max_memory);
        self.shared.settings.store(Arc::clone(&settings));
        self.shared.roster.reload(&settings, &Arc::from(reads)).await;
    }

    /// Where the workers hear what memory the process has.
    #[must_use]
    pub fn meter(&self) -> Meter {
        Meter::new(Arc::clone(&self.shared.memory), Arc::clone(&self.shared.roster))
    }

    /// The next order that somebody gave the process as a whole.
    pub async fn demanded(&mut self) -> Demand {
        match self.demanded.recv().await {
            Some(demand) => demand,
            None => std::future::pending().await,
        }
    }

    /// Clients have come over the network, and none of their addresses may connect under `entry`.
    #[must_use]
    pub fn would_shut_out(&self, entry: &Entry) -> bool {
        self.shared.crowd.is_shut_out_by(entry)
    }

    /// Clients connected now, over all workers.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.shared.clients()
    }

    /// The failovers of each master, in the order of the upstreams. Each is to be [followed](Timeline::follow).
    #[must_use]
    pub fn timelines(&self) -> Vec<Arc<Timeline>> {
        let masters = self.shared.masters.iter();
        masters.map(|master| Arc::clone(&master.timeline)).collect()
    }

    /// What all workers count.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.shared.metrics)
    }
}

// === impl Shared ===

impl Shared {
    fn clients(&self) -> usize {
        self.loads.iter().map(|load| load.load(Ordering::Relaxed)).sum()
    }

    /// What the sessions of a worker that begins share.
    fn state_of(&self, worker: usize) -> WorkerState {
        WorkerState {
            settings: Rc::new(Live::new(Settings::clone(&self.settings.load()))),
            cells: self.metrics.cells(worker),
            scratch: Rc::new(RefCell::new(vec![0; limits::SCRATCH_BYTES].into_boxed_slice())),
            metrics: Arc::clone(&self.metrics),
            demands: self.demands.clone(),
            memory: Arc::clone(&self.memory),
            held_bytes: Arc::clone(&self.held_bytes),
            hubs: Default::default(),
            masters: Arc::clone(&self.masters),
            roster: Arc::clone(&self.roster),
            kin: Arc::clone(&self.kin),
            pulse: Cell::new(Instant::now()),
            departures: RefCell::default(),
        }
    }

    fn load(&self, worker: usize) -> &AtomicUsize {
        self.loads.get(worker).expect("one load a worker")
    }
}

// === impl Worker ===

impl Worker {
    /// Serves until drained.
    ///
    /// # Panics
    /// Outside a LocalSet.
    pub async fn run(self) {
        let Self {
            number,
            shared,
            mut listeners,
            mut inbox,
            dial,
        } = self;
        let running = Rc::new(Running::start(number, shared, &listeners, &dial));
        let mut draining = running.shared.draining.clone();
        let mut pulse = tokio::time::interval(Duration::from_millis(limits::PULSE_MS));
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut resume, mut told) = (Instant::now(), None::<Instant>);
        loop {
            tokio::select! {
                biased;
                Some(message) = inbox.recv() => running.take(message),
                _ = draining.wait_for(|draining| *draining) => break,
                (listener, accepted) = accept(&mut listeners, resume), if running.accepts() => match accepted {
                    Ok(accepted) => running.place(accepted, listener),
                    Err(error) => {
                        let now = Instant::now();
                        if told.is_none_or(|told| now >= told + ACCEPT_COMPLAINT) {
                            tracing::warn!(%error, "cannot accept clients");
                            told = Some(now);
                        }
                        resume = now + ACCEPT_PAUSE;
                    }
                },
                _ = pulse.tick() => running.pulse(),
            }
        }
        drop(listeners);
        running.drain(&mut inbox, &mut pulse).await;
    }
}

/// The next client, but not before `resume`.
async fn accept(listeners: &mut [Listener], resume: Instant) -> (usize, io::Result<Accepted>) {
    if resume > Instant::now() {
        tokio::time::sleep_until(resume).await;
    }
    poll_fn(|cx| {
        for (number, listener) in listeners.iter_mut().enumerate() {
            if let Poll::Ready(accepted) = listener.listen.poll_accept(cx) {
                return Poll::Ready((number, accepted));
            }
        }
        Poll::Pending
    })
    .await
}

// === impl Running ===

impl Running {
    fn start(number: usize, shared: Arc<Shared>, listeners: &[Listener], dial: &Arc<dyn Dial>) -> Self {
        let state = Rc::new(shared.state_of(number));
        let worker = number;
        let fleet = |(number, shared): (usize, &Master)| {
            let (upstream, scripts) = (&shared.upstream, Arc::clone(&shared.scripts));
            let parts = FleetParts {
                upstream: number,
                settings: Rc::clone(&state.settings),
                dial: Arc::clone(dial),
                hints: upstream.hints.clone(),
                health: upstream.health.clone(),
                cells: Arc::clone(&state.cells),
                scratch: Rc::clone(&state.scratch),
                memory: Arc::clone(&state.memory),
                by_hand: Arc::clone(&shared.by_hand),
                access: Arc::clone(&shared.access),
                timeline: Arc::clone(&shared.timeline),
                quiet: upstream.steering.quiet_place(),
                scripts,
                lookout: Lookout::new(&shared.findings, worker).map(Rc::new),
            };
            let fleet = Fleet::new(parts, &upstream.feed);
            crate::task::spawn(Rc::clone(&fleet).follow());
            fleet
        };
        let fleets: Vec<_> = shared.masters.iter().enumerate().map(fleet).collect();
        let door = |(number, listener): (usize, &Listener)| {
            let upstream = shared
                .masters
                .get(listener.upstream)
                .expect("a listener names an upstream");
            Rc::new(Door {
                number,
                worker: Rc::clone(&state),
                fleet: Rc::clone(fleets.get(listener.upstream).expect("one fleet an upstream")),
                master: Arc::clone(&upstream.upstream.master),
                listener: Arc::from(listener.listen.address().to_string()),
                reads: Cell::new(listener.reads),
                encrypted: listener.listen.is_encrypted(),
                proxied: listener.listen.is_proxied(),
                census: Arc::clone(&upstream.census),
                streams: Arc::clone(&upstream.streams),
            })
        };
        let doors = listeners.iter().enumerate().map(door).collect();
        Self {
            number,
            state,
            fleets,
            doors,
            clients: RefCell::default(),
            emptied: Notify::new(),
            asked: Cell::new(Instant::now()),
            shared,
        }
    }

    /// A session has ended; without a reason it panicked.
    fn bid_farewell(&self, reason: Option<CloseReason>, key: usize, listener: usize) {
        let client = self.clients.borrow_mut().remove(key);
        let reason = reason.unwrap_or_else(|| {
            tracing::error!(peer = %client.face().peer, "a session panicked, which is a defect; its client is closed");
            self.state.cells.add(Counter::SessionPanics, 1);
            CloseReason::Panic
        });
        client.break_off(reason);
        self.state.cells.add(Counter::ClientsClosed(reason), 1);
        self.state.cells.gauge_add(Gauge::Clients { listener }, -1);
        self.load().fetch_sub(1, Ordering::Relaxed);
        if self.clients.borrow().is_empty() {
            self.emptied.notify_one();
        }
    }

    fn load(&self) -> &AtomicUsize {
        self.shared.load(self.number)
    }

    fn pulse(&self) {
        let now = Instant::now();
        self.state.pulse.set(now);
        for fleet in &self.fleets {
            fleet.pulse(now);
            let revoked = fleet.take_revoked();
            if !revoked.is_empty() {
                self.close_revoked(fleet.upstream(), &revoked);
            }
        }
        self.see_off_at(now);
        let idle = self.state.settings.get().idle_timeout;
        if !idle.is_zero() {
            for (_, client) in self.clients.borrow().iter() {
                if client.is_idle_since(now, idle) {
                    client.give_order(Order::Close(CloseReason::Idle));
                }
            }
        }
    }

    /// Ends the sessions of users that have been deleted, or have another password on a new primary.
    fn close_revoked(&self, upstream: usize, revoked: &BTreeSet<Credentials>) {
        for (_, client) in self.clients.borrow().iter() {
            if client.face().upstream == upstream && client.face().is_one_of(revoked) {
                client.give_order(Order::Close(CloseReason::Revoked));
            }
        }
    }
}
