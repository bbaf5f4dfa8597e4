//! The numbers of one worker.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use resp_codec::{Class, CommandId};
use sentinel_watcher::HostPort;

use super::count::Count;
use super::histogram::Histogram;
use super::labels::{
    CloseReason, ConnectionKind, Counter, Gauge, LeaseReason, NodeRole, Outcome, RefuseReason, ResendReason,
    Side,
};

/// One worker's numbers. Only that worker writes them; an index past the end is counted nowhere.
///
/// Aligned to a cache line of its own, so that two workers never write the same one.
#[derive(Debug)]
#[repr(align(128))]
pub struct Cells {
    /// By command, then by outcome.
    pub(super) commands: Vec<[Count; Outcome::ALL.len()]>,
    /// By class of command, in the order of [`CLASSES`].
    pub(super) durations: [Histogram; CLASSES.len()],
    pub(super) listeners: Vec<ListenerCells>,
    pub(super) upstreams: Vec<UpstreamCells>,
    pub(super) refused: [Count; RefuseReason::ALL.len()],
    pub(super) closed: [Count; CloseReason::ALL.len()],
    pub(super) received: [Count; Side::ALL.len()],
    pub(super) sent: [Count; Side::ALL.len()],
    pub(super) leases: [Count; LeaseReason::ALL.len()],
    pub(super) lease_wait: Histogram,
    pub(super) session_panics: Count,
    /// Nodes that this worker holds connections to. Locked when one appears, and by a scrape.
    nodes: Mutex<Vec<Weak<NodeCells>>>,
}

/// One worker's connections to one node in one role; it leaves the metrics with its last holder.
#[derive(Debug)]
pub struct NodeCells {
    pub(super) upstream: usize,
    pub(super) address: HostPort,
    pub(super) role: NodeRole,
    pub(super) connections: [Count; ConnectionKind::ALL.len()],
}

/// What is counted for each door.
#[derive(Debug, Default)]
pub(super) struct ListenerCells {
    pub(super) clients: Count,
    pub(super) accepted: Count,
    pub(super) adopted: Count,
}

/// What is counted for each master.
#[derive(Debug, Default)]
pub(super) struct UpstreamCells {
    pub(super) held_commands: Count,
    pub(super) held_bytes: Count,
    pub(super) hold_duration: Histogram,
    pub(super) unknown_outcomes: Count,
    pub(super) fenced_connections: Count,
    pub(super) resends: [Count; ResendReason::ALL.len()],
}

/// The classes of commands, as the metrics call them.
pub(super) const CLASSES: [(Class, &str); 10] = [
    (Class::Data, "data"),
    (Class::Session, "session"),
    (Class::Transaction, "transaction"),
    (Class::Blocking, "blocking"),
    (Class::Wait, "wait"),
    (Class::Subscription, "subscription"),
    (Class::Stream, "stream"),
    (Class::Control, "control"),
    (Class::Tracking, "tracking"),
    (Class::Own, "own"),
];

// === impl Cells ===

impl Cells {
    pub(super) fn new(upstreams: usize, listeners: usize) -> Self {
        Self {
            commands: std::iter::repeat_with(Default::default)
                .take(resp_codec::spec::COUNT)
                .collect(),
            durations: Default::default(),
            listeners: std::iter::repeat_with(ListenerCells::default)
                .take(listeners)
                .collect(),
            upstreams: std::iter::repeat_with(UpstreamCells::default)
                .take(upstreams)
                .collect(),
            refused: Default::default(),
            closed: Default::default(),
            received: Default::default(),
            sent: Default::default(),
            leases: Default::default(),
            lease_wait: Histogram::default(),
            session_panics: Count::default(),
            nodes: Mutex::default(),
        }
    }

    /// Counts one command that has ended.
    #[inline]
    pub fn command(&self, id: CommandId, outcome: Outcome) {
        self.commands(id, outcome, 1);
    }

    /// Counts `count` commands that have ended alike.
    #[inline]
    pub fn commands(&self, id: CommandId, outcome: Outcome, count: u64) {
        if let Some(row) = self.commands.get(id.index()) {
            row[outcome as usize].add(count);
        }
    }

