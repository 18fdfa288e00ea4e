//! Sweeps what has been `pending` for too long.
//!
//! A pass takes stale records oldest first, in batches, and for each batch asks whether the articles exist.
//! Those that do are charged by the function that charges everything; those that don't are ended as failed;
//! where that can't be told, the record stays pending and a person is told. Any number of sweepers share the
//! work: a record is taken by committing `claimed_until`. Then it closes holds that have expired (`holds.rs`).
//!
//! If the process dies:
//!
//! | at this moment | then |
//! |---|---|
//! | after a batch was claimed | its claims run out after `sweeper.claim`; a later pass takes them |
//! | after the articles were looked for | the same; nothing was decided |
//! | after charging or writing off was committed | those are done; the next pass doesn't meet them |
//! | before the dead letters were resolved | the archivist, or the next pass, finds the charged jobs |

mod held;
mod holds;
mod report;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::{
    config::{self, Settings},
    failpoint,
    storage::{ArticleQuery, StaleDeduction, StaleLook, Storage, StorageError, Waited, isolate},
    telemetry::metrics::Metrics,
};

pub use held::Held;
pub use report::SweepReport;

/// Records of which an application's query is asked on one connection, in one go.
const ASKED_AT_ONCE: usize = 16;

/// Whether an article exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Article {
    Exists,
    Missing,
    /// What is there doesn't tell.
    Unknown,
    NotAsked,
}

impl From<Option<bool>> for Article {
    fn from(exists: Option<bool>) -> Self {
        match exists {
            Some(true) => Self::Exists,
            Some(false) => Self::Missing,
            None => Self::Unknown,
        }
    }
}

/// What a pass did to one record.
#[derive(Debug, Clone, Copy)]
enum Swept {
    Charged,
    Refused,
    WrittenOff {
        tokens: i64,
    },
    /// Somebody else was first.
    Meanwhile,
}

/// Why a pass ended early.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The database as a whole.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The application's query can't be used.
    #[error("sweeper.article_exists_query: {0}")]
    ArticleQuery(String),
}

/// Does the passes.
#[derive(Debug)]
pub struct Sweeper {
    settings: config::Sweeper,
    storage: Arc<Storage>,
}

/// Sweeps every `sweeper.interval` until `stop`; a pass that is under way ends with its batch.
pub async fn run(sweeper: Sweeper, metrics: Arc<Metrics>, stop: CancellationToken) {
    let mut every = tokio::time::interval(sweeper.settings.interval);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = every.tick() => {}
        }
        if sweeper.storage.wait_until_available(&stop).await == Waited::Cancelled {
            return;
        }
        let mut report = SweepReport::default();
        let stale_after = sweeper.settings.stale_after;
        let ended = sweeper.pass(stale_after, &stop, &mut report).await;
        report.count(&metrics);
        metrics.swept_pass(match &ended {
            Err(_) => "failed",
            Ok(_) if report.needs_person() => "needs_person",
            Ok(_) => "done",
        });
        match ended {
            Ok(_) if report == SweepReport::default() => tracing::debug!("swept: {report}"),
            Ok(_) => tracing::info!("swept: {report}"),
            Err(error) => {
                tracing::error!(error.message = %error, "the sweep ended early; the next one goes on");
            }
        }
    }
}

impl Sweeper {
    /// A sweeper of this ledger.
    pub fn new(settings: &Settings, storage: Arc<Storage>) -> Self {
        Self {
            settings: settings.sweeper.clone(),
            storage,
        }
    }

    /// Whether the application's query can be used; `None`: there is none.
    ///
    /// # Errors
    ///
    /// It can't, or the database can't be asked.
    pub async fn article_query(&self) -> Result<Option<ArticleQuery>, SweepError> {
        let sql = self.settings.article_exists_query.trim();
        if sql.is_empty() {
            return Ok(None);
        }
        let query = self.storage.article_query(sql).await?;
        query.map(Some).map_err(SweepError::ArticleQuery)
    }

