//! What a pass can't sweep because it is in other hands.

use std::{collections::HashSet, time::Duration};

use serde::Serialize;
use time::OffsetDateTime;

use super::{Article, SweepError, SweepReport, Sweeper};
use crate::storage::PendingDeduction;

/// Stale pending records that a pass didn't get. Another sweeper has claimed them: it sweeps them, or it has looked
/// at them in vain and its claims run out. Or somebody has their rows locked. Either way they are pending now, and
/// "nothing is pending" would be wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Held {
    #[serde(rename = "held_by_others")]
    pub records: u64,
    #[serde(rename = "held_by_others_tokens")]
    pub tokens: i64,
    /// Of these, how many wait for a person: whether the article exists can't be told.
    #[serde(rename = "held_by_others_undecidable")]
    pub undecidable: u64,
    /// When the last of the claims runs out; `None`: none is claimed.
    #[serde(rename = "held_by_others_until", with = "time::serde::rfc3339::option")]
    pub until: Option<OffsetDateTime>,
}

impl Sweeper {
    /// All that is stale now but `own`: the keys that the caller's own pass has met. Changes nothing.
    ///
    /// # Errors
    ///
    /// As [`run_once`](Self::run_once).
    pub(super) async fn held(
        &self,
        stale_after: Duration,
        own: &HashSet<String>,
    ) -> Result<Held, SweepError> {
        let query = self.article_query().await?;
        let (mut held, mut look) = (Held::default(), self.first_look(stale_after));
        loop {
            let pending = self.storage.pending_deductions(&look).await?;
            let Some(PendingDeduction { stale: last, .. }) = pending.last() else {
                return Ok(held);
            };
            look.after = Some((last.pending_since, last.idempotency_key.clone()));
            let others = pending
                .into_iter()
                .filter(|one| !own.contains(&one.stale.idempotency_key));
            let (stale, until): (Vec<_>, Vec<_>) =
                others.map(|one| (one.stale, one.claimed_until)).unzip();
            held.until = held.until.max(until.into_iter().flatten().max());
            held.records += stale.len() as u64;
            for one in &stale {
                held.tokens = held.tokens.saturating_add(one.amount);
            }
            // A query that fails for one of them is its sweeper's business, and told there.
            let articles = self
                .find_articles(query.as_ref(), &stale, &mut SweepReport::default())
                .await?;
            held.undecidable += articles
                .iter()
                .filter(|article| **article == Article::Unknown)
                .count() as u64;
        }
    }
}
