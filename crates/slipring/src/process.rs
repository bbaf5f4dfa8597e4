//! What this process costs: the metrics that every Prometheus client library has, under the names they all use.

use procfs::process::{LimitValue, Process};
use prometheus::core::Collector as _;
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge};

/// `process_cpu_seconds_total` and its kin, read from `/proc` now.
///
/// # Errors
/// `/proc` is not mounted, or is not what it is on Linux.
#[expect(clippy::cast_precision_loss, reason = "the text format knows doubles alone")]
pub(crate) fn families() -> anyhow::Result<Vec<MetricFamily>> {
    let process = Process::myself()?;
    let stat = process.stat()?;
    let seconds = |ticks: u64| ticks as f64 / procfs::ticks_per_second() as f64;
    let max_open = match process.limits()?.max_open_files.soft_limit {
        LimitValue::Value(limit) => limit as f64,
        LimitValue::Unlimited => f64::INFINITY,
    };
    let cpu = Counter::new(
        "process_cpu_seconds_total",
        "Processor time of all threads, user and system, in seconds.",
    )?;
    cpu.inc_by(seconds(stat.utime + stat.stime));
    let mut families = cpu.collect();
    for (name, help, value) in [
        ("process_max_fds", "File descriptors that may be open.", max_open),
        (
            "process_open_fds",
            "File descriptors that are open.",
            process.fd_count()? as f64,
        ),
        (
            "process_resident_memory_bytes",
            "Resident memory.",
            (stat.rss * procfs::page_size()) as f64,
        ),
        (
            "process_start_time_seconds",
            "When the process started, in seconds since 1970.",
            procfs::boot_time_secs()? as f64 + seconds(stat.starttime),
        ),
        ("process_threads", "Threads.", stat.num_threads as f64),
        (
            "process_virtual_memory_bytes",
            "Virtual memory.",
            stat.vsize as f64,
        ),
    ] {
        let gauge = Gauge::new(name, help)?;
        gauge.set(value);
        families.extend(gauge.collect());
    }
    Ok(families)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_run_for_a_while_and_holds_something() {
        let families = families().unwrap();
        let value = |name: &str| {
            let family = families.iter().find(|family| family.name() == name).expect(name);
            let metric = family.get_metric().first().unwrap();
            metric
                .get_gauge()
                .get_value()
                .max(metric.get_counter().get_value())
        };
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_open_fds") <= value("process_max_fds"));
        assert!(value("process_cpu_seconds_total") < 3600.0);
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        assert!((now - 3600.0..now + 2.0).contains(&value("process_start_time_seconds")));
        assert!((1e5..1e10).contains(&value("process_resident_memory_bytes")));
    }
}
