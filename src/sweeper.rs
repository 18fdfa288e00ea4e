//! Settles what is owed: records that have been `pending` for too long.
//!
//! A pass takes stale records oldest first, in batches, and for each batch asks whether the articles exist.
//! Those that do are charged by the function that charges everything; those that don't are ended as failed;
//! where that can't be told, the record stays owed and a person is told. Any number of sweepers share the
//! work: a record is taken by committing `claimed_until`.
//!
//! If the process dies:
//!
//! | at this moment | then |
//! |---|---|
//! | after a batch was claimed | its claims run out after `sweeper.claim`; a later pass takes them |
//! | after the articles were looked for | the same; nothing was decided |
//! | after charging or writing off was committed | those are settled; the next pass doesn't meet them |
//! | before the letters were settled | the next settling finds the charged jobs |

mod held;
mod report;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    config::{self, Settings},
    failpoint,
    storage::{ArticleQuery, Fault, StaleDeduction, StaleLook, Storage, StorageError, Waited},
};

pub use held::Held;
pub use report::SweepReport;

/// Records of which an application's query is asked on one connection, in one go.
const ASKED_AT_ONCE: usize = 16;

/// Failures of one company after which the rest of it is set aside.
const FAILED_ENOUGH: u32 = 2;

/// Whether an article exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Article {
    Exists,
    Missing,
    /// What is there doesn't tell.
    Unknown,
    /// Asking failed.
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
pub async fn run(sweeper: Sweeper, stop: CancellationToken) {
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
        match sweeper.run_once(sweeper.settings.stale_after, &stop).await {
            Ok(report) if report == SweepReport::default() => tracing::debug!("swept: {report}"),
            Ok(report) => tracing::info!("swept: {report}"),
            Err(error) => tracing::error!(%error, "the sweep ended early; the next one goes on"),
        }
    }
}

impl Sweeper {
    /// A sweeper of these books.
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
    /// The database can't be asked. What was settled before is settled.
    pub async fn run_once(
        &self,
        stale_after: Duration,
        stop: &CancellationToken,
    ) -> Result<SweepReport, SweepError> {
        self.pass(stale_after, stop, &mut HashSet::new()).await
    }

    /// The same for whoever wants to know whether all is settled now: also what is in other hands.
    ///
    /// # Errors
    ///
    /// As [`run_once`](Self::run_once).
    pub async fn run_and_look(
        &self,
        stale_after: Duration,
        stop: &CancellationToken,
    ) -> Result<(SweepReport, Held), SweepError> {
        let mut left = HashSet::new();
        let report = self.pass(stale_after, stop, &mut left).await?;
        Ok((report, self.held(stale_after, &left).await?))
    }

