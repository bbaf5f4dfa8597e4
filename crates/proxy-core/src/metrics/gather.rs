//! The scrape: all workers' cells added up, under the names of the contract.

use std::collections::BTreeMap;

use prometheus::proto::MetricFamily;
use resp_codec::spec;

use super::Metrics;
use super::cells::{CLASSES, Cells, ListenerCells, UpstreamCells};
use super::count::Count;
use super::family::Family;
use super::histogram::{Histogram, Sum};
use super::labels::{
    CloseReason, ConnectionKind, LeaseReason, NodeRole, Outcome, RefuseReason, ResendReason, Side,
};

/// What failovers of one master have cost since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Commands that waited for a primary, and wait no longer.
    pub held: u64,
    /// Commands sent again.
    pub resent: u64,
    /// Commands whose outcome nobody knows.
    pub unknown: u64,
    /// Connections to a former primary that were cut.
    pub fenced: u64,
}

// === impl Tally ===

impl Tally {
    /// What was added since it was `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            held: self.held.saturating_sub(before.held),
            resent: self.resent.saturating_sub(before.resent),
            unknown: self.unknown.saturating_sub(before.unknown),
            fenced: self.fenced.saturating_sub(before.fenced),
        }
    }
}

// === impl Metrics ===

impl Metrics {
    /// What failovers of the master number `upstream` have cost so far.
    pub(crate) fn tally(&self, upstream: usize) -> Tally {
        let cells = || {
            self.workers
                .iter()
                .filter_map(|cells| cells.upstreams.get(upstream))
        };
        let total = |of: fn(&UpstreamCells) -> u64| cells().map(of).sum();
        Tally {
            held: self
                .sum(|cells| Some(&cells.upstreams.get(upstream)?.hold_duration))
                .count(),
            resent: total(|cells| cells.resends.iter().map(Count::get).sum()),
            unknown: total(|cells| cells.unknown_outcomes.get()),
            fenced: total(|cells| cells.fenced_connections.get()),
        }
    }

    /// Everything that the workers have counted, for an encoder of the `prometheus` crate. Costs one pass over
    /// all cells (some 12 KiB a worker) and stops nobody.
    #[must_use]
    pub fn gather(&self) -> Vec<MetricFamily> {
        let families = [self.clients(), self.commands(), self.nodes(), self.failovers()];
        families
            .into_iter()
            .flatten()
            .filter_map(Family::finish)
            .collect()
    }

    fn clients(&self) -> Vec<Family> {
        vec![
            self.by_listener(Family::gauge("clients", "Clients connected now."), |cells| {
                &cells.clients
            }),
            self.by_listener(
                Family::counter("clients_accepted_total", "Clients let in."),
                |cells| &cells.accepted,
            ),
            self.by_listener(
                Family::counter(
                    "clients_adopted_total",
                    "Clients taken over from another process, connections and all.",
                ),
                |cells| &cells.adopted,
            ),
            self.by_label(
                Family::counter("clients_refused_total", "Clients turned away at the door."),
                "reason",
                RefuseReason::ALL.iter().map(|reason| reason.label()),
                |cells| &cells.refused,
            ),
            self.by_label(
                Family::counter("clients_closed_total", "Clients whose connection ended."),
                "reason",
                CloseReason::ALL.iter().map(|reason| reason.label()),
                |cells| &cells.closed,
            ),
            self.by_label(
                Family::counter("received_bytes_total", "Bytes read."),
                "side",
                Side::ALL.iter().map(|side| side.label()),
                |cells| &cells.received,
            ),
            self.by_label(
                Family::counter("sent_bytes_total", "Bytes written."),
                "side",
                Side::ALL.iter().map(|side| side.label()),
                |cells| &cells.sent,
            ),
            Family::counter(
                "session_panics_total",
                "Sessions that panicked: one client closed each.",
            )
            .row(&[], self.total(|cells| Some(&cells.session_panics))),
        ]
    }

    fn commands(&self) -> Vec<Family> {
        let mut commands = Family::counter("commands_total", "Commands that ended.");
        for spec in &spec::TABLE {
            for outcome in Outcome::ALL {
                let total = self.total(|cells| {
                    let row = cells.commands.get(spec.id.index())?;
                    row.get(*outcome as usize)
                });
                if total != 0 {
                    commands = commands.row(&[("command", spec.name), ("outcome", outcome.label())], total);
                }
            }
        }
        let mut durations = Family::histogram(
            "command_duration_seconds",
            "From a command's last byte received to its reply ready, in seconds.",
        );
        for (index, (_, class)) in CLASSES.iter().enumerate() {
            let sum = self.sum(|cells| cells.durations.get(index));
            if sum.count() != 0 {
                durations = durations.distribution(&[("class", class)], &sum);
            }
        }
        vec![commands, durations]
    }

