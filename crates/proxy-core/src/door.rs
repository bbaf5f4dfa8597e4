//! What a session came through, and what it shares with the others of its worker.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sentinel_watcher::{HealthFeed, HintSender, Steering, TopologyFeed};
use tokio::time::Instant;

use crate::backend::NodeKey;
use crate::backend::access::Access;
use crate::backend::by_hand::ByHand;
use crate::backend::fleet::Fleet;
use crate::backend::profile::Profile;
use crate::backend::scripts::ScriptStore;
use crate::census::Census;
use crate::demand::Demands;
use crate::failover::Timeline;
use crate::hub::Hubs;
use crate::live::Live;
use crate::lookout::Findings;
use crate::memory::Memory;
use crate::metrics::{Cells, Gauge, Metrics};
use crate::passage::{Departures, Kin};
use crate::roster::Roster;
use crate::settings::{ClientAuth, ReadPolicy, Settings};

/// What a session came through.
pub(crate) struct Door {
    pub(crate) worker: Rc<WorkerState>,
    pub(crate) fleet: Rc<Fleet>,
    pub(crate) master: Arc<str>,
    /// Number of the listener.
    pub(crate) number: usize,
    /// Its address.
    pub(crate) listener: Arc<str>,
    pub(crate) reads: Cell<ReadPolicy>,
    /// Its clients speak TLS.
    pub(crate) encrypted: bool,
    /// They come through a load balancer.
    pub(crate) proxied: bool,
    pub(crate) census: Arc<Census>,
    pub(crate) streams: Arc<Streams>,
}

/// What all sessions of a worker share.
pub(crate) struct WorkerState {
    pub(crate) settings: Rc<Live>,
    pub(crate) cells: Arc<Cells>,
    /// What all workers count.
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) scratch: Rc<RefCell<Box<[u8]>>>,
    /// What concerns the whole process.
    pub(crate) demands: Demands,
    pub(crate) memory: Arc<Memory>,
    /// Bytes that wait for a primary, over all workers.
    pub(crate) held_bytes: Arc<AtomicUsize>,
    /// In the order of the upstreams.
    pub(crate) masters: Arc<[Master]>,
    /// Connections that many subscribers share.
    pub(crate) hubs: Rc<Hubs>,
    /// This proxy's clients, over all workers.
    pub(crate) roster: Arc<Roster>,
    /// The processes before and behind this one.
    pub(crate) kin: Arc<Kin>,
    /// The time at the last pulse: good enough for idle clients.
    pub(crate) pulse: Cell<Instant>,
    /// Where sessions are to go, while another process takes over.
    pub(crate) departures: RefCell<Option<Departures>>,
}

/// One master that clients can reach.
pub struct Upstream {
    /// Its name, as Sentinel knows it.
    pub master: Arc<str>,
    /// What the watcher says.
    pub feed: TopologyFeed,
    /// What the watcher should look at.
    pub hints: HintSender,
    /// What the watcher knows of the sentinels: the automatic hold timeout is made of their down-after.
    pub health: HealthFeed,
    /// Where an operator's orders go.
    pub steering: Steering,
}

/// One master, as all workers share it.
pub(crate) struct Master {
    pub(crate) upstream: Upstream,
    pub(crate) census: Arc<Census>,
    pub(crate) scripts: Arc<ScriptStore>,
    pub(crate) streams: Arc<Streams>,
    pub(crate) by_hand: Arc<ByHand>,
    pub(crate) access: Arc<Access>,
    pub(crate) timeline: Arc<Timeline>,
    pub(crate) findings: Arc<Findings>,
}

/// Where a client comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// This machine: it may do what an operator may.
    Here,
    Elsewhere,
}

/// A command that waits for a primary, in the books for as long as this lives.
pub(crate) struct Held {
    worker: Rc<WorkerState>,
    upstream: usize,
    bytes: usize,
    since: Instant,
}

/// On which connection to which node each streaming client is, over all workers: CLIENT TRACKING REDIRECT names clients,
/// the node knows connections.
#[derive(Debug, Default)]
pub(crate) struct Streams(Mutex<BTreeMap<u64, (NodeKey, i64)>>);

/// One client in [`Streams`].
pub(crate) struct Streaming {
    streams: Arc<Streams>,
    client: u64,
}

// === impl Door ===

impl Door {
    /// Who a client is before it has said anything.
    pub(crate) fn first_profile(&self) -> Rc<Profile> {
        match self.worker.settings.client_auth() {
            ClientAuth::Passthrough => self.fleet.nobody(),
            ClientAuth::Proxy | ClientAuth::None => self.worker.settings.first_profile(),
        }
    }
}

// === impl WorkerState ===

impl WorkerState {
    /// The time at the last pulse.
    pub(crate) fn now(&self) -> Instant {
        self.pulse.get()
    }

    /// Enters a waiting command of `bytes` in the books; `None` when `--failover-hold-bytes` wait already,
    /// or memory is short.
    pub(crate) fn hold(self: &Rc<Self>, upstream: usize, bytes: usize) -> Option<Held> {
        if self.memory.is_scarce() {
            return None;
        }
        let before = self.held_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > self.settings.get().failover_hold_bytes {
            self.held_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return None;
        }
        self.cells.gauge_add(Gauge::HeldCommands { upstream }, 1);
        self.cells
            .gauge_add(Gauge::HeldBytes { upstream }, bytes.cast_signed() as i64);
        Some(Held {
            worker: Rc::clone(self),
            upstream,
            bytes,
            since: Instant::now(),
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Self {
            worker,
            upstream,
            bytes,
            since,
        } = self;
        worker.held_bytes.fetch_sub(*bytes, Ordering::Relaxed);
        worker
            .cells
            .gauge_add(Gauge::HeldCommands { upstream: *upstream }, -1);
        worker.cells.gauge_add(
            Gauge::HeldBytes { upstream: *upstream },
            -(bytes.cast_signed() as i64),
        );
        worker.cells.hold_duration(*upstream, since.elapsed());
    }
}

// === impl Master ===

impl Master {
    /// The `number`-th upstream, as `workers` will share it.
    pub(crate) fn new(
        upstream: Upstream,
        number: usize,
        settings: &Settings,
        workers: usize,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let (master, health) = (Arc::clone(&upstream.master), upstream.health.clone());
        let findings = Findings::new(Arc::clone(&master), settings.watch.clone(), workers);
        Self {
            upstream,
            census: Arc::default(),
            scripts: Arc::default(),
            streams: Arc::default(),
            by_hand: Arc::default(),
            access: Arc::default(),
            findings: Arc::new(findings),
            timeline: Arc::new(Timeline::new(master, number, health, Arc::clone(metrics))),
        }
    }
}

// === impl Streams ===

impl Streams {
    /// `client` is on this connection to `node` for as long as the answer lives.
    pub(crate) fn enter(self: &Arc<Self>, client: u64, node: &NodeKey, connection: i64) -> Streaming {
        self.known().insert(client, (node.clone(), connection));
        Streaming {
            streams: Arc::clone(self),
            client,
        }
    }

    /// The connection of `client` to `node`.
    pub(crate) fn find(&self, client: u64, node: &NodeKey) -> Option<i64> {
        let known = self.known();
        let (at, connection) = known.get(&client)?;
        (at == node).then_some(*connection)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, (NodeKey, i64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.streams.known().remove(&self.client);
    }
}
