//! Closing holds that have expired. They count no more since that moment, so nothing hangs on when this is done; but an
//! article that was written while its tokens were held, and whose event never came, is a charge that is missing.
//!
//! If the process dies before they are closed, the next pass finds them; whose event is missing is told before that, rather
//! twice than never.

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Article, SweepReport, Sweeper};
use crate::storage::{ArticleQuery, ExpiredHold, StaleDeduction, StorageError};

impl Sweeper {
    /// Closes all that have expired; in a dry run only counts them.
    pub(super) async fn close_expired_holds(
        &self,
        query: Option<&ArticleQuery>,
        dry_run: bool,
        stop: &CancellationToken,
        report: &mut SweepReport,
    ) -> Result<(), StorageError> {
        let mut after = None;
        while !stop.is_cancelled() {
            let limit = self.settings.batch_max;
            let expired = self.storage.expired_holds(after, limit).await?;
            let Some(last) = expired.last() else { break };
            after = Some((last.expires_at, last.job_id));
            let asked: Vec<StaleDeduction> = expired
                .iter()
                .filter(|hold| !hold.is_decided)
                .map(as_stale)
                .collect();
            let articles = self.find_articles(query, &asked, report).await?;
            let mut articles = articles.into_iter();
            let (mut jobs, mut reasons) = (Vec::new(), Vec::new());
            for hold in &expired {
                let article = if hold.is_decided {
                    Article::Unknown
                } else {
                    articles.next().unwrap_or(Article::NotAsked)
                };
                let reason = match article {
                    // Left open: counts for nothing, and is asked about again.
                    Article::NotAsked => continue,
                    Article::Exists => "event_missing",
                    Article::Missing | Article::Unknown => "expired",
                };
                if article == Article::Exists && !dry_run {
                    tracing::error!(
                        job.id = %hold.job_id,
                        "its article was written while tokens were held for it, and no event came: nothing was charged; \
                         publish its event"
                    );
                }
                jobs.push(hold.job_id);
                reasons.push(reason);
            }
            let closed = match dry_run {
                true => jobs.clone(),
                false => self.storage.close_expired_holds(&jobs, &reasons).await?,
            };
            let closed: std::collections::HashSet<Uuid> = closed.into_iter().collect();
            for (job, reason) in jobs.iter().zip(&reasons) {
                if !closed.contains(job) {
                    continue;
                }
                report.holds_expired += 1;
                if *reason == "event_missing" {
                    report.events_missing += 1;
                }
            }
        }
        Ok(())
    }
}

/// For the question whether its article exists.
fn as_stale(hold: &ExpiredHold) -> StaleDeduction {
    StaleDeduction {
        idempotency_key: hold.job_id.to_string(),
        company_id: hold.company_id,
        article_id: hold.article_id,
        job_id: Some(hold.job_id),
        amount: hold.amount,
        pending_since: hold.expires_at,
        article_exists: hold.article_exists,
    }
}
