//! When an event is tried again, and when no more.

use std::time::Duration;

use crate::config::Retry;

/// The delays between tries, from [`Retry`]: `base`, then `factor` times the one before, none longer
/// than `max_delay`, `attempts` of them.
///
/// With the defaults (`base` 1 s, `factor` 2, `max_delay` 10 s, `attempts` 3): 1 s, 2 s, 4 s.
/// With 6 attempts: 1 s, 2 s, 4 s, 8 s, 10 s, 10 s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetrySchedule {
    delays: Vec<Duration>,
}

impl RetrySchedule {
    /// The schedule that the settings describe, in whole milliseconds.
    #[must_use]
    pub fn new(settings: &Retry) -> Self {
        let milliseconds = |duration: Duration| u64::try_from(duration.as_millis());
        let base = milliseconds(settings.base).unwrap_or(u64::MAX);
        let max = milliseconds(settings.max_delay).unwrap_or(u64::MAX);
        let grown = |delay: &u64| Some(delay.saturating_mul(u64::from(settings.factor)).min(max));
        let delays = std::iter::successors(Some(base.min(max)), grown)
            .take(settings.attempts as usize)
            .map(Duration::from_millis)
            .collect();
        Self { delays }
    }

    /// How long to wait after try number `attempt` (0 is the first) has failed; `None` when the
    /// steps are used up.
    #[must_use]
    pub fn delay(&self, attempt: u32) -> Option<Duration> {
        self.delays.get(attempt as usize).copied()
    }

    /// The distinct delays, shortest first: each has a delay queue of its own.
    #[must_use]
    pub fn steps(&self) -> Vec<Duration> {
        let mut steps = self.delays.clone();
        steps.dedup();
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(base_ms: u64, factor: u32, max_ms: u64, attempts: u32) -> RetrySchedule {
        RetrySchedule::new(&Retry {
            base: Duration::from_millis(base_ms),
            factor,
            max_delay: Duration::from_millis(max_ms),
            attempts,
        })
    }

    fn in_ms(steps: &[Duration]) -> Vec<u128> {
        steps.iter().map(Duration::as_millis).collect()
    }

    #[test]
    fn the_defaults_are_one_two_and_four_seconds() {
        let schedule = RetrySchedule::new(&Retry::default());
        assert_eq!(in_ms(&schedule.steps()), [1000, 2000, 4000]);
        assert_eq!(schedule.delay(0), Some(Duration::from_secs(1)));
        assert_eq!(schedule.delay(1), Some(Duration::from_secs(2)));
        assert_eq!(schedule.delay(2), Some(Duration::from_secs(4)));
        assert_eq!(schedule.delay(3), None);
        assert_eq!(schedule.delay(u32::MAX), None);
    }

    #[test]
    fn delays_are_capped_and_a_repeated_one_is_one_step() {
        let schedule = schedule(1000, 2, 10_000, 6);
        assert_eq!(
            in_ms(&schedule.delays),
            [1000, 2000, 4000, 8000, 10_000, 10_000]
        );
        assert_eq!(in_ms(&schedule.steps()), [1000, 2000, 4000, 8000, 10_000]);
        assert_eq!(schedule.delay(5), Some(Duration::from_secs(10)));
        assert_eq!(schedule.delay(6), None);
    }

    #[test]
    fn a_factor_of_one_is_one_step_and_no_attempts_are_none() {
        assert_eq!(in_ms(&schedule(250, 1, 10_000, 20).steps()), [250]);
        assert!(schedule(250, 2, 10_000, 0).steps().is_empty());
        assert_eq!(schedule(250, 2, 10_000, 0).delay(0), None);
    }

    #[test]
    fn the_largest_schedule_does_not_overflow() {
        let day = 24 * 3600 * 1000;
        let schedule = schedule(day, 10, day, 20);
        assert_eq!(in_ms(&schedule.steps()), [u128::from(day)]);
        assert_eq!(schedule.delay(19), Some(Duration::from_millis(day)));
    }
}
