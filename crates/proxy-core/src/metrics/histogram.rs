//! Durations in fixed buckets.

use std::time::Duration;

use super::count::Count;

/// Upper bounds of the buckets, inclusive: 100 µs to 60 s, so that both a command and a hold fit.
pub(super) const BOUNDS: [Duration; 18] = [
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2_500),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(60),
];

/// One worker's share of a histogram.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// How many fell into each bucket alone; the last one is beyond all bounds.
    buckets: [Count; BOUNDS.len() + 1],
    /// Their sum, in nanoseconds: 584 years fit.
    nanos: Count,
}

/// All workers' shares together.
#[derive(Debug, Default)]
pub(super) struct Sum {
    /// How many fell into each bucket alone.
    pub(super) buckets: [u64; BOUNDS.len() + 1],
    /// Their sum, in nanoseconds.
    pub(super) nanos: u64,
}

// === impl Histogram ===

impl Histogram {
    /// Records `count` durations of `elapsed` each.
    pub(super) fn record(&self, elapsed: Duration, count: u64) {
        let bucket = BOUNDS.partition_point(|bound| *bound < elapsed);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.add(count);
        }
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.add(nanos.saturating_mul(count));
    }

    pub(super) fn add_to(&self, sum: &mut Sum) {
        for (total, bucket) in sum.buckets.iter_mut().zip(&self.buckets) {
            *total += bucket.get();
        }
        sum.nanos = sum.nanos.wrapping_add(self.nanos.get());
    }
}

// === impl Sum ===

impl Sum {
    /// How many were recorded.
    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}
