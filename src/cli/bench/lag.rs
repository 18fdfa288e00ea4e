//! How long events wait for their charge, more exactly than the buckets of the metric tell.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use metrics::HistogramFn;

/// Buckets to each doubling: a quantile is right to within 1/16.
const STEPS: usize = 16;
/// Doublings of a microsecond: up to 2^40 µs, some twelve days.
const DOUBLINGS: usize = 40;

/// A histogram of the time from an event's `occurred_at` to its committed charge, by the clocks of the
/// publisher and of this machine.
#[derive(Debug)]
pub(super) struct Lag {
    buckets: Vec<AtomicU64>,
    max_us: AtomicU64,
}

impl Default for Lag {
    fn default() -> Self {
        let buckets = (0..STEPS * DOUBLINGS).map(|_| AtomicU64::new(0)).collect();
        Self {
            buckets,
            max_us: AtomicU64::new(0),
        }
    }
}

impl HistogramFn for Lag {
    /// In seconds.
    fn record(&self, lag: f64) {
        let us = ((lag * 1e6) as u64).max(1);
        self.buckets[bucket(us)].fetch_add(1, Ordering::Relaxed);
        self.max_us.fetch_max(us, Ordering::Relaxed);
    }
}

impl Lag {
    /// The lag that this share (0 to 1) of all charges stayed below; `None` before the first.
    pub(super) fn quantile(&self, share: f64) -> Option<Duration> {
        let counts: Vec<u64> = self
            .buckets
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .collect();
        let total: u64 = counts.iter().sum();
        let mut left = (total as f64 * share).ceil() as u64;
        for (index, count) in counts.into_iter().enumerate() {
            if count > 0 && count >= left {
                return Some(Duration::from_micros(upper_edge(index)).min(self.max()));
            }
            left -= count;
        }
        None
    }

    /// The longest lag; zero before the first.
    pub(super) fn max(&self) -> Duration {
        Duration::from_micros(self.max_us.load(Ordering::Relaxed))
    }
}

/// Logarithmic, each doubling cut into equal steps.
fn bucket(us: u64) -> usize {
    let doubling = us.ilog2() as usize;
    let above = (us - (1 << doubling)) as u128 * STEPS as u128;
    (doubling * STEPS + (above >> doubling) as usize).min(STEPS * DOUBLINGS - 1)
}

fn upper_edge(bucket: usize) -> u64 {
    let (doubling, step) = (bucket / STEPS, bucket % STEPS);
    (1 << doubling) + (((step as u64 + 1) << doubling) / STEPS as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_a_sixteenth() {
        let lag = Lag::default();
        assert_eq!(lag.quantile(0.5), None);
        for ms in 1..=1000_u32 {
            lag.record(f64::from(ms) / 1e3);
        }
        for (share, ms) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0), (0.001, 1.0)] {
            let got = lag.quantile(share).expect("recorded").as_secs_f64() * 1e3;
            assert!((ms..=ms * 1.07).contains(&got), "{share}: {got}");
        }
        assert_eq!(lag.max(), Duration::from_secs(1));
    }

    #[test]
    fn extremes_find_a_bucket() {
        let lag = Lag::default();
        lag.record(0.0);
        lag.record(f64::INFINITY);
        assert_eq!(lag.quantile(0.5), Some(Duration::from_micros(1)));
    }
}
