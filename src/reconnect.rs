//! How long to wait before the next try at something that is away: exponential, with jitter. The only
//! file that names the `backoff` crate.

use std::time::Duration;

use backoff::{ExponentialBackoff, ExponentialBackoffBuilder, backoff::Backoff as _};
use tokio_util::sync::CancellationToken;

use crate::config;

/// The waits between tries: about `reconnect.initial`, then half as long again each time, up to
/// `reconnect.max`, each varied by up to a half so that many workers don't knock at once. Never gives up.
#[derive(Debug)]
pub struct Reconnect(ExponentialBackoff);

impl Reconnect {
    /// Starts from the first, shortest wait.
    pub fn new(settings: &config::Reconnect) -> Self {
        Self(
            ExponentialBackoffBuilder::new()
                .with_initial_interval(settings.initial)
                .with_max_interval(settings.max)
                .with_max_elapsed_time(None)
                .build(),
        )
    }

    /// Waits before the next try. `false`: cancelled meanwhile.
    pub async fn wait(&mut self, cancelled: &CancellationToken) -> bool {
        // Without a maximum of elapsed time there always is a next interval.
        let delay = self.0.next_backoff().unwrap_or(Duration::from_secs(1));
        tokio::select! {
            () = cancelled.cancelled() => false,
            () = tokio::time::sleep(delay) => true,
        }
    }

    /// Begins again with the shortest wait.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}