    /// One pass over all that is stale now.
    ///
    /// # Errors
    ///
    /// The database can't be asked. What was swept before is done.
    pub async fn run_once(
        &self,
        stale_after: Duration,
        stop: &CancellationToken,
    ) -> Result<SweepReport, SweepError> {
        let mut report = SweepReport::default();
        self.pass(stale_after, stop, &mut report).await?;
        Ok(report)
    }

    /// The same for whoever wants to know whether anything is pending now: also what is in other hands.
    ///
    /// # Errors
    ///
    /// As [`run_once`](Self::run_once).
    pub async fn run_and_look(
        &self,
        stale_after: Duration,
        stop: &CancellationToken,
    ) -> Result<(SweepReport, Held), SweepError> {
        let mut report = SweepReport::default();
        let left = self.pass(stale_after, stop, &mut report).await?;
        Ok((report, self.held(stale_after, &left).await?))
    }

    /// One pass: what it has claimed and perhaps left pending. The report holds also if it ends early.
    async fn pass(
        &self,
        stale_after: Duration,
        stop: &CancellationToken,
        report: &mut SweepReport,
    ) -> Result<HashSet<String>, SweepError> {
        let query = self.article_query().await?;
        let mut left = HashSet::new();
        let mut look = self.first_look(stale_after);
        while !stop.is_cancelled() {
            let lease = self.settings.claim;
            let stale = self.storage.claim_stale_deductions(&look, lease).await?;
            let Some(last) = stale.last() else { break };
            look.after = Some((last.pending_since, last.idempotency_key.clone()));
            failpoint::hit(
                "after_sweep_claim",
                stale.iter().filter_map(|one| one.job_id),
            );
            let articles = self.find_articles(query.as_ref(), &stale, report).await?;
            self.sweep(&stale, &articles, stop, report).await?;
            if report.needs_person() {
                left.extend(stale.into_iter().map(|one| one.idempotency_key));
            }
        }
        if report.undecidable > 0 {
            tracing::warn!(
                pending_deductions = report.undecidable,
                "pending, and whether their articles exist can't be told: no article is named, or the table \
                 articles is empty and sweeper.article_exists_query is not set"
            );
        }
        self.close_expired_holds(query.as_ref(), false, stop, report)
            .await?;
        self.storage.resolve_dead_letters().await?;
        Ok(left)
    }

    /// What a pass would find now, and what is in other hands; changes nothing. A charge may still be refused.
    ///
    /// # Errors
    ///
    /// As [`run_once`](Self::run_once).
    pub async fn preview(&self, stale_after: Duration) -> Result<(SweepReport, Held), SweepError> {
        let query = self.article_query().await?;
        let (mut report, mut met) = (SweepReport::default(), HashSet::new());
        let mut look = self.first_look(stale_after);
        loop {
            let stale = self.storage.stale_deductions(&look).await?;
            let Some(last) = stale.last() else {
                let never = CancellationToken::new();
                self.close_expired_holds(query.as_ref(), true, &never, &mut report)
                    .await?;
                return Ok((report, self.held(stale_after, &met).await?));
            };
            look.after = Some((last.pending_since, last.idempotency_key.clone()));
            let articles = self
                .find_articles(query.as_ref(), &stale, &mut report)
                .await?;
            for (one, article) in stale.iter().zip(articles) {
                match article {
                    Article::Exists => report.add(Swept::Charged),
                    Article::Missing => report.add(Swept::WrittenOff { tokens: one.amount }),
                    Article::Unknown => report.undecidable += 1,
                    Article::NotAsked => {}
                }
            }
            met.extend(stale.into_iter().map(|one| one.idempotency_key));
        }
    }

    fn first_look(&self, stale_after: Duration) -> StaleLook {
        StaleLook {
            stale_after,
            after: None,
            limit: self.settings.batch_max,
        }
    }

