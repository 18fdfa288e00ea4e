//! Everything that is known of one job, in the order in which it happened.

use serde::Serialize;
use sqlx::FromRow;
use time::OffsetDateTime;

use super::{Storage, StorageError, bounded::Bounded};

/// Moments that are told of one job, at most.
const MANY: i64 = 1000;

/// The job's row, its record, its letters, and all that any of them tells.
const TIMELINE: &str = "with record as materialized (
     select * from token_deduction_records where idempotency_key = $1 collate \"C\"
 ), job as materialized (
     select * from article_jobs where id = job_of($1)
 ), letter as materialized (
     select * from dead_letters where job_id = job_of($1)
 )
 select * from (
     select case when created_at between '0001-01-02' and '9999-12-30' then created_at end as at, 'job_created' as what, null as actor, null::bigint as dead_letter_id,
            null::bigint as tokens, null::int as attempts, format('company %s', company_id) as detail
     from job
     union all
     select case when a.created_at between '0001-01-02' and '9999-12-30' then a.created_at end, 'article_written', null, null, null, null, format('article %s', a.id)
     from articles a
     where a.id = (select coalesce((select article_id from record), (select article_id from job)))
     union all
     select updated_at, 'job_status', null, null, null, null, concat_ws(': ', status::text, error_message)
     from job where updated_at > created_at
     union all
     select created_at, 'charge_tried', null, null, amount, null, null
     from record where status <> 'completed' or retry_count > 0
     union all
     select coalesce(pending_since, created_at), 'charge_owed', null, null, amount, null, error_message
     from record where pending_since is not null or status = 'pending'
     union all
     select coalesce(written_off_at, created_at), 'written_off', null, null, amount, null, error_message
     from record where status = 'failed' and error_code = 'article_not_found'
     union all
     select created_at, 'charge_refused', null, null, amount, retry_count + 1, error_message
     from record where status = 'failed' and error_code <> 'article_not_found'
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
     select first_failed_at, 'failed_first', null, id, tokens, null, null
     from letter where first_failed_at < last_failed_at
     union all
     select last_failed_at, 'dead_lettered', null, id, tokens, attempts, concat_ws(': ', reason, error)
     from letter
     union all
     select archived_at, 'archived', null, id, null, null,
            case when occurrences > 1 then format('%s arrivals, the last at %s', occurrences, last_arrived_at) end
     from letter
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
 order by at nulls first, array_position(
     array['job_created', 'article_written', 'charge_tried', 'charge_refused', 'failed_first', 'charge_owed',
           'dead_lettered', 'archived', 'replay', 'charged', 'job_status', 'resolved'], what) nulls last
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

impl Storage {
    /// The life of the job of this key, oldest first; empty: nothing is known of it.
    pub async fn timeline(&self, key: &str) -> Result<Vec<Moment>, StorageError> {
        let query = sqlx::query_as(TIMELINE).bind(key).bind(MANY);
        self.call(async |connection| query.fetch_all(connection).await)
            .await
    }
}
