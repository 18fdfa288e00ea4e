//! Figures: what was measured in each round, and what they come to together.

use serde::Serialize;

/// So many events in what time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    pub(super) events: f64,
    pub(super) seconds: f64,
}

impl Rate {
    pub(super) fn new(events: impl TryInto<u32>, seconds: f64) -> Self {
        Self {
            events: f64::from(events.try_into().unwrap_or(u32::MAX)),
            seconds: seconds.max(1e-6),
        }
    }

    pub(super) fn per_s(self) -> f64 {
        self.events / self.seconds
    }
}

/// Events a second: all events in all time, and round by round.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Rates {
    pub(super) events_per_s: f64,
    pub(super) rounds_events_per_s: Vec<f64>,
}

impl Rates {
    pub(super) fn of(rounds: &[Rate]) -> Self {
        let sum = |of: fn(&Rate) -> f64| rounds.iter().map(of).sum::<f64>();
        Self {
            events_per_s: sum(|rate| rate.events) / sum(|rate| rate.seconds).max(1e-6),
            rounds_events_per_s: rounds.iter().map(|rate| rate.per_s()).collect(),
        }
    }

    /// How this compares with another one that took turns with it.
    pub(super) fn to(&self, other: &Self) -> Ratio {
        let rounds = self.rounds_events_per_s.iter();
        let of_rounds = rounds.zip(&other.rounds_events_per_s);
        Ratio {
            ratio: self.events_per_s / other.events_per_s,
            rounds_ratio: of_rounds.map(|(own, other)| own / other).collect(),
        }
    }
}

/// How two figures compare: over all, and round by round.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Ratio {
    pub(super) ratio: f64,
    pub(super) rounds_ratio: Vec<f64>,
}

/// The lowest and the highest.
pub(super) fn range(rounds: &[f64]) -> (f64, f64) {
    let (low, high) = (f64::INFINITY, f64::NEG_INFINITY);
    rounds.iter().fold((low, high), |(low, high), &value| {
        (low.min(value), high.max(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_come_together_by_their_time() {
        let rates = Rates::of(&[Rate::new(100u32, 1.0), Rate::new(100u32, 3.0)]);
        assert_eq!(rates.events_per_s, 50.0);
        assert_eq!(range(&rates.rounds_events_per_s), (100.0 / 3.0, 100.0));
        let twice = Rates::of(&[Rate::new(200u32, 1.0), Rate::new(200u32, 3.0)]);
        assert_eq!(twice.to(&rates).rounds_ratio, [2.0, 2.0]);
    }
}