    fn nodes(&self) -> Vec<Family> {
        let mut rows: BTreeMap<_, i64> = BTreeMap::new();
        for node in self.workers.iter().flat_map(|cells| cells.nodes()) {
            for kind in ConnectionKind::ALL {
                let key = (
                    node.upstream,
                    node.address.clone(),
                    node.role as usize,
                    *kind as usize,
                );
                *rows.entry(key).or_default() += node.connections[*kind as usize].get().cast_signed();
            }
        }
        let mut connections = Family::gauge("backend_connections", "Connections to nodes that stand now.");
        for ((upstream, address, role, kind), total) in rows {
            let labels = [
                (
                    "master",
                    self.masters.get(upstream).map_or("", |master| &**master),
                ),
                ("node", &*address.to_string()),
                ("role", NodeRole::ALL[role].label()),
                ("kind", ConnectionKind::ALL[kind].label()),
            ];
            connections = connections.row(&labels, total);
        }
        vec![
            connections,
            self.by_label(
                Family::counter("leases_total", "Connections that sessions took for themselves."),
                "reason",
                LeaseReason::ALL.iter().map(|reason| reason.label()),
                |cells| &cells.leases,
            ),
            Family::histogram(
                "lease_wait_seconds",
                "How long sessions waited for a lease, in seconds.",
            )
            .distribution(&[], &self.sum(|cells| Some(&cells.lease_wait))),
        ]
    }

    fn failovers(&self) -> Vec<Family> {
        let mut resends = Family::counter("resends_total", "Commands sent again.");
        for (index, reason) in ResendReason::ALL.iter().enumerate() {
            let of = |cells: &UpstreamCells| cells.resends.get(index).map_or(0, Count::get);
            let total: u64 = self
                .workers
                .iter()
                .flat_map(|cells| cells.upstreams.iter().map(of))
                .sum();
            resends = resends.row(&[("reason", reason.label())], total.cast_signed());
        }
        let mut holds = Family::histogram(
            "hold_duration_seconds",
            "How long commands waited for a primary, in seconds.",
        );
        for (index, master) in self.masters.iter().enumerate() {
            let sum = self.sum(|cells| cells.upstreams.get(index).map(|upstream| &upstream.hold_duration));
            holds = holds.distribution(&[("master", master)], &sum);
        }
        vec![
            self.by_master(
                Family::gauge("held_commands", "Commands that wait for a primary now."),
                |cells| &cells.held_commands,
            ),
            self.by_master(
                Family::gauge("held_bytes", "Bytes of the commands that wait for a primary now."),
                |cells| &cells.held_bytes,
            ),
            holds,
            self.by_master(
                Family::counter(
                    "unknown_outcomes_total",
                    "Commands that were sent and never answered: they may or may not have been executed.",
                ),
                |cells| &cells.unknown_outcomes,
            ),
            resends,
            self.by_master(
                Family::counter(
                    "fenced_connections_total",
                    "Connections to a former primary that were cut.",
                ),
                |cells| &cells.fenced_connections,
            ),
        ]
    }

    fn by_listener(&self, family: Family, of: impl Fn(&ListenerCells) -> &Count) -> Family {
        self.listeners
            .iter()
            .enumerate()
            .fold(family, |family, (index, listener)| {
                let total = self.total(|cells| cells.listeners.get(index).map(&of));
                family.row(&[("listener", listener)], total)
            })
    }

    fn by_master(&self, family: Family, of: impl Fn(&UpstreamCells) -> &Count) -> Family {
        self.masters
            .iter()
            .enumerate()
            .fold(family, |family, (index, master)| {
                let total = self.total(|cells| cells.upstreams.get(index).map(&of));
                family.row(&[("master", master)], total)
            })
    }

    fn by_label<const N: usize>(
        &self,
        family: Family,
        name: &str,
        labels: impl Iterator<Item = &'static str>,
        of: impl Fn(&Cells) -> &[Count; N],
    ) -> Family {
        labels.enumerate().fold(family, |family, (index, label)| {
            let total = self.total(|cells| of(cells).get(index));
            family.row(&[(name, label)], total)
        })
    }

    fn total<'a>(&'a self, of: impl Fn(&'a Cells) -> Option<&'a Count>) -> i64 {
        let counts = self.workers.iter().filter_map(|cells| of(cells));
        counts
            .fold(0, |total, count| count.get().wrapping_add(total))
            .cast_signed()
    }

    fn sum<'a>(&'a self, of: impl Fn(&'a Cells) -> Option<&'a Histogram>) -> Sum {
        let mut sum = Sum::default();
        for histogram in self.workers.iter().filter_map(|cells| of(cells)) {
            histogram.add_to(&mut sum);
        }
        sum
    }
}
