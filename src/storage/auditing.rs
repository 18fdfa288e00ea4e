//! One consistent look at the whole ledger: a read-only, repeatable-read transaction on a connection of its own. Rows
//! are streamed; memory doesn't grow with the ledger.

use std::time::Duration;

use futures_util::TryStreamExt as _;
use serde::Serialize;
use sqlx::{Connection as _, FromRow, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Storage, StorageError, bounded::Bounded};
use crate::domain::{Buckets, ChargeFigures, Movement};

/// Something that can't be if the ledger is right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow, utoipa::ToSchema)]
pub(crate) struct Violation {
    /// Which kind, a stable word.
    pub(crate) kind: String,
    /// Of which company, if it is of one.
    pub(crate) company_id: Option<Uuid>,
    /// The key, log, dead letter or credit that it is about.
    pub(crate) subject: String,
    /// The same for a person.
    pub(crate) detail: String,
}

/// Tokens that nobody was charged, or that somebody lost, on one day (UTC) for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow, utoipa::ToSchema)]
pub(crate) struct GivenAway {
    /// `2026-11-21`.
    pub(crate) day: String,
    /// `article_not_found`, `discarded`, `forfeited_by_renewal` or `forfeited_by_refund`.
    pub(crate) reason: String,
    /// Records, dead letters or credits.
    pub(crate) count: i64,
    /// Tokens, where they are known.
    pub(crate) tokens: i64,
}

/// How many rows there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, FromRow, utoipa::ToSchema)]
pub(crate) struct LedgerSize {
    pub(crate) companies: i64,
    pub(crate) records: i64,
    pub(crate) usage_logs: i64,
    pub(crate) credits: i64,
    pub(crate) dead_letters: i64,
}

/// A company's movement, or its balance at the end of its movements.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LedgerLine {
    pub(crate) company_id: Uuid,
    pub(crate) at: OffsetDateTime,
    /// The position in the ledger, and what happened; `None`: the balance of now.
    pub(crate) movement: Option<(i64, Movement)>,
    /// The balance of now, in its line; `None` there: the company is gone.
    pub(crate) now: Option<Buckets>,
}

/// The checks that are one query each: a name, what it proves, and how to find what contradicts it.
/// $1 is the age in seconds past which nothing may be pending.
pub(crate) const CHECKS: [(&str, &str, &str); 7] = [
    (
        "usage logs",
        "each charge has one usage log, each refunded charge two that sum to zero, each log its record",
        include_str!("auditing/usage_logs.sql"),
    ),
    (
        "arithmetic",
        "each charge's shares add up to its amount, and its balances differ by it",
        include_str!("auditing/arithmetic.sql"),
    ),
    (
        "refunds",
        "each refunded charge has its credit, and each refund its charge",
        include_str!("auditing/refunds.sql"),
    ),
    (
        "balances",
        "no balance is below zero",
        include_str!("auditing/balances.sql"),
    ),
    (
        "pending",
        "nothing is pending longer than the sweeper allows",
        include_str!("auditing/pending.sql"),
    ),
    (
        "holds",
        "nothing is held for what is charged, nor long after it has expired; what is closed as charged was",
        include_str!("auditing/holds.sql"),
    ),
    (
        "dead letters",
        "no dead letter contradicts the ledger",
        include_str!("auditing/dead_letters.sql"),
    ),
];

#[derive(Debug)]
pub(crate) struct Snapshot {
    connection: PgConnection,
}

impl Storage {
    /// Begins it. All that it tells is of this one moment.
    pub(crate) async fn snapshot(&self) -> Result<Snapshot, StorageError> {
        let mut connection = self.connect_once().await?;
        // Whoever asked may go away, and his query must not go on for hours. Some systems' servers can't.
        let _ = sqlx::raw_sql("set client_connection_check_interval = '1s'")
            .execute(&mut connection)
            .await;
        sqlx::raw_sql(
            "set statement_timeout = 0; set jit = off; set work_mem = '64MB'; set time zone 'UTC';
             begin isolation level repeatable read read only",
        )
        .execute(&mut connection)
        .await?;
        Ok(Snapshot { connection })
    }
}

