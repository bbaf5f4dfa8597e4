//! One measurement, and the median of several.

use serde::Serialize;

/// One front under one workload, in one round or as the median of all rounds (each field on its own).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Sample {
    pub(super) requests_per_second: f64,
    /// Latencies as redis-benchmark saw them, in milliseconds.
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) p999_ms: f64,
    /// Processor microseconds of the front for each request, all threads.
    pub(super) front_us: f64,
    /// The part of it in the front's own code, and in the kernel on its behalf.
    pub(super) front_user_us: f64,
    pub(super) front_system_us: f64,
    /// Processor microseconds of the Redis behind for each request.
    pub(super) redis_us: f64,
    /// Resident memory of the front after the run.
    pub(super) resident_bytes: f64,
    /// Connections that the front held to Redis while it worked; for Redis addressed directly, those of the clients.
    pub(super) backend_connections: f64,
}

/// The median, the mean of the middle two for an even count; 0 for none.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

// === impl Sample ===

impl Sample {
    /// The median of each field.
    pub(super) fn median(samples: &[Self]) -> Self {
        let of = |field: fn(&Self) -> f64| median(samples.iter().map(field));
        Self {
            requests_per_second: of(|sample| sample.requests_per_second),
            p50_ms: of(|sample| sample.p50_ms),
            p99_ms: of(|sample| sample.p99_ms),
            p999_ms: of(|sample| sample.p999_ms),
            front_us: of(|sample| sample.front_us),
            front_user_us: of(|sample| sample.front_user_us),
            front_system_us: of(|sample| sample.front_system_us),
            redis_us: of(|sample| sample.redis_us),
            resident_bytes: of(|sample| sample.resident_bytes),
            backend_connections: of(|sample| sample.backend_connections),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wild_round_does_not_move_a_median() {
        assert_eq!(median([7.0, 900.0, 6.0, 8.0, 7.5]), 7.5);
        assert_eq!(median([1.0, 4.0, 2.0, 3.0]), 2.5);
        assert_eq!(median([]), 0.0);
    }
}
