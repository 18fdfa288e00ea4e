//! The life of one job: how it stands, and everything that is known of its past.
//!
//! The past is told from what is written once and stays: attempts, charges, refunds, archived messages, actions.
//! So what was told once is told every time. What changes is how things stand: the record, the application's row,
//! the dead letters' states and their latest arrivals.

mod dead_letters;

use serde::Serialize;
use sqlx::FromRow;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{DeductionRecord, Hold, Storage, StorageError, bounded::Bounded};
pub(crate) use dead_letters::JobDeadLetter;

/// Moments that are told of one job, at most.
const MANY: i64 = 1000;

/// Moments that happen at the same instant, in the order in which one leads to the next.
const ORDER: [&str; 16] = [
    "job_created",
    "held",
    "article_written",
    "charge_tried",
    "charge_refused",
    "failed_first",
    "charge_pending",
    "dead_lettered",
    "archived",
    "replay",
    "written_off",
    "charged",
    "hold_charged",
    "hold_released",
    "resolved",
    "refunded",
];

/// All but the dead letters' arrivals. Records that are older than `token_deduction_attempts` have nothing there:
/// of their past the record says what it still knows.
const MOMENTS: &str = include_str!("timeline/moments.sql");

/// One moment in the life of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow, utoipa::ToSchema)]
pub(crate) struct Moment {
    /// When; `None`: the application's table has no time for it that means anything.
    #[serde(with = "time::serde::rfc3339::option")]
    #[sqlx(try_from = "Bounded<Option<OffsetDateTime>>")]
    pub(crate) at: Option<OffsetDateTime>,
    /// What happened, a stable word.
    pub(crate) what: String,
    /// Who did it, where a person did.
    pub(crate) actor: Option<String>,
    /// The dead letter that it is about.
    pub(crate) dead_letter_id: Option<i64>,
    /// Tokens that it moved or tried to.
    pub(crate) tokens: Option<i64>,
    /// Tries that had been made by then.
    pub(crate) attempts: Option<i32>,
    /// The same for a person.
    pub(crate) detail: Option<String>,
}

/// What the application's table says of a job now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow, utoipa::ToSchema)]
pub(crate) struct ApplicationJob {
    /// Its status, in the application's words.
    pub(crate) status: Option<String>,
    /// What it says to people.
    pub(crate) error_message: Option<String>,
    /// Since when; `None`: its table has no time that means anything.
    #[serde(with = "time::serde::rfc3339::option")]
    #[sqlx(try_from = "Bounded<Option<OffsetDateTime>>")]
    pub(crate) updated_at: Option<OffsetDateTime>,
}

/// Everything that is known of one job.
#[derive(Debug, Clone, Default, Serialize, utoipa::ToSchema)]
pub(crate) struct JobLife {
    /// How its charge stands.
    pub(crate) record: Option<DeductionRecord>,
    /// How the application's row stands.
    pub(crate) job: Option<ApplicationJob>,
    /// The last tokens held for it.
    pub(crate) hold: Option<Hold>,
    /// How its dead letters stand, the oldest first.
    pub(crate) dead_letters: Vec<JobDeadLetter>,
    /// What happened, the oldest first.
    pub(crate) timeline: Vec<Moment>,
}

impl Storage {
    /// The life of the job of this key. An empty timeline: nothing is known of it.
    pub(crate) async fn job_life(&self, key: &str) -> Result<JobLife, StorageError> {
        let job = sqlx::query_as(
            "select status::text, error_message,
                    case when updated_at between '0001-01-02' and '9999-12-30' then updated_at end as updated_at
             from article_jobs where id = job_of($1)",
        )
        .bind(key);
        let moments = sqlx::query_as(MOMENTS).bind(key).bind(MANY);
        let job = self
            .call(async |connection| job.fetch_optional(connection).await)
            .await?;
        let archived = self.archived_of_job(key, MANY).await?;
        let mut timeline: Vec<Moment> = self
            .call(async |connection| moments.fetch_all(connection).await)
            .await?;
        timeline.extend(archived.iter().flat_map(dead_letters::Archived::moments));
        timeline.sort_by_key(|moment| (moment.at, rank(&moment.what), moment.dead_letter_id));
        Ok(JobLife {
            record: self.deduction_record(key).await?,
            job,
            hold: self.hold_of_job(key).await?,
            dead_letters: archived.into_iter().map(|archived| archived.now).collect(),
            timeline,
        })
    }
}

impl Storage {
    /// The companies that the record, the application's row or a dead letter of this key's job names.
    pub(crate) async fn job_companies(&self, key: &str) -> Result<Vec<Uuid>, StorageError> {
        let query = sqlx::query_scalar(
            "select company_id from token_deduction_records where idempotency_key = $1
             union select company_id from token_holds where job_id = job_of($1)
             union select company_id from article_jobs where id = job_of($1) and company_id is not null
             union select company_id from dead_letters where job_id = job_of($1) and company_id is not null",
        )
        .bind(key);
        self.call(async |connection| query.fetch_all(connection).await)
            .await
    }
}

fn rank(what: &str) -> usize {
    let place = ORDER.iter().position(|known| *known == what);
    place.unwrap_or(ORDER.len())
}