impl Snapshot {
    /// How much there is to check.
    pub(crate) async fn size(&mut self) -> Result<LedgerSize, StorageError> {
        Ok(sqlx::query_as(
            "select (select count(*) from company_subscriptions) as companies,
                    (select count(*) from token_deduction_records) as records,
                    (select count(*) from token_usage_logs) as usage_logs,
                    (select count(*) from token_credits) as credits,
                    (select count(*) from dead_letters) as dead_letters",
        )
        .fetch_one(&mut self.connection)
        .await?)
    }

    /// What contradicts one of [`CHECKS`], one by one.
    pub(crate) async fn violations(
        &mut self,
        check: &'static str,
        pending_allowed: Duration,
        mut found: impl FnMut(Violation),
    ) -> Result<(), StorageError> {
        let mut query = sqlx::query_as::<_, Violation>(check);
        if check.contains("$1") {
            query = query.bind(pending_allowed.as_secs_f64());
        }
        let mut rows = query.fetch(&mut self.connection);
        while let Some(violation) = rows.try_next().await? {
            found(violation);
        }
        Ok(())
    }

    /// Every movement of every company, in the ledger's order, and after them its balance of now.
    pub(crate) async fn ledger(
        &mut self,
        mut line: impl FnMut(LedgerLine),
    ) -> Result<(), StorageError> {
        let mut rows = sqlx::query_as::<_, LedgerRow>(include_str!("auditing/movements.sql"))
            .fetch(&mut self.connection);
        while let Some(row) = rows.try_next().await? {
            // One without its figures has no place in the chain; the arithmetic has found it.
            if let Some(row) = row.line() {
                line(row);
            }
        }
        Ok(())
    }

    /// Tokens that were given away, by day and reason.
    pub(crate) async fn given_away(&mut self) -> Result<Vec<GivenAway>, StorageError> {
        Ok(sqlx::query_as(include_str!("auditing/given_away.sql"))
            .fetch_all(&mut self.connection)
            .await?)
    }

    pub(crate) async fn close(self) -> Result<(), StorageError> {
        Ok(self.connection.close().await?)
    }
}

#[derive(FromRow)]
struct LedgerRow {
    company_id: Uuid,
    ledger_seq: Option<i64>,
    #[sqlx(try_from = "Bounded<OffsetDateTime>")]
    at: OffsetDateTime,
    kind: String,
    balance_before: Option<i64>,
    balance_after: Option<i64>,
    purchased_deducted: Option<i64>,
    #[sqlx(try_from = "Bounded<Option<OffsetDateTime>>")]
    period_end_before: Option<OffsetDateTime>,
    monthly_before: Option<i64>,
    monthly_after: Option<i64>,
    purchased_before: Option<i64>,
    purchased_after: Option<i64>,
    #[sqlx(try_from = "Bounded<Option<OffsetDateTime>>")]
    period_end_after: Option<OffsetDateTime>,
}

impl LedgerRow {
    fn line(&self) -> Option<LedgerLine> {
        let before = || {
            Some(Buckets {
                monthly: self.monthly_before?,
                purchased: self.purchased_before?,
                period_end: self.period_end_before,
            })
        };
        let after = || {
            Some(Buckets {
                monthly: self.monthly_after?,
                purchased: self.purchased_after?,
                period_end: self.period_end_after,
            })
        };
        let charge = || {
            Some(Movement::Charge(ChargeFigures {
                before: self.balance_before?,
                after: self.balance_after?,
                purchased: self.purchased_deducted?,
                period_end: self.period_end_before,
            }))
        };
        let credit = || {
            Some(Movement::Credit {
                before: before()?,
                after: after()?,
            })
        };
        let (movement, now) = match self.kind.as_str() {
            "charge" => (Some((self.ledger_seq?, charge()?)), None),
            "credit" => (Some((self.ledger_seq?, credit()?)), None),
            _ => (None, before()),
        };
        Some(LedgerLine {
            company_id: self.company_id,
            at: self.at,
            movement,
            now,
        })
    }
}
