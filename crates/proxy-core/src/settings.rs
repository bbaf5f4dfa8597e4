//! Everything an operator can set that the data plane needs. The binary fills it from flags, environment and file.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use resp_codec::Command;
use sentinel_watcher::Credentials;

use crate::denied::Denied;
use crate::entry::Entry;
use crate::lookout::Watch;

/// Which node answers reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadPolicy {
    /// The primary alone.
    #[default]
    Primary,
    /// The primary; a usable replica while the primary is away.
    PreferPrimary,
    /// A usable replica alone: without one, reads wait like writes do.
    Replica,
    /// A usable replica; the primary where there is none.
    PreferReplica,
}

/// Who a session is towards the nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// AUTH is proven on the node and makes the session's Profile; without it the session is nobody.
    #[default]
    Passthrough,
    /// slipring checks the client's password; sessions run as slipring's own user.
    Proxy,
    /// Sessions run as slipring's own user, unasked.
    None,
}

/// The data plane's settings. Sizes in bytes.
#[derive(Clone)]
pub struct Settings {
    /// Clients served at once, over all workers; one more is refused with Redis' own error.
    pub max_clients: usize,
    /// Resident memory near which new work is refused; `None`: whatever it takes.
    pub max_memory: Option<usize>,
    /// Leases open at once towards one node, for each budget (blocking, streaming, transactions), over all workers.
    pub pool_size: usize,
    /// Shared connections per worker, node and Profile.
    pub mux_connections: usize,
    /// Subscribers of a worker share one connection.
    pub share_subscriptions: bool,
    /// Deadline of one connection attempt, handshake included.
    pub connect_timeout: Duration,
    /// Silence with work outstanding after which a node is probed on a fresh connection.
    pub node_timeout: Duration,
    /// How long a command may wait for a primary; `None`: max(15 s, 2 x down-after + 10 s).
    pub failover_hold_timeout: Option<Duration>,
    /// Bytes of commands that may wait for a primary, over all workers.
    pub failover_hold_bytes: usize,
    /// How long a session waits for a lease.
    pub lease_wait_timeout: Duration,
    /// How long a drain waits for clients to finish.
    pub drain_timeout: Duration,
    /// A client silent for longer is closed; zero: never.
    pub idle_timeout: Duration,
    /// Who sessions are.
    pub client_auth: ClientAuth,
    /// Who may enter.
    pub entry: Entry,
    /// Commands that are refused.
    pub denied: Option<Denied>,
    /// Users who may do what an operator may, from wherever they come.
    pub admin_users: Vec<String>,
    /// slipring's own credentials towards the nodes.
    pub node_credentials: Option<Credentials>,
    /// What is looked for among the commands: slow ones, hot keys.
    pub watch: Watch,
    /// Number of workers (threads).
    pub workers: usize,
    /// Clients, over all workers, that the first of these serves alone.
    pub spread_after: usize,
    /// What `PROXY SHOW CONFIG` prints, line by line. Shows no secrets.
    pub shown: Arc<[String]>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_clients: 10_000,
            max_memory: None,
            pool_size: 10_000,
            mux_connections: 1,
            share_subscriptions: false,
            connect_timeout: Duration::from_secs(1),
            node_timeout: Duration::from_secs(1),
            failover_hold_timeout: None,
            failover_hold_bytes: 256 << 20,
            lease_wait_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(20),
            idle_timeout: Duration::ZERO,
            client_auth: ClientAuth::Passthrough,
            entry: Entry::default(),
            denied: None,
            admin_users: Vec::new(),
            node_credentials: None,
            watch: Watch::default(),
            workers: 1,
            spread_after: 0,
            shown: Arc::default(),
        }
    }
}

// === impl Settings ===

impl Settings {
    /// An operator wants this command refused.
    pub(crate) fn denies<B: AsRef<[u8]>>(&self, command: &Command<B>) -> bool {
        self.denied.as_ref().is_some_and(|denied| denied.covers(command))
    }
}

impl FromStr for ReadPolicy {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "primary" => Ok(Self::Primary),
            "prefer-primary" => Ok(Self::PreferPrimary),
            "replica" => Ok(Self::Replica),
            "prefer-replica" => Ok(Self::PreferReplica),
            _ => Err("takes primary, prefer-primary, replica or prefer-replica"),
        }
    }
}

impl FromStr for ClientAuth {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "passthrough" => Ok(Self::Passthrough),
            "proxy" => Ok(Self::Proxy),
            "none" => Ok(Self::None),
            _ => Err("takes passthrough, proxy or none"),
        }
    }
}
