//! What a worker counts, and how a scrape adds it up.
//!
//! ```text
//!   worker 0 --add--> Cells 0 --+
//!   worker 1 --add--> Cells 1 --+--sum--> Metrics::gather --> Family by Family --> /metrics
//!   worker n --add--> Cells n --+
//! ```
//! Each [`Cells`] is written by its own worker alone, with a relaxed load and a relaxed store: no
//! read-modify-write, no cache line that two threads write. A scrape reads all of them; it may see a command
//! counted whose duration is not counted yet, and never a number that goes back.

mod cells;
mod count;
mod family;
mod gather;
mod histogram;
mod labels;

use std::sync::Arc;

pub use cells::{Cells, NodeCells};
pub use family::Family;
pub use gather::Tally;
pub use labels::{
    CloseReason, ConnectionKind, Counter, Gauge, LeaseReason, NodeRole, Outcome, RefuseReason, ResendReason,
    Side,
};

/// The cells of all workers, and the names behind their indices. Shared by the workers and the scrape.
#[derive(Debug)]
pub struct Metrics {
    /// One a worker.
    workers: Vec<Arc<Cells>>,
    /// Masters, by upstream index.
    masters: Vec<Arc<str>>,
    /// Listening addresses, by listener index.
    listeners: Vec<Arc<str>>,
}

// === impl Metrics ===

impl Metrics {
    /// Cells for so many `workers`. `masters` are in the order of the upstreams, `listeners` (their addresses)
    /// in the order of the listeners: the indices that [`Counter`] and [`Gauge`] carry.
    #[must_use]
    pub fn new(workers: usize, masters: Vec<Arc<str>>, listeners: Vec<Arc<str>>) -> Arc<Self> {
        let cells = || Arc::new(Cells::new(masters.len(), listeners.len()));
        Arc::new(Self {
            workers: (0..workers).map(|_| cells()).collect(),
            masters,
            listeners,
        })
    }

    /// The cells of worker number `worker`, which alone may write them.
    ///
    /// # Panics
    /// Where there is no such worker.
    #[must_use]
    pub fn cells(&self, worker: usize) -> Arc<Cells> {
        Arc::clone(
            self.workers
                .get(worker)
                .expect("one set of cells for each worker"),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus::TextEncoder;
    use resp_codec::Class;
    use sentinel_watcher::HostPort;

    use super::*;

    fn text(metrics: &Metrics) -> String {
        TextEncoder::new().encode_to_string(&metrics.gather()).unwrap()
    }

    fn metrics() -> Arc<Metrics> {
        Metrics::new(
            2,
            vec![Arc::from("a"), Arc::from("b")],
            vec![Arc::from("127.0.0.1:1")],
        )
    }

    #[test]
    fn a_scrape_sums_the_workers() {
        let metrics = metrics();
        metrics.cells(0).add(Counter::ReceivedBytes(Side::Client), 3);
        metrics.cells(1).add(Counter::ReceivedBytes(Side::Client), 4);
        metrics.cells(1).add(Counter::UnknownOutcomes { upstream: 1 }, 2);
        let text = text(&metrics);
        for line in [
            "# TYPE slipring_received_bytes_total counter",
            "slipring_received_bytes_total{side=\"client\"} 7",
            "slipring_received_bytes_total{side=\"node\"} 0",
            "slipring_unknown_outcomes_total{master=\"a\"} 0",
            "slipring_unknown_outcomes_total{master=\"b\"} 2",
            "slipring_session_panics_total 0",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
    }

    #[test]
    fn a_gauge_may_rise_on_one_worker_and_fall_on_another() {
        let metrics = metrics();
        metrics.cells(0).gauge_add(Gauge::HeldBytes { upstream: 0 }, -10);
        metrics.cells(1).gauge_add(Gauge::HeldBytes { upstream: 0 }, 25);
        assert!(text(&metrics).contains("slipring_held_bytes{master=\"a\"} 15\n"));
    }

    #[test]
    fn histograms_are_cumulative_and_in_seconds() {
        let metrics = metrics();
        for micros in [100, 101, 400, 90_000_000] {
            metrics
                .cells(0)
                .command_durations(Class::Data, Duration::from_micros(micros), 1);
        }
        let text = text(&metrics);
        for line in [
            "slipring_command_duration_seconds_bucket{class=\"data\",le=\"0.0001\"} 1",
            "slipring_command_duration_seconds_bucket{class=\"data\",le=\"0.00025\"} 2",
            "slipring_command_duration_seconds_bucket{class=\"data\",le=\"0.0005\"} 3",
            "slipring_command_duration_seconds_bucket{class=\"data\",le=\"60\"} 3",
            "slipring_command_duration_seconds_bucket{class=\"data\",le=\"+Inf\"} 4",
            "slipring_command_duration_seconds_sum{class=\"data\"} 90.000601",
            "slipring_command_duration_seconds_count{class=\"data\"} 4",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
    }

    #[test]
    fn a_node_is_shown_for_as_long_as_somebody_holds_it() {
        let metrics = metrics();
        let address = HostPort::new("10.0.0.1", 6379);
        let nodes: Vec<_> = (0..2)
            .map(|worker| metrics.cells(worker).node(1, &address, NodeRole::Primary))
            .collect();
        for node in &nodes {
            node.opened(ConnectionKind::Mux);
        }
        nodes[0].opened(ConnectionKind::Lease);
        nodes[0].closed(ConnectionKind::Lease);
        let labels = "master=\"b\",node=\"10.0.0.1:6379\",role=\"primary\"";
        let held = text(&metrics);
        for row in ["kind=\"mux\"} 2\n", "kind=\"lease\"} 0\n"] {
            let row = format!("slipring_backend_connections{{{labels},{row}");
            assert!(held.contains(&row), "no {row} in\n{held}");
        }
        drop(nodes);
        assert!(!text(&metrics).contains("slipring_backend_connections"));
    }

    #[test]
    fn only_commands_that_came_have_rows() {
        let metrics = metrics();
        let get = resp_codec::spec::TABLE
            .iter()
            .find(|spec| spec.name == "get")
            .unwrap();
        metrics.cells(0).command(get.id, Outcome::Ok);
        metrics.cells(1).command(get.id, Outcome::Ok);
        metrics
            .cells(1)
            .command(resp_codec::CommandSpec::UNKNOWN.id, Outcome::Error);
        let text = text(&metrics);
        let rows: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with("slipring_commands_total"))
            .collect();
        assert_eq!(
            rows,
            [
                "slipring_commands_total{command=\"get\",outcome=\"ok\"} 2",
                "slipring_commands_total{command=\"other\",outcome=\"error\"} 1",
            ]
        );
    }
}
