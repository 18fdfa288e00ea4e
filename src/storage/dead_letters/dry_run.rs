//! What the ledger would say: the real function, in a transaction that is always rolled back. It couldn't be committed:
//! `try_events` sees to that.

use std::{collections::HashMap, time::Duration};

use futures_util::TryStreamExt as _;
use sqlx::QueryBuilder;
use uuid::Uuid;

use super::{ChargeState, Selection};
use crate::{
    domain::{CompletionEvent, Deduction},
    storage::{
        Storage, StorageError,
        charging::{TRY, deduct_in},
        pool::Session,
    },
};

/// A dry run holds companies that a worker may want, and must never be why a worker's transaction is
/// the one that a deadlock ends: it gives up before `PostgreSQL` looks for deadlocks (1 s).
const GIVE_WAY: Duration = Duration::from_millis(500);

/// An open dead letter, as far as a plan needs to know it before it is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Candidate {
    pub id: i64,
    /// Its company: its own or, by now, that of its job's row.
    pub company_id: Option<Uuid>,
    /// Bytes of what a replay would send.
    pub body_bytes: i32,
    /// What the ledger says of its job.
    pub charge_state: ChargeState,
}

/// What a replay would send.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct DeadLetterBody {
    pub id: i64,
    /// The edited body if there is one, else the original.
    pub body: Vec<u8>,
    /// The `content-type` of its first arrival.
    pub content_type: Option<String>,
}

/// An open transaction in which charges can be tried. Whatever becomes of it, it is rolled back: dropped,
/// it closes its connection. While it is open, it holds the companies it has charged: so companies have
/// to come in the order of their ids, as in any charge, and it has to be short.
pub struct DryRun {
    session: Session,
}

impl Storage {
    /// The open dead letters of a selection, by company and then oldest first. Some 50 bytes of memory each.
    pub async fn replay_candidates(
        &self,
        selection: &Selection,
    ) -> Result<Vec<Candidate>, StorageError> {
        let mut query = QueryBuilder::new(
            "select d.id, coalesce(d.company_id, j.company_id) as company_id, d.charge_state,
                    octet_length(coalesce(d.edited_body, d.body)) as body_bytes
             from dead_letters_with_charges d left join article_jobs j on j.id = d.job_id
             where d.state = 'open'",
        );
        selection.restrict(&mut query);
        query.push(" order by 2 nulls first, d.id");
        self.call(async |connection| {
            query
                .build_query_as::<Candidate>()
                .fetch(connection)
                .try_collect()
                .await
        })
        .await
    }

    /// Begins a transaction in which charges are tried.
    pub async fn begin_dry_run(&self) -> Result<DryRun, StorageError> {
        let mut session = self.session().await?;
        session
            .call(async |connection| sqlx::raw_sql("begin").execute(connection).await)
            .await?;
        Ok(DryRun { session })
    }
}

impl DryRun {
    /// The bodies of these dead letters, in the order of `ids`. On this connection, so that a pool of one is
    /// enough.
    pub async fn bodies(&mut self, ids: &[i64]) -> Result<Vec<DeadLetterBody>, StorageError> {
        let query = sqlx::query_as(
            "select d.id, coalesce(d.edited_body, d.body) as body, d.properties ->> 'content_type' as content_type
             from dead_letters d where d.id = any($1) order by array_position($1, d.id)",
        )
        .bind(ids);
        self.session
            .call(async |connection| query.fetch_all(connection).await)
            .await
    }

    /// What the ledger would answer to these events, after those tried before; one answer per event, in
    /// order.
    pub async fn deduct(
        &mut self,
        events: &[&CompletionEvent],
    ) -> Result<Vec<Deduction>, StorageError> {
        let answers = deduct_in(&mut self.session, TRY, events, Some(GIVE_WAY)).await?;
        Ok(answers.deductions)
    }

    /// What the companies of charged jobs had before and after it, by job.
    pub async fn balances(
        &mut self,
        events: &[&CompletionEvent],
    ) -> Result<HashMap<Uuid, (i64, i64)>, StorageError> {
        let ids: Vec<Uuid> = events.iter().map(|event| event.job_id()).collect();
        let query = sqlx::query_as(
            "select i.id, r.balance_before, r.balance_after
             from unnest($1) as i (id)
             cross join lateral (
                 select * from token_deduction_records r
                 where r.idempotency_key = i.id::text collate \"C\" and r.status = 'completed' offset 0
             ) r",
        )
        .bind(ids);
        let rows: Vec<(Uuid, i64, i64)> = self
            .session
            .call(async |connection| query.fetch_all(connection).await)
            .await?;
        let balances = rows
            .into_iter()
            .map(|(id, before, after)| (id, (before, after)));
        Ok(balances.collect())
    }

    /// Rolls back and gives the connection back.
    pub async fn end(mut self) -> Result<(), StorageError> {
        self.session
            .call(async |connection| sqlx::raw_sql("rollback").execute(connection).await)
            .await?;
        self.session.release();
        Ok(())
    }
}
