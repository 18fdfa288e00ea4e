//! Waiting for something that another process will do: the one place of the tests that polls.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

/// How long a test waits for what ought to happen within a second or two: generous, since it only
/// costs time where something is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Observes every 20 ms until `accept` likes what it sees, and returns that.
///
/// # Panics
///
/// After `within`, showing the last observed value.
pub(crate) async fn eventually<T: Debug>(
    what: &str,
    within: Duration,
    mut observe: impl AsyncFnMut() -> T,
    accept: impl Fn(&T) -> bool,
) -> T {
    let deadline = Instant::now() + within;
    let mut tick = interval(Duration::from_millis(20));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let seen = observe().await;
        if accept(&seen) {
            return seen;
        }
        assert!(
            Instant::now() < deadline,
            "not within {within:?}: {what}; last seen: {seen:#?}"
        );
    }
}

mod tests {
    use super::*;

    #[tokio::test]
    async fn what_comes_true_later_is_returned() {
        let mut looks = 0;
        let seen = eventually(
            "the third look",
            PATIENCE,
            async || {
                looks += 1;
                looks
            },
            |&looks| looks == 3,
        )
        .await;
        assert_eq!(seen, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "not within 30ms: pigs fly; last seen: \"on the ground\"")]
    async fn what_never_comes_true_is_shown_as_last_seen() {
        let short = Duration::from_millis(30);
        eventually("pigs fly", short, async || "on the ground", |_| false).await;
    }
}
