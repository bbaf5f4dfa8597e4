//! One metric and its rows, on the way to the encoder.

use prometheus::proto;

use super::histogram::{BOUNDS, Sum};

/// A metric under construction. Rows come in the order in which they are added.
#[derive(Debug)]
pub struct Family(proto::MetricFamily);

// === impl Family ===

impl Family {
    /// What only grows. `name` is without the prefix `slipring_`.
    #[must_use]
    pub fn counter(name: &str, help: &str) -> Self {
        Self::new(name, help, proto::MetricType::COUNTER)
    }

    /// What rises and falls. `name` is without the prefix `slipring_`.
    #[must_use]
    pub fn gauge(name: &str, help: &str) -> Self {
        Self::new(name, help, proto::MetricType::GAUGE)
    }

    /// Durations in seconds. `name` is without the prefix `slipring_`.
    pub(super) fn histogram(name: &str, help: &str) -> Self {
        Self::new(name, help, proto::MetricType::HISTOGRAM)
    }

    /// Adds a row of a counter or a gauge.
    #[expect(clippy::cast_precision_loss, reason = "the text format knows doubles alone")]
    #[must_use]
    pub fn row(self, labels: &[(&str, &str)], value: i64) -> Self {
        let value = value as f64;
        let counts = self.0.get_field_type() == proto::MetricType::COUNTER;
        self.push(labels, |metric| {
            if counts {
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            } else {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        })
    }

    /// Adds a row of a histogram.
    #[expect(
        clippy::cast_precision_loss,
        reason = "nanoseconds of 104 days are exact, and beyond it who cares"
    )]
    pub(super) fn distribution(self, labels: &[(&str, &str)], sum: &Sum) -> Self {
        let mut histogram = proto::Histogram::default();
        let mut cumulative = 0;
        let mut buckets = Vec::with_capacity(BOUNDS.len());
        for (bound, count) in BOUNDS.iter().zip(&sum.buckets) {
            cumulative += count;
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(bound.as_secs_f64());
            bucket.set_cumulative_count(cumulative);
            buckets.push(bucket);
        }
        histogram.set_bucket(buckets);
        histogram.set_sample_count(sum.count());
        histogram.set_sample_sum(sum.nanos as f64 / 1e9);
        self.push(labels, |metric| metric.set_histogram(histogram))
    }

    /// The finished metric; `None` without any row, which the text format does not allow.
    #[must_use]
    pub fn finish(self) -> Option<proto::MetricFamily> {
        (!self.0.get_metric().is_empty()).then_some(self.0)
    }

    fn new(name: &str, help: &str, kind: proto::MetricType) -> Self {
        let mut family = proto::MetricFamily::default();
        family.set_name(format!("slipring_{name}"));
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        Self(family)
    }

    fn push(mut self, labels: &[(&str, &str)], value: impl FnOnce(&mut proto::Metric)) -> Self {
        let pairs = labels.iter().map(|(name, value)| {
            let mut pair = proto::LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        let mut metric = proto::Metric::from_label(pairs.collect());
        value(&mut metric);
        self.0.mut_metric().push(metric);
        self
    }
}
