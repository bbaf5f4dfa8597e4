//! Accept, admit, spawn.

use std::io;
use std::sync::Arc;

use sentinel_watcher::{Dial, HintSender, TopologyFeed};

use crate::net::Listen;
use crate::settings::{ReadPolicy, Settings};

/// One master that clients can reach.
pub struct Upstream {
    /// Its name, as Sentinel knows it.
    pub master: Arc<str>,
    /// What the watcher says.
    pub feed: TopologyFeed,
    /// What the watcher should look at.
    pub hints: HintSender,
}

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
pub struct Worker {}

/// What the control thread may ask of all workers.
pub struct Handle {}

/// Builds the workers of a proxy. Nothing is served until each of them runs.
///
/// # Errors
/// A listening socket that cannot be shared between workers.
pub fn build(
    _settings: Settings,
    _upstreams: Vec<Upstream>,
    _listeners: Vec<Listener>,
    _dial: Arc<dyn Dial>,
) -> io::Result<(Vec<Worker>, Handle)> {
    Ok((Vec::new(), Handle {}))
}

impl Worker {
    /// Serves until drained.
    pub async fn run(self) {}
}

impl Handle {
    /// Stops accepting; sessions close at their next request boundary, the last ones at `--drain-timeout`.
    /// Every [`Worker::run`] ends then.
    pub fn drain(&self) {}

    /// Clients connected now, over all workers.
    #[must_use]
    pub fn clients(&self) -> usize {
        0
    }
}
