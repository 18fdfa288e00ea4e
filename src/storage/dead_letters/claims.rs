//! Letters in the hands of a replay: claimed, sent, marked.
//!
//! A claim runs out by itself (`claimed_until`), since its replay may die. A run never takes a letter
//! twice, so that none can send the same one over and over because its claims run out too early.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection, QueryBuilder};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Selection, acts::lock};
use crate::storage::{Storage, StorageError, bounded::Bounded};

/// A letter that is there to be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Claimable {
    /// The letter.
    pub id: i64,
    /// Bytes of what would be sent.
    pub body_bytes: i32,
}

/// A letter in the hands of a run, to be sent.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Claimed {
    /// The letter.
    pub id: i64,
    /// What to send: the edited body if there is one, else the original.
    pub body: Vec<u8>,
    /// AMQP properties of the first arrival, a JSON object.
    pub properties: String,
    /// AMQP headers of the first arrival, a JSON object.
    pub headers: String,
    /// The job, where the body tells.
    pub job_id: Option<Uuid>,
    /// When it was claimed, by the database's clock.
    #[sqlx(try_from = "Bounded<OffsetDateTime>")]
    pub claimed_at: OffsetDateTime,
}

/// What a claim brought.
#[derive(Debug, Default)]
pub struct Claim {
    /// To be sent, oldest first.
    pub letters: Vec<Claimed>,
    /// Resolved instead of claimed: their jobs have been charged meanwhile.
    pub settled: u64,
}

/// What of a selection a run hasn't had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Rest {
    /// Letters, those in other hands included.
    pub letters: i64,
    /// Those in the hands of another run, dead or alive.
    pub held: i64,
    /// Until the first of their claims runs out, in milliseconds.
    pub first_free_ms: i64,
    /// Until the last one does.
    pub last_free_ms: i64,
}

impl Storage {
    /// The next letters that `run` may claim, oldest first, from after `cursor`. Some of them may belong
    /// to refunded jobs, which a claim leaves out: without the books this is a walk along an index that
    /// ends at the limit.
    pub async fn claimable(
        &self,
        selection: &Selection,
        run: i64,
        cursor: i64,
        limit: i64,
    ) -> Result<Vec<Claimable>, StorageError> {
        let mut query = QueryBuilder::new(
            "select d.id, octet_length(coalesce(d.edited_body, d.body)) as body_bytes
             from dead_letters d
             where d.state = 'open' and (d.claimed_until is null or d.claimed_until <= clock_timestamp())
               and d.claimed_by is distinct from ",
        );
        query.push_bind(run).push(" and d.id > ").push_bind(cursor);
        selection.restrict(&mut query);
        query.push(" order by d.id limit ").push_bind(limit);
        self.call(async |connection| query.build_query_as().fetch_all(connection).await)
            .await
    }

    /// Claims what is still there of these letters, for `lease`. What has been charged meanwhile is resolved.
    pub async fn claim(
        &self,
        run: i64,
        ids: &[i64],
        lease: Duration,
    ) -> Result<Claim, StorageError> {
        let claim = async |connection: &mut PgConnection| {
            let mut transaction = connection.begin().await?;
            lock(&mut transaction).await?;
            // As settle_dead_letters() does for all.
            let settled = sqlx::query(
                "update dead_letters
                 set state = 'resolved', resolved_at = clock_timestamp(), claimed_until = null
                 where id in (
                     select d.id from dead_letters_and_money d
                     where d.id = any($1) and d.state = 'open' and d.is_settled)",
            )
            .bind(ids)
            .execute(&mut *transaction)
            .await?
            .rows_affected();
            let mut letters: Vec<Claimed> = sqlx::query_as(
                "update dead_letters
                 set claimed_by = $2, claimed_until = clock_timestamp() + make_interval(secs => $3)
                 where id in (
                     select d.id from dead_letters_and_money d
                     where d.id = any($1) and d.state = 'open' and d.claimed_by is distinct from $2
                       and (d.claimed_until is null or d.claimed_until <= clock_timestamp())
                       and d.money <> 'compensated')
                 returning id, coalesce(edited_body, body) as body, properties::text, headers::text, job_id,
                           clock_timestamp() as claimed_at",
            )
            .bind(ids)
            .bind(run)
            .bind(lease.as_secs_f64())
            .fetch_all(&mut *transaction)
            .await?;
            transaction.commit().await?;
            letters.sort_unstable_by_key(|letter| letter.id);
            Ok(Claim { letters, settled })
        };
        self.call(claim).await
    }

    /// Marks letters that `run` has sent as replayed, where its claim still holds; how many did. Where
    /// the answer to the replay was here first, there is nothing to mark, and that counts as held.
    pub async fn mark_replayed(
        &self,
        run: i64,
        ids: &[i64],
        claimed_at: OffsetDateTime,
    ) -> Result<u64, StorageError> {
        // `is not distinct from`: by the letters' ids, never by the index of all that the run has had.
        let mark = async |connection: &mut PgConnection| {
            let mut transaction = connection.begin().await?;
            lock(&mut transaction).await?;
            let marked = sqlx::query(
                "update dead_letters
                 set state = case state when 'open' then 'replayed' else state end,
                     replayed_at = $3, claimed_until = null
                 where id = any($1) and claimed_by is not distinct from $2
                   and (state <> 'open' or claimed_until > clock_timestamp())",
            )
            .bind(ids)
            .bind(run)
            .bind(claimed_at)
            .execute(&mut *transaction)
            .await?
            .rows_affected();
            // Sent is sent, whoever holds them now.
            sqlx::query("select record_dead_letter_actions($2, $1, $3)")
                .bind(ids)
                .bind(run)
                .bind(claimed_at)
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await?;
            Ok(marked)
        };
        self.call(mark).await
    }

    /// Gives back claims of `run` on letters that are not certain to have been sent. `claimed_by` stays: if
    /// one was sent after all and comes back, it is known whose it is.
    pub async fn release(&self, run: i64, ids: &[i64]) -> Result<(), StorageError> {
        let release = async |connection: &mut PgConnection| {
            let mut transaction = connection.begin().await?;
            lock(&mut transaction).await?;
            sqlx::query(
                "update dead_letters set claimed_until = null
                 where id = any($1) and claimed_by is not distinct from $2 and state = 'open'",
            )
            .bind(ids)
            .bind(run)
            .execute(&mut *transaction)
            .await?;
            transaction.commit().await
        };
        self.call(release).await
    }

    /// What of the selection is open and was never in the hands of `run`.
    pub async fn rest(&self, selection: &Selection, run: i64) -> Result<Rest, StorageError> {
        let mut query = QueryBuilder::new(
            "select count(*) as letters,
                    count(*) filter (where claimed_until > clock_timestamp()) as held,
                    coalesce(ceil(extract(epoch from min(claimed_until) - clock_timestamp()) * 1000), 0)::bigint
                        as first_free_ms,
                    coalesce(ceil(extract(epoch from max(claimed_until) - clock_timestamp()) * 1000), 0)::bigint
                        as last_free_ms
             from dead_letters_and_money d
             where d.state = 'open' and d.money <> 'compensated' and d.claimed_by is distinct from ",
        );
        query.push_bind(run);
        selection.restrict(&mut query);
        self.call(async |connection| query.build_query_as().fetch_one(connection).await)
            .await
    }
}
