//! What one sentinel answered to one poll.

use std::time::Duration;

use crate::address_map::AddressMap;
use crate::topology::HostPort;
use crate::verify::Denial;

/// A sentinel's view of the master. Addresses are as announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// GET-MASTER-ADDR-BY-NAME. Not the address in `SENTINEL MASTER`: while a failover is in progress, a
    /// leader shows the old address there beside the new epoch.
    pub(crate) address: HostPort,
    /// `config-epoch`.
    pub(crate) epoch: u64,
    /// It says `o_down` of this address: not once it names the new one and means the old.
    pub(crate) down: bool,
    /// The failover that it leads or wants to lead.
    pub(crate) attempt: Option<ReportedAttempt>,
    /// Votes needed for `o_down`.
    pub(crate) quorum: u32,
    /// `down-after-milliseconds`.
    pub(crate) down_after: Duration,
    /// Its replicas.
    pub(crate) replicas: Vec<ReportedReplica>,
    /// The other sentinels.
    pub(crate) others: Vec<ReportedSentinel>,
    /// Its own id (`SENTINEL MYID`, since Redis 6.2).
    pub(crate) id: Option<String>,
}

/// `failover-state`, as far as a hold depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReportedAttempt {
    /// `wait_start`: votes are asked for.
    Trying,
    /// `select_slave`.
    Elected,
    /// `send_slaveof_noone`, `wait_promotion`: this replica carries the flag `promoted`.
    Selected(HostPort),
}

/// One replica, as a sentinel sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReportedReplica {
    pub(crate) address: HostPort,
    /// `s_down` or `o_down`.
    pub(crate) down: bool,
    /// `slave-priority`.
    pub(crate) priority: u32,
}

/// One sentinel, as another sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReportedSentinel {
    pub(crate) address: HostPort,
    pub(crate) id: String,
}

/// Why a poll brought no report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PollFailure {
    /// It knows no master of that name.
    UnknownMaster,
    /// It does not serve us.
    Denied(Denial),
    /// It cannot be reached, or did not answer in time.
    Unreachable(String),
}

// === impl Report ===

impl Report {
    /// The same, with addresses as they are reached from here.
    pub(crate) fn reached_through(mut self, map: &AddressMap) -> Self {
        let reach = |address: &mut HostPort| *address = map.reach(address.clone());
        reach(&mut self.address);
        if let Some(ReportedAttempt::Selected(candidate)) = &mut self.attempt {
            reach(candidate);
        }
        self.replicas
            .iter_mut()
            .for_each(|replica| reach(&mut replica.address));
        self.others.iter_mut().for_each(|other| reach(&mut other.address));
        self
    }
}