    /// One pass. `left` becomes what it has claimed and perhaps not settled.
    async fn pass(
        &self,
        stale_after: Duration,
        stop: &CancellationToken,
        left: &mut HashSet<String>,
    ) -> Result<SweepReport, SweepError> {
        let query = self.article_query().await?;
        let mut report = SweepReport::default();
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
            let articles = self
                .find_articles(query.as_ref(), &stale, &mut report)
                .await?;
            self.settle(&stale, &articles, stop, &mut report).await?;
            if report.needs_person() {
                left.extend(stale.into_iter().map(|one| one.idempotency_key));
            }
        }
        if report.undecidable > 0 {
            tracing::warn!(
                records = report.undecidable,
                "owed, and whether their articles exist can't be told: no article is named, or the table \
                 articles is empty and sweeper.article_exists_query is not set"
            );
        }
        self.storage.settle_dead_letters().await?;
        Ok(report)
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
                return Ok((report, self.held(stale_after, &met).await?));
            };
            look.after = Some((last.pending_since, last.idempotency_key.clone()));
            let articles = self
                .find_articles(query.as_ref(), &stale, &mut report)
                .await?;
            for (one, article) in stale.iter().zip(articles) {
                match article {
                    Article::Exists => report.charged += 1,
                    Article::Missing => {
                        report.written_off += 1;
                        report.written_off_tokens += one.amount;
                    }
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
        let mut articles = Vec::with_capacity(stale.len());
        for some in stale.chunks(ASKED_AT_ONCE) {
            match self.storage.articles_exist(query, some).await {
                Ok(answers) => articles.extend(answers.into_iter().map(Article::from)),
                Err(error) if stops_asking(&error) => return Err(error),
                Err(_) => {
                    for one in some {
                        articles.push(self.find_article(query, one, report).await?);
                    }
                }
            }
        }
        Ok(articles)
    }

    async fn find_article(
        &self,
        query: &ArticleQuery,
        one: &StaleDeduction,
        report: &mut SweepReport,
    ) -> Result<Article, StorageError> {
        match self
            .storage
            .articles_exist(query, std::slice::from_ref(one))
            .await
        {
            Ok(answers) => Ok(answers.first().copied().flatten().into()),
            Err(error) if stops_asking(&error) => Err(error),
            Err(error) => {
                tracing::error!(
                    idempotency_key = one.idempotency_key, %error,
                    "sweeper.article_exists_query failed: set aside"
                );
                report.set_aside += 1;
                Ok(Article::NotAsked)
            }
        }
    }

    async fn settle(
        &self,
        stale: &[StaleDeduction],
        articles: &[Article],
        stop: &CancellationToken,
        report: &mut SweepReport,
    ) -> Result<(), StorageError> {
        let those = |article| -> Vec<&StaleDeduction> {
            let those = stale.iter().zip(articles).filter(|(_, is)| **is == article);
            those.map(|(one, _)| one).collect()
        };
        self.in_pieces(&those(Article::Exists), stop, report, Self::charge)
            .await?;
        self.in_pieces(&those(Article::Missing), stop, report, Self::write_off)
            .await?;
        for one in those(Article::Unknown) {
            let idempotency_key = one.idempotency_key.as_str();
            tracing::debug!(idempotency_key, "undecidable");
            report.undecidable += 1;
        }
        Ok(())
    }

    /// All in one transaction; if that fails, one by one, and what fails alone is set aside: its claim
    /// keeps it out of the way until a later pass. The rest of a company of which two have failed is set
    /// aside unasked: its row is locked, perhaps, and each try would wait for that again.
    async fn in_pieces(
        &self,
        stale: &[&StaleDeduction],
        stop: &CancellationToken,
        report: &mut SweepReport,
        act: impl AsyncFn(&Self, &[&str], &mut SweepReport) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let keys: Vec<&str> = stale.iter().map(|one| &*one.idempotency_key).collect();
        if keys.is_empty() {
            return Ok(());
        }
        let Err(error) = act(self, &keys, report).await else {
            return Ok(());
        };
        if hits_everybody(&error) {
            return Err(error);
        }
        let mut failed: HashMap<Uuid, u32> = HashMap::new();
        for one in stale {
            let failures = failed.entry(one.company_id).or_default();
            if *failures >= FAILED_ENOUGH || stop.is_cancelled() {
                report.set_aside += 1;
                continue;
            }
            let idempotency_key = one.idempotency_key.as_str();
            if let Err(error) = act(self, &[idempotency_key], report).await {
                if hits_everybody(&error) {
                    return Err(error);
                }
                tracing::error!(idempotency_key, %error, "could not be settled: set aside");
                report.set_aside += 1;
                *failures += 1;
            }
        }
        Ok(())
    }

    async fn charge(&self, keys: &[&str], report: &mut SweepReport) -> Result<(), StorageError> {
        let answers = self.storage.charge_pending(keys).await?;
        report.settled_meanwhile += (keys.len() - answers.len()) as u64;
        for answer in answers {
            let (key, error) = (&answer.idempotency_key, &answer.job_status_error);
            if let Some(error) = error {
                tracing::warn!(
                    idempotency_key = key,
                    error,
                    "article_jobs refused the new status"
                );
            }
            match (answer.success, answer.idempotent) {
                (true, false) => report.charged += 1,
                (true, true) => report.settled_meanwhile += 1,
                (false, _) => {
                    let error = answer.error_message.as_deref().unwrap_or_default();
                    tracing::warn!(idempotency_key = key, error, "owed, but refused");
                    report.refused += 1;
                }
            }
        }
        Ok(())
    }

    async fn write_off(&self, keys: &[&str], report: &mut SweepReport) -> Result<(), StorageError> {
        let answers = self.storage.write_off_pending(keys).await?;
        report.settled_meanwhile += (keys.len() - answers.len()) as u64;
        for answer in answers {
            let (key, tokens) = (&answer.idempotency_key, answer.amount);
            let job_status_error = answer.job_status_error.as_deref();
            tracing::warn!(
                idempotency_key = key,
                tokens,
                job_status_error,
                "no such article: written off"
            );
            report.written_off += 1;
            report.written_off_tokens += tokens;
        }
        Ok(())
    }
}

/// Whether trying the others makes no sense.
fn hits_everybody(error: &StorageError) -> bool {
    !matches!(error.fault(), Fault::Transient | Fault::Rejected)
}

/// The same for the application's query, of which several together may take too long.
fn stops_asking(error: &StorageError) -> bool {
    hits_everybody(error) && !matches!(error, StorageError::NoAnswer)
}