    /// How long `count` commands took each: from their last byte's arrival to their reply's readiness.
    #[inline]
    pub fn command_durations(&self, class: Class, elapsed: Duration, count: u64) {
        self.durations[class_index(class)].record(elapsed, count);
    }

    /// How long a session waited for a lease.
    pub fn lease_wait(&self, elapsed: Duration) {
        self.lease_wait.record(elapsed, 1);
    }

    /// How long a command waited for a primary.
    pub fn hold_duration(&self, upstream: usize, elapsed: Duration) {
        if let Some(cells) = self.upstreams.get(upstream) {
            cells.hold_duration.record(elapsed, 1);
        }
    }

    /// Adds `n` to `counter`.
    #[inline]
    pub fn add(&self, counter: Counter, n: u64) {
        let upstream = |upstream: usize| self.upstreams.get(upstream);
        let cell = match counter {
            Counter::ClientsAccepted { listener } => {
                self.listeners.get(listener).map(|cells| &cells.accepted)
            }
            Counter::ClientsAdopted { listener } => self.listeners.get(listener).map(|cells| &cells.adopted),
            Counter::ClientsRefused(reason) => Some(&self.refused[reason as usize]),
            Counter::ClientsClosed(reason) => Some(&self.closed[reason as usize]),
            Counter::ReceivedBytes(side) => Some(&self.received[side as usize]),
            Counter::SentBytes(side) => Some(&self.sent[side as usize]),
            Counter::Leases(reason) => Some(&self.leases[reason as usize]),
            Counter::Resends {
                upstream: index,
                reason,
            } => upstream(index).map(|cells| &cells.resends[reason as usize]),
            Counter::UnknownOutcomes { upstream: index } => {
                upstream(index).map(|cells| &cells.unknown_outcomes)
            }
            Counter::FencedConnections { upstream: index } => {
                upstream(index).map(|cells| &cells.fenced_connections)
            }
            Counter::SessionPanics => Some(&self.session_panics),
        };
        if let Some(cell) = cell {
            cell.add(n);
        }
    }

    /// Adds `n`, which may be negative, to `gauge`.
    #[inline]
    pub fn gauge_add(&self, gauge: Gauge, n: i64) {
        let cell = match gauge {
            Gauge::Clients { listener } => self.listeners.get(listener).map(|cells| &cells.clients),
            Gauge::HeldCommands { upstream } => {
                self.upstreams.get(upstream).map(|cells| &cells.held_commands)
            }
            Gauge::HeldBytes { upstream } => self.upstreams.get(upstream).map(|cells| &cells.held_bytes),
        };
        if let Some(cell) = cell {
            cell.add(n.cast_unsigned());
        }
    }

    /// Cells for this worker's connections to one node: ask once for each backend and keep them with it.
    #[must_use]
    pub fn node(&self, upstream: usize, address: &HostPort, role: NodeRole) -> Arc<NodeCells> {
        let node = Arc::new(NodeCells {
            upstream,
            address: address.clone(),
            role,
            connections: Default::default(),
        });
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.retain(|node| node.strong_count() > 0);
        nodes.push(Arc::downgrade(&node));
        node
    }

    /// The nodes that are held by somebody.
    pub(super) fn nodes(&self) -> Vec<Arc<NodeCells>> {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.iter().filter_map(Weak::upgrade).collect()
    }
}

// === impl NodeCells ===

impl NodeCells {
    /// A connection to the node stands.
    pub fn opened(&self, kind: ConnectionKind) {
        self.connections[kind as usize].add(1);
    }

    /// It is gone.
    pub fn closed(&self, kind: ConnectionKind) {
        self.connections[kind as usize].add(u64::MAX);
    }
}

const fn class_index(class: Class) -> usize {
    match class {
        // They travel as data does.
        Class::Data | Class::Script | Class::Scan | Class::Audience | Class::Unknown => 0,
        Class::Session => 1,
        Class::Transaction => 2,
        Class::Blocking => 3,
        Class::Wait => 4,
        Class::Subscription => 5,
        Class::Stream => 6,
        Class::Control => 7,
        Class::Tracking => 8,
        Class::Own => 9,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_counts_under_its_own_name() {
        for (index, (class, name)) in CLASSES.into_iter().enumerate() {
            assert_eq!(class_index(class), index, "{name}");
        }
    }
}
