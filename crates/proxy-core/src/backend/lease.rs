//! One connection held by one session, from a pool that is bound to one node under one Profile for life.
//!
//! A lease is dirty unless proven [`Clean`]: only a session that can prove that nothing is outstanding gives it
//! back; dropping one closes it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use deadpool::managed::{self, Metrics, Object, Pool, PoolError, QueueMode, RecycleError, RecycleResult};
use sentinel_watcher::{Dial, HostPort, Sabotage, is_sabotaged};

use crate::backend::conn::{Conn, ConnectError, Counted};
use crate::backend::profile::Profile;
use crate::metrics::{Cells, ConnectionKind, NodeCells};

/// What a lease is for: each has a pool of its own, so that blocked consumers never starve the producer that
/// would wake them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Budget {
    /// Commands that may block, and single requests that are too large to share.
    Blocking,
    /// Subscriptions, MONITOR.
    Streaming,
    /// WATCH, and MULTI in several batches.
    Transaction,
    /// What stops or asks after a script that runs too long: it gets through whatever else is used up.
    Control,
}

/// Why there is no lease.
#[derive(Debug)]
pub(crate) enum LeaseError {
    /// The budget is used up, and stayed so for `--lease-wait-timeout`.
    Exhausted,
    /// The node cannot be reached, or is no longer what it was.
    Lost,
    /// The node refused the Profile; its own error reply.
    Refused(bytes::Bytes),
}

/// A connection of one's own.
pub(crate) struct Lease(Option<Object<NodeManager>>);

/// Proof that a lease may serve another session: nothing is outstanding on it, and it has no state.
pub(crate) struct Clean(());

/// Makes and checks the connections of one pool.
pub(crate) struct NodeManager {
    pub(crate) dial: Arc<dyn Dial>,
    pub(crate) node: HostPort,
    pub(crate) profile: Profile,
    pub(crate) timeout: Duration,
    pub(crate) node_cells: Arc<NodeCells>,
    pub(crate) cells: Arc<Cells>,
    pub(crate) budget: Budget,
}

/// The pool of one budget.
pub(crate) struct LeasePool(Pool<NodeManager>);

// === impl Budget ===

impl Budget {
    pub(crate) const COUNT: usize = 4;

    /// How errors and docs call it.
    #[must_use]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Blocking => "blocking commands",
            Self::Streaming => "subscriptions and streams",
            Self::Transaction => "transactions",
            Self::Control => "control commands",
        }
    }
}

// === impl LeasePool ===

impl LeasePool {
    /// At most `size` leases at once; a session waits for one no longer than `wait`.
    pub(crate) fn new(manager: NodeManager, size: usize, wait: Duration) -> Self {
        let pool = Pool::builder(manager)
            .max_size(size)
            // Whoever comes takes the one that was used last: the others fall idle and close. In turn, all of them
            // would be kept for ever, and the queue, a ring of `size` places, be written to from end to end.
            .queue_mode(QueueMode::Lifo)
            .wait_timeout(Some(wait))
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .expect("a runtime is given, so timeouts are allowed");
        Self(pool)
    }

    /// A connection that nobody else uses.
    pub(crate) async fn get(&self) -> Result<Lease, LeaseError> {
        match self.0.get().await {
            Ok(object) => Ok(Lease(Some(object))),
            Err(PoolError::Timeout(managed::TimeoutType::Wait)) => Err(LeaseError::Exhausted),
            Err(PoolError::Backend(ConnectError::Refused(reply))) => Err(LeaseError::Refused(reply)),
            Err(_) => Err(LeaseError::Lost),
        }
    }

    /// Nothing is handed out any more; what is leased dies on return.
    pub(crate) fn close(&self) {
        self.0.close();
    }

    /// How many are in use, idle and waited for.
    pub(crate) fn standing(&self) -> String {
        let status = self.0.status();
        let kind = match self.0.manager().budget {
            Budget::Blocking => "blocking",
            Budget::Streaming => "streaming",
            Budget::Transaction => "transaction",
            Budget::Control => "control",
        };
        let used = status.size.saturating_sub(status.available);
        format!(
            " {kind}_used={used} {kind}_idle={} {kind}_waiting={}",
            status.available, status.waiting
        )
    }

    /// It has no connection, and none is leased.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.status().size == 0
    }

    /// Closes connections that nobody has used for `idle`.
    pub(crate) fn reap(&self, idle: Duration) {
        let _ = self.0.retain(|_, metrics: Metrics| metrics.last_used() < idle);
    }
}

// === impl NodeManager ===

impl managed::Manager for NodeManager {
    type Type = Conn;
    type Error = ConnectError;

    async fn create(&self) -> Result<Conn, ConnectError> {
        let counted = Counted::new(&self.node_cells, &self.cells, ConnectionKind::Lease);
        Conn::open(&*self.dial, &self.node, &self.profile, self.timeout, counted).await
    }

    async fn recycle(&self, conn: &mut Conn, _: &Metrics) -> RecycleResult<ConnectError> {
        if conn.is_undisturbed() {
            Ok(())
        } else {
            Err(RecycleError::message("disturbed"))
        }
    }
}

// === impl Lease ===

impl Lease {
    /// The connection.
    pub(crate) fn conn(&mut self) -> &mut Conn {
        self.0.as_mut().expect("only release and drop take it")
    }

    /// Gives the connection back, for others to use.
    pub(crate) fn release(mut self, _: Clean) {
        if let Some(mut object) = self.0.take() {
            if object.is_quiet() {
                object.rest();
            } else {
                drop(Object::take(object));
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(object) = self.0.take()
            && !is_sabotaged(Sabotage::DirtyLeases)
        {
            drop(Object::take(object));
        }
    }
}

// === impl Clean ===

impl Clean {
    /// The proof: `state` names everything a session may have left on a connection.
    #[must_use]
    pub(crate) fn prove(state: &LeaseState) -> Option<Self> {
        (*state == LeaseState::default()).then_some(Self(()))
    }
}

/// What a session has left on its lease. The default is a connection as good as new.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeaseState {
    /// Replies still to come.
    pub outstanding: usize,
    /// MULTI without its EXEC or DISCARD.
    pub in_multi: bool,
    /// WATCH without EXEC, DISCARD or UNWATCH.
    pub watching: bool,
    /// Channels, patterns and shard channels.
    pub subscriptions: usize,
    /// Anything that no command takes back: another Profile, MONITOR, tracking.
    pub altered: bool,
}

impl From<io::Error> for LeaseError {
    fn from(_: io::Error) -> Self {
        Self::Lost
    }
}
