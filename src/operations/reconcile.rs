//! One pass of the sweeper, by hand or from cron.

use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{OperationError, Operations};
use crate::sweeper::{Held, SweepError, SweepReport, Sweeper};

/// What a pass did, or in a dry run would do, and what it couldn't.
#[derive(Debug, Serialize)]
pub(crate) struct Reconciliation {
    pub(crate) dry_run: bool,
    /// What was pending for longer was looked at.
    pub(crate) older_than_seconds: u64,
    /// What became of it.
    #[serde(flatten)]
    pub(crate) report: SweepReport,
    /// What others have claimed or locked.
    #[serde(flatten)]
    pub(crate) held: Held,
}

impl Operations {
    /// One pass over what is pending for longer than that; by default than `sweeper.stale_after`. Dropped before its
    /// end, what it has claimed and not processed is free again after `sweeper.claim`.
    pub(crate) async fn reconcile(
        &self,
        older_than: Option<Duration>,
        dry_run: bool,
    ) -> Result<Reconciliation, OperationError> {
        let sweeper = Sweeper::new(&self.settings, self.storage.clone());
        let older_than = older_than.unwrap_or(self.settings.sweeper.stale_after);
        let (report, held) = if dry_run {
            sweeper.preview(older_than).await?
        } else {
            let never = CancellationToken::new();
            sweeper.run_and_look(older_than, &never).await?
        };
        Ok(Reconciliation {
            dry_run,
            older_than_seconds: older_than.as_secs(),
            report,
            held,
        })
    }
}

impl From<SweepError> for OperationError {
    fn from(error: SweepError) -> Self {
        match error {
            SweepError::Storage(error) => error.into(),
            SweepError::ArticleQuery(_) => Self::Internal(error.to_string()),
        }
    }
}