    /// Whether each article exists.
    async fn find_articles(
        &self,
        query: Option<&ArticleQuery>,
        stale: &[StaleDeduction],
        report: &mut SweepReport,
    ) -> Result<Vec<Article>, StorageError> {
        let Some(query) = query else {
            return Ok(stale.iter().map(|one| one.article_exists.into()).collect());
        };
        let ask = |some: Vec<_>| async move {
            match self.storage.articles_exist(query, &some).await {
                // It is the application's query, which may be slow for some.
                Err(error @ StorageError::NoAnswer) => Ok(Err(error)),
                answer => self.storage.blame(answer).await,
            }
        };
        let stale: Vec<&StaleDeduction> = stale.iter().collect();
        let mut articles = Vec::with_capacity(stale.len());
        for some in stale.chunks(ASKED_AT_ONCE) {
            let answers = isolate(some, |one| &one.idempotency_key, |_| false, ask).await?;
            for (one, answer) in some.iter().zip(answers) {
                articles.push(answer.map_or_else(
                    |error| {
                        report.set_aside(one, "sweeper.article_exists_query failed", &error);
                        Article::NotAsked
                    },
                    Article::from,
                ));
            }
        }
        Ok(articles)
    }

    /// Charges those whose articles exist and writes off those whose articles don't. What fails is set aside: its
    /// claim keeps it out of the way until a later pass. However many have to wait, the others are asked as well: the
    /// same ones come first in every pass.
    async fn sweep(
        &self,
        stale: &[StaleDeduction],
        articles: &[Article],
        stop: &CancellationToken,
        report: &mut SweepReport,
    ) -> Result<(), StorageError> {
        for decided in [Article::Exists, Article::Missing] {
            let those = stale.iter().zip(articles).filter(|(_, is)| **is == decided);
            let those: Vec<&StaleDeduction> = those.map(|(one, _)| one).collect();
            if those.is_empty() {
                continue;
            }
            let swept = isolate(
                &those,
                |one| one.company_id,
                |_| stop.is_cancelled(),
                |some| async move {
                    let keys: Vec<&str> = some.iter().map(|one| &*one.idempotency_key).collect();
                    let swept = match decided {
                        Article::Exists => self.charge(&keys).await,
                        _ => self.write_off(&keys).await,
                    };
                    let each = |mut swept: HashMap<String, Swept>| {
                        let of = |key: &&str| swept.remove(*key).unwrap_or(Swept::Meanwhile);
                        keys.iter().map(of).collect()
                    };
                    self.storage.blame(swept.map(each)).await
                },
            )
            .await?;
            for (one, swept) in those.into_iter().zip(swept) {
                match swept {
                    Ok(swept) => report.add(swept),
                    Err(error) => report.set_aside(one, "could not be swept", &error),
                }
            }
        }
        let undecidable = articles.iter().filter(|is| **is == Article::Unknown);
        report.undecidable += undecidable.count() as u64;
        Ok(())
    }

    /// What became of those that were still pending, by key.
    async fn charge(&self, keys: &[&str]) -> Result<HashMap<String, Swept>, StorageError> {
        let answers = self.storage.charge_pending(keys).await?;
        let swept = answers.into_iter().map(|answer| {
            let key = answer.idempotency_key;
            if let Some(error) = answer.job_status_error {
                tracing::warn!(
                    charge.idempotency_key = key,
                    error.message = error,
                    "article_jobs refused the new status"
                );
            }
            let swept = match (answer.success, answer.idempotent) {
                (true, false) => Swept::Charged,
                (true, true) => Swept::Meanwhile,
                (false, _) => {
                    let error = answer.error_message.unwrap_or_default();
                    tracing::warn!(
                        charge.idempotency_key = key,
                        error.message = error,
                        "pending, but refused"
                    );
                    Swept::Refused
                }
            };
            (key, swept)
        });
        Ok(swept.collect())
    }

    async fn write_off(&self, keys: &[&str]) -> Result<HashMap<String, Swept>, StorageError> {
        let answers = self.storage.write_off_pending(keys).await?;
        let swept = answers.into_iter().map(|answer| {
            let (key, tokens) = (answer.idempotency_key, answer.amount);
            tracing::warn!(
                charge.idempotency_key = key,
                charge.tokens = tokens,
                error.message = answer.job_status_error,
                "no such article: written off"
            );
            (key, Swept::WrittenOff { tokens })
        });
        Ok(swept.collect())
    }
}
