//! What slipring knows of itself: for `/readyz`, `/topology`, `/failovers` and `/metrics`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, HistogramOpts, HistogramVec, Opts, TextEncoder};
use proxy_core::{FailoverRecord, Family, Field, Memory, Metrics, Timeline};
use sentinel_watcher::{Health, HealthFeed, Phase, SentinelState, Topology, TopologyFeed};
use serde_json::{Value, json};

use crate::process;

/// One master as its watcher sees it.
#[derive(Clone)]
pub(crate) struct Watched {
    pub(crate) master: Arc<str>,
    pub(crate) topology: TopologyFeed,
    pub(crate) health: HealthFeed,
}

/// All that operators can ask. Shared by the control thread's tasks.
pub(crate) struct Status {
    masters: Vec<Watched>,
    metrics: Arc<Metrics>,
    memory: Arc<Memory>,
    timelines: Vec<Arc<Timeline>>,
    failover_durations: HistogramVec,
    last_failover: GaugeVec,
    draining: AtomicBool,
}

const PHASES: [(Phase, &str); 3] = [
    (Phase::Serving, "serving"),
    (Phase::Moving, "moving"),
    (Phase::Down, "down"),
];

const SENTINEL_STATES: [SentinelState; 6] = [
    SentinelState::Connecting,
    SentinelState::Watching,
    SentinelState::Polling,
    SentinelState::Tilted,
    SentinelState::Unreachable,
    SentinelState::Refusing,
];

// === impl Status ===

impl Status {
    pub(crate) fn new(
        masters: Vec<Watched>,
        metrics: Arc<Metrics>,
        memory: Arc<Memory>,
        timelines: Vec<Arc<Timeline>>,
    ) -> Self {
        let options = HistogramOpts::new(
            "slipring_failover_duration_seconds",
            "From the first sign of a failover to the new primary serving, in seconds.",
        )
        .buckets(vec![0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0]);
        let failover_durations =
            HistogramVec::new(options, &["master"]).expect("the name and the label are valid");
        let options = Opts::new(
            "slipring_last_failover_duration_seconds",
            "The same of the last failover; nothing before the first.",
        );
        let last_failover = GaugeVec::new(options, &["master"]).expect("the name and the label are valid");
        for watched in &masters {
            failover_durations.with_label_values(&[&watched.master]);
        }
        Self {
            masters,
            metrics,
            memory,
            timelines,
            failover_durations,
            last_failover,
            draining: AtomicBool::new(false),
        }
    }

    /// From now on `/readyz` fails, so that no new client is sent here.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether clients are served, and what an operator should know.
    pub(crate) fn ready(&self) -> Result<String, String> {
        if self.draining.load(Ordering::Relaxed) {
            return Err("draining\n".to_owned());
        }
        let mut ready = true;
        let mut text = String::new();
        for watched in &self.masters {
            let topology = watched.topology.load();
            let phase = worst_phase(&topology);
            ready &= phase == Phase::Serving;
            let health = watched.health.load();
            let problem = health
                .problem
                .as_deref()
                .map(|problem| format!(" ({problem})"))
                .unwrap_or_default();
            text += &format!("{}: {}{problem}\n", watched.master, phase_name(phase));
        }
        if ready { Ok(text) } else { Err(text) }
    }

    /// Everything known of every master.
    pub(crate) fn topology(&self) -> Value {
        let masters = self.masters.iter().map(|watched| {
            let topology = Arc::clone(&watched.topology.load());
            master_json(&topology, &watched.health.load())
        });
        json!({ "masters": masters.collect::<Vec<_>>() })
    }

    /// What is kept of each master's failovers, the newest first.
    pub(crate) fn failovers(&self) -> Value {
        let masters = self.timelines.iter().map(|timeline| {
            let records = timeline.records();
            let failovers: Vec<_> = records.iter().map(failover_json).collect();
            json!({ "master": &**timeline.master(), "failovers": failovers })
        });
        json!({ "masters": masters.collect::<Vec<_>>() })
    }

    /// All metrics, in the text format of Prometheus.
    pub(crate) fn metrics(&self) -> String {
        let mut families = self.metrics.gather();
        families.extend(self.watched_families());
        families.extend(self.failover_durations.collect());
        let last_failover = self.last_failover.collect();
        families.extend(
            last_failover
                .into_iter()
                .filter(|family| !family.get_metric().is_empty()),
        );
        // Whoever mounts no /proc does without.
        families.extend(process::families().unwrap_or_default());
        families.sort_by(|a, b| a.name().cmp(b.name()));
        TextEncoder::new()
            .encode_to_string(&families)
            .expect("each family has a name and rows")
    }

    /// Follows the health of master number `index` and records each failover, for as long as slipring runs.
    pub(crate) async fn record_failovers(self: Arc<Self>, index: usize) {
        let Some(watched) = self.masters.get(index) else {
            return;
        };
        let durations = self.failover_durations.with_label_values(&[&watched.master]);
        let mut health = watched.health.clone();
        let mut recorded = 0;
        loop {
            health.changed().await;
            for failover in &health.load().past_failovers {
                if failover.number <= recorded {
                    continue;
                }
                recorded = failover.number;
                let Some(promotion) = &failover.promotion else {
                    continue;
                };
                let seconds = promotion.after.as_secs_f64();
                durations.observe(seconds);
                self.last_failover
                    .with_label_values(&[&watched.master])
                    .set(seconds);
            }
        }
    }

