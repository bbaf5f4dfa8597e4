//! What PROXY SHOW prints.

use std::sync::atomic::Ordering;
use std::time::SystemTime;

use prometheus::proto::{MetricFamily, MetricType};
use sentinel_watcher::Phase;

use crate::door::Master;
use crate::failover::FailoverRecord;
use crate::passage::Kin;

/// What a client may see of every metric: the sum over its labels, or how many there were and how long each took; before
/// that, which process this one has followed, and which one follows.
pub(super) fn stats(families: &[MetricFamily], kin: &Kin) -> Vec<String> {
    let sum = |name: &str, label: Option<&str>| -> f64 {
        let family = families.iter().filter(|family| family.name() == name);
        let rows = family
            .flat_map(MetricFamily::get_metric)
            .filter(|row| label.is_none_or(|label| row.get_label().iter().any(|pair| pair.value() == label)));
        rows.map(|row| row.get_counter().get_value() + row.get_gauge().get_value())
            .sum()
    };
    let (predecessor, successor) = (&kin.predecessor, &kin.successor);
    let from = Some(predecessor.load(Ordering::Relaxed)).filter(|process| *process > 0);
    let to = Some(successor.load(Ordering::Relaxed)).filter(|process| *process > 0);
    let from = from.map(|process| {
        let taken = sum("slipring_clients_adopted_total", None);
        format!("upgraded_from process={process} taken={taken}")
    });
    let to = to.map(|process| {
        let moved = sum("slipring_clients_closed_total", Some("moved"));
        let left = sum("slipring_clients", None);
        format!("upgraded_to process={process} moved={moved} left={left}")
    });
    from.into_iter()
        .chain(to)
        .chain(families.iter().map(total))
        .collect()
}

fn total(family: &MetricFamily) -> String {
    let name = family.name().trim_start_matches("slipring_");
    let rows = family.get_metric();
    match family.get_field_type() {
        MetricType::HISTOGRAM => {
            let count: u64 = rows
                .iter()
                .map(|row| row.get_histogram().get_sample_count())
                .sum();
            let sum: f64 = rows.iter().map(|row| row.get_histogram().get_sample_sum()).sum();
            #[expect(clippy::cast_precision_loss, reason = "for the eyes of an operator")]
            let mean = if count == 0 { 0.0 } else { sum / count as f64 };
            format!("{name} count={count} mean={mean:.6}")
        }
        MetricType::COUNTER => {
            let sum: f64 = rows.iter().map(|row| row.get_counter().get_value()).sum();
            format!("{name} {sum}")
        }
        _ => {
            let sum: f64 = rows.iter().map(|row| row.get_gauge().get_value()).sum();
            format!("{name} {sum}")
        }
    }
}

pub(super) fn failovers(master: &Master) -> Vec<String> {
    let records = master.timeline.records();
    if records.is_empty() {
        return vec!["none since the start".to_owned()];
    }
    records.iter().map(line).collect()
}

#[expect(clippy::disallowed_methods, reason = "for the eyes of an operator")]
fn line(record: &FailoverRecord) -> String {
    let ago = SystemTime::now().duration_since(record.began).unwrap_or_default();
    let fields = record
        .fields()
        .into_iter()
        .map(|(name, field)| format!("{name}={field}"));
    format!(
        "{} s ago: {}",
        ago.as_secs(),
        fields.collect::<Vec<_>>().join(" ")
    )
}

pub(super) fn topology(master: &Master) -> Vec<String> {
    let topology = master.upstream.feed.load();
    let health = master.upstream.health.load();
    let shard = topology.shard(0);
    let phase = match shard.phase {
        Phase::Serving => "serving",
        Phase::Moving => "moving",
        Phase::Down => "down",
    };
    let mut lines = vec![format!(
        "master={} phase={phase} epoch={}",
        master.upstream.master, topology.epoch.0
    )];
    if let Some(primary) = &shard.primary {
        lines.push(format!(
            "primary={} term={} config_epoch={} provisional={}",
            primary.address, primary.term.0, shard.config_epoch, shard.provisional
        ));
    }
    for replica in &shard.replicas {
        let fresh = health
            .replicas
            .iter()
            .find(|fresh| fresh.address == replica.address);
        let lag = fresh.map_or(replica.lag_bytes, |fresh| fresh.lag_bytes);
        let lag = lag.map_or("unknown".to_owned(), |bytes| bytes.to_string());
        lines.push(format!(
            "replica={} usable={} lag_bytes={lag} priority={}",
            replica.address, replica.usable, replica.priority
        ));
    }
    for sentinel in &health.sentinels {
        lines.push(format!(
            "sentinel={} state={} config_epoch={}",
            sentinel.address,
            sentinel.state.label(),
            sentinel.config_epoch
        ));
    }
    lines.extend(health.problem.iter().map(|problem| format!("problem={problem}")));
    lines
}
