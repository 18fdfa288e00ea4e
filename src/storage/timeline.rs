//! The life of one job: how it stands, and everything that is known of its past.
//!
//! The past is told from what is written once and stays: attempts, charges, refunds, archived messages, actions.
//! So what was told once is told every time. What changes is how things stand: the record, the application's row,
//! the dead letters' states and their latest arrivals.

mod letters;

use serde::Serialize;
use sqlx::FromRow;
use time::OffsetDateTime;

use super::{DeductionRecord, Storage, StorageError, bounded::Bounded};
pub use letters::JobLetter;

/// Moments that are told of one job, at most.
const MANY: i64 = 1000;

/// Moments that happen at the same instant, in the order in which one leads to the next.
const ORDER: [&str; 13] = [
    "job_created",
    "article_written",
    "charge_tried",
    "charge_refused",
    "failed_first",
    "charge_owed",
    "dead_lettered",
    "archived",
    "replay",
    "written_off",
    "charged",
    "resolved",
    "refunded",
];

/// All but the dead letters' arrivals. Records that are older than `token_deduction_attempts` have nothing there:
/// of their past the record says what it still knows.
const MOMENTS: &str = "with record as materialized (
     select * from token_deduction_records where idempotency_key = $1 collate \"C\"
 ), attempt as materialized (
     select * from token_deduction_attempts where idempotency_key = $1 collate \"C\"
 ), untold as materialized (
     select * from record where not exists (select from attempt)
 ), job as materialized (
     select * from article_jobs where id = job_of($1)
 ), letter as materialized (
     select * from dead_letters where job_id = job_of($1)
 )
 select * from (
     select case when created_at between '0001-01-02' and '9999-12-30' then created_at end as at,
            'job_created' as what, null as actor, null::bigint as dead_letter_id,
            null::bigint as tokens, null::int as attempts, format('company %s', company_id) as detail
     from job
     union all
     select case when a.created_at between '0001-01-02' and '9999-12-30' then a.created_at end,
            'article_written', null, null, null, null, format('article %s', a.id)
     from articles a
     where a.id in (select article_id from record union select article_id from job)
     union all
     select at, case when status = 'pending' then 'charge_owed'
                     when error_code = 'article_not_found' then 'written_off'
                     else 'charge_refused' end,
            null, null, amount,
            case when status = 'failed' and error_code <> 'article_not_found' then retry_count + 1 end, error_message
     from attempt
     union all
     select created_at, 'charge_tried', null, null, amount, null, null
     from untold where completed_at is null or retry_count > 0
     union all
     select coalesce(pending_since, created_at), 'charge_owed', null, null, amount, null,
            case when status = 'pending' then error_message end
     from untold where pending_since is not null or status = 'pending'
     union all
     select coalesce(written_off_at, created_at), 'written_off', null, null, amount, null, error_message
     from untold where status = 'failed' and error_code = 'article_not_found'
     union all
     select created_at, 'charge_refused', null, null, amount, retry_count + 1, error_message
     from untold where status = 'failed' and error_code <> 'article_not_found'
     union all
     select completed_at, 'charged', null, null, amount, retry_count + 1,
            format('%s monthly and %s purchased; balance %s -> %s, position %s', monthly_deducted,
                   purchased_deducted, balance_before, balance_after, ledger_seq)
     from record where completed_at is not null
     union all
     select c.created_at, 'refunded', c.actor, null, c.monthly_amount + c.purchased_amount, null,
            format('%s monthly and %s purchased, %s forfeited; position %s%s', c.monthly_amount,
                   c.purchased_amount, c.forfeited_amount, c.ledger_seq, ': ' || c.reason)
     from token_credits c where c.idempotency_key = $1 and c.kind = 'refund'
     union all
     select f.replayed_at, 'replay_failed_again', null, f.id, null, null, format('came back as %s', f.failed_again_as)
     from letter f where f.failed_again_as is not null
     union all
     select resolved_at, 'resolved', null, id, null, null, null from letter where resolved_at is not null
     union all
     select l.at, o.action, o.actor, l.dead_letter_id, null, null, o.reason
     from letter d
     join dead_letter_actions l on l.dead_letter_id = d.id
     join operator_actions o on o.id = l.action_id
 ) moments
 order by at nulls first
 limit $2";

/// One moment in the life of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
pub struct Moment {
    /// When; `None`: the application's table has no time for it that means anything.
    #[serde(with = "time::serde::rfc3339::option")]
    #[sqlx(try_from = "Bounded<Option<OffsetDateTime>>")]
    pub at: Option<OffsetDateTime>,
    /// What happened, a stable word.
    pub what: String,
    /// Who did it, where a person did.
    pub actor: Option<String>,
    /// The dead letter that it is about.
    pub dead_letter_id: Option<i64>,
    /// Tokens that it moved or tried to.
    pub tokens: Option<i64>,
    /// Tries that had been made by then.
    pub attempts: Option<i32>,
    /// The same for a person.
    pub detail: Option<String>,
}

/// What the application's table says of a job now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
pub struct ApplicationJob {
    /// Its status, in the application's words.
    pub status: Option<String>,
    /// What it says to people.
    pub error_message: Option<String>,
    /// Since when; `None`: its table has no time that means anything.
    #[serde(with = "time::serde::rfc3339::option")]
    #[sqlx(try_from = "Bounded<Option<OffsetDateTime>>")]
    pub updated_at: Option<OffsetDateTime>,
}

/// Everything that is known of one job.
#[derive(Debug, Clone, Serialize)]
pub struct JobLife {
    /// How its charge stands.
    pub record: Option<DeductionRecord>,
    /// How the application's row stands.
    pub job: Option<ApplicationJob>,
    /// How its dead letters stand, the oldest first.
    pub dead_letters: Vec<JobLetter>,
    /// What happened, the oldest first.
    pub timeline: Vec<Moment>,
}

impl Storage {
    /// The life of the job of this key. An empty timeline: nothing is known of it.
    pub async fn job_life(&self, key: &str) -> Result<JobLife, StorageError> {
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
        timeline.extend(archived.iter().flat_map(letters::Archived::moments));
        timeline.sort_by_key(|moment| (moment.at, rank(&moment.what), moment.dead_letter_id));
        Ok(JobLife {
            record: self.deduction_record(key).await?,
            job,
            dead_letters: archived.into_iter().map(|archived| archived.now).collect(),
            timeline,
        })
    }
}

fn rank(what: &str) -> usize {
    let place = ORDER.iter().position(|known| *known == what);
    place.unwrap_or(ORDER.len())
}