    /// What the watchers see.
    fn watched_families(&self) -> impl Iterator<Item = MetricFamily> {
        let build = Family::gauge("build_info", "The version that runs; always 1.")
            .row(&[("version", env!("CARGO_PKG_VERSION"))], 1);
        let mut limit = Family::gauge("memory_limit_bytes", "--max-memory, where there is one.");
        if self.memory.is_limited() {
            limit = limit.row(&[], self.memory.limit() as i64);
        }
        let families = [
            vec![build, limit],
            self.topology_families(),
            self.sentinel_families(),
            self.replica_families(),
        ];
        families.into_iter().flatten().filter_map(Family::finish)
    }

    fn topology_families(&self) -> Vec<Family> {
        let mut primary = Family::gauge("primary_info", "The primary of a master; always 1.");
        let mut phases = Family::gauge(
            "shard_phase",
            "1 for the phase that a master is in, 0 for the others.",
        );
        let mut epoch = Family::gauge(
            "topology_epoch",
            "slipring's own count of the topologies of a master.",
        );
        for watched in &self.masters {
            let topology = watched.topology.load();
            let master = ("master", &*watched.master);
            let primaries = topology
                .shards()
                .iter()
                .filter_map(|shard| shard.primary.as_ref());
            for node in primaries {
                primary = primary.row(&[master, ("address", &node.address.to_string())], 1);
            }
            let current = worst_phase(&topology);
            for (phase, name) in PHASES {
                phases = phases.row(&[master, ("phase", name)], i64::from(phase == current));
            }
            epoch = epoch.row(&[master], topology.epoch.0.cast_signed());
        }
        vec![primary, phases, epoch]
    }

    fn sentinel_families(&self) -> Vec<Family> {
        let mut config_epoch = Family::gauge(
            "sentinel_config_epoch",
            "The highest config-epoch among the sentinels reachable now.",
        );
        let mut sentinels = Family::gauge("sentinels", "Sentinels of a master, by how they fare.");
        let mut failovers = Family::counter("failovers_total", "Times that a primary changed.");
        for watched in &self.masters {
            let health = watched.health.load();
            let master = ("master", &*watched.master);
            config_epoch = config_epoch.row(&[master], health.config_epoch.cast_signed());
            for state in SENTINEL_STATES {
                let those = health.sentinels.iter().filter(|sentinel| sentinel.state == state);
                sentinels = sentinels.row(&[master, ("state", state.label())], those.count() as i64);
            }
            let counts = &health.failovers;
            for (kind, count) in [
                ("planned", counts.planned),
                ("crash", counts.crash),
                ("manual", counts.manual),
            ] {
                failovers = failovers.row(&[master, ("kind", kind)], count.cast_signed());
            }
        }
        vec![config_epoch, sentinels, failovers]
    }

    fn replica_families(&self) -> Vec<Family> {
        let mut lag = Family::gauge("replica_lag_bytes", "Bytes that a replica is behind its primary.");
        let mut usable = Family::gauge("replica_usable", "1 where a replica may be read, else 0.");
        for watched in &self.masters {
            for replica in &watched.health.load().replicas {
                let labels = [
                    ("master", &*watched.master),
                    ("node", &*replica.address.to_string()),
                ];
                usable = usable.row(&labels, i64::from(replica.usable));
                if let Some(bytes) = replica.lag_bytes {
                    lag = lag.row(&labels, bytes.cast_signed());
                }
            }
        }
        vec![lag, usable]
    }
}

/// A master serves when all of its shards do.
fn worst_phase(topology: &Topology) -> Phase {
    let rank = |phase: &Phase| PHASES.iter().position(|(known, _)| known == phase);
    let phases = topology.shards().iter().map(|shard| shard.phase);
    phases.max_by_key(rank).unwrap_or(Phase::Down)
}

const fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Serving => "serving",
        Phase::Moving => "moving",
        Phase::Down => "down",
    }
}

fn failover_json(record: &FailoverRecord) -> Value {
    let fields = record.fields().into_iter().map(|(name, field)| {
        let value = match field {
            Field::Number(number) => json!(number),
            Field::Text(text) => json!(text),
        };
        (name.to_owned(), value)
    });
    Value::Object(fields.collect())
}

fn master_json(topology: &Topology, health: &Health) -> Value {
    let shard = |shard: &sentinel_watcher::Shard| {
        let replicas = shard.replicas.iter().map(|replica| {
            let fresh = health
                .replicas
                .iter()
                .find(|fresh| fresh.address == replica.address);
            json!({
                "address": replica.address.to_string(),
                "usable": fresh.map_or(replica.usable, |fresh| fresh.usable),
                "lag_bytes": fresh.map_or(replica.lag_bytes, |fresh| fresh.lag_bytes),
                "priority": replica.priority,
            })
        });
        json!({
            "phase": phase_name(shard.phase),
            "primary": shard.primary.as_ref().map(|primary| json!({
                "address": primary.address.to_string(),
                "term": primary.term.0,
            })),
            "provisional": shard.provisional,
            "config_epoch": shard.config_epoch,
            "replicas": replicas.collect::<Vec<_>>(),
        })
    };
    let sentinels = health.sentinels.iter().map(|sentinel| {
        json!({
            "address": sentinel.address.to_string(),
            "state": sentinel.state.label(),
            "config_epoch": sentinel.config_epoch,
        })
    });
    json!({
        "master": &*topology.master,
        "epoch": topology.epoch.0,
        "problem": health.problem,
        "shards": topology.shards().iter().map(shard).collect::<Vec<_>>(),
        "sentinels": sentinels.collect::<Vec<_>>(),
        "quorum": health.quorum,
        "down_after_seconds": health.down_after.map(|time| time.as_secs_f64()),
    })
}
