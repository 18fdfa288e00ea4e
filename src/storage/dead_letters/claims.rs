//! Dead letters in flight: claimed by a replay, sent, marked.
//!
//! A claim runs out by itself (`claimed_until`), since its replay may die. A run never takes a dead letter
//! twice, so that none can send the same one over and over because its claims run out too early.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection, QueryBuilder};
use time::OffsetDateTime;
use uuid::Uuid;

use super::Selection;
use crate::storage::{Storage, StorageError, bounded::Bounded};

/// A dead letter that a run has claimed, to be sent.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Claimed {
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
    pub dead_letters: Vec<Claimed>,
    /// Resolved instead of claimed: their jobs have been charged meanwhile.
    pub resolved: u64,
}

/// What of a selection a run hasn't had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Rest {
    /// Dead letters, those that others have claimed included.
    pub dead_letters: i64,
    /// Those that another run has claimed, dead or alive.
    pub held: i64,
    /// Until the first of their claims runs out, in milliseconds.
    pub first_free_ms: i64,
    /// Until the last one does.
    pub last_free_ms: i64,
}

impl Storage {
    /// The next dead letters that `run` may claim, oldest first, from after `cursor`. Some of them may belong
    /// to refunded jobs, which a claim leaves out: without the ledger this is a walk along an index that
    /// ends at the limit. Each with the bytes of what would be sent.
    pub async fn claimable(
        &self,
        selection: &Selection,
        run: i64,
        cursor: i64,
        limit: i64,
    ) -> Result<Vec<(i64, i32)>, StorageError> {
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

    /// Claims what is still there of these dead letters, for `lease`. What has been charged meanwhile is resolved.
    pub async fn claim(
        &self,
        run: i64,
        ids: &[i64],
        lease: Duration,
    ) -> Result<Claim, StorageError> {
        let claim = async |connection: &mut PgConnection| {
            let mut transaction = connection.begin().await?;
            let resolved: i64 = sqlx::query_scalar("select resolve_dead_letters($1)")
                .bind(ids)
                .fetch_one(&mut *transaction)
                .await?;
            let dead_letters = sqlx::query_as(
                "select * from claim_dead_letters($1, $2, make_interval(secs => $3))",
            )
            .bind(run)
            .bind(ids)
            .bind(lease.as_secs_f64())
            .fetch_all(&mut *transaction)
            .await?;
            transaction.commit().await?;
            Ok(Claim {
                dead_letters,
                resolved: resolved.unsigned_abs(),
            })
        };
        self.call(claim).await
    }

    /// Marks dead letters that `run` has sent as replayed, where its claim still holds; how many did. Where
    /// the answer to the replay was here first, there is nothing to mark, and that counts as held.
    pub async fn mark_replayed(
        &self,
        run: i64,
        ids: &[i64],
        claimed_at: OffsetDateTime,
    ) -> Result<u64, StorageError> {
        let query = sqlx::query_scalar("select mark_dead_letters_replayed($1, $2, $3)")
            .bind(run)
            .bind(ids)
            .bind(claimed_at);
        let marked: i64 = self
            .call(async |connection| query.fetch_one(connection).await)
            .await?;
        Ok(marked.unsigned_abs())
    }

    /// Lets go of claims of `run` on dead letters that are not certain to have been sent. `claimed_by` stays: if
    /// one was sent after all and comes back, it is known whose it is.
    pub async fn release(&self, run: i64, ids: &[i64]) -> Result<(), StorageError> {
        let query = sqlx::query("select release_dead_letters($1, $2)")
            .bind(run)
            .bind(ids);
        self.call(async |connection| query.execute(connection).await)
            .await
            .map(drop)
    }

    /// What of the selection is open and was never claimed by `run`.
    pub async fn rest(&self, selection: &Selection, run: i64) -> Result<Rest, StorageError> {
        let mut query = QueryBuilder::new(
            "select count(*) as dead_letters,
                    count(*) filter (where claimed_until > clock_timestamp()) as held,
                    coalesce(ceil(extract(epoch from min(claimed_until) - clock_timestamp()) * 1000), 0)::bigint
                        as first_free_ms,
                    coalesce(ceil(extract(epoch from max(claimed_until) - clock_timestamp()) * 1000), 0)::bigint
                        as last_free_ms
             from dead_letters_with_charges d
             where d.state = 'open' and d.charge_state <> 'compensated' and d.claimed_by is distinct from ",
        );
        query.push_bind(run);
        selection.restrict(&mut query);
        self.call(async |connection| query.build_query_as().fetch_one(connection).await)
            .await
    }
}
