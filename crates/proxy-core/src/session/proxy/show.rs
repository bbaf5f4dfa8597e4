//! What PROXY SHOW prints.

use std::time::SystemTime;

use prometheus::proto::{MetricFamily, MetricType};
use sentinel_watcher::Phase;

use crate::door::Master;
use crate::failover::FailoverRecord;

/// What a client may see of every metric: the sum over its labels, or how many there were and how long each took.
pub(super) fn stats(families: &[MetricFamily]) -> Vec<String> {
    families.iter().map(total).collect()
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
