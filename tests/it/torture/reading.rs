//! The movements as they stand in the tables.

use sqlx::{FromRow, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use super::recompute::{Buckets, Charge, Credit, Movement, Recomputed, What};

/// Where the application's own changes are written down, each in its transaction, at its place among the
/// movements: the company's row is locked when the place is drawn.
pub(super) const EXTERNAL_CHANGES: &str = "create table external_changes (
    ledger_seq bigint primary key default nextval('token_ledger_seq'), company_id uuid not null,
    at timestamptz not null default clock_timestamp(),
    monthly_before bigint, purchased_before bigint, period_end_before timestamptz,
    monthly_after bigint, purchased_after bigint, period_end_after timestamptz)";

#[derive(FromRow)]
struct Placed {
    seq: i64,
    company_id: Uuid,
    at: OffsetDateTime,
}

#[derive(FromRow)]
struct ChargeRow {
    #[sqlx(flatten)]
    placed: Placed,
    #[sqlx(flatten)]
    charge: Charge,
}

/// Both before and after; a company that isn't there has no balances.
#[derive(FromRow)]
struct Sides {
    monthly_before: Option<i64>,
    purchased_before: Option<i64>,
    period_end_before: Option<OffsetDateTime>,
    monthly_after: Option<i64>,
    purchased_after: Option<i64>,
    period_end_after: Option<OffsetDateTime>,
}

#[derive(FromRow)]
struct CreditRow {
    #[sqlx(flatten)]
    placed: Placed,
    #[sqlx(flatten)]
    sides: Sides,
    key: String,
    kind: String,
    monthly: i64,
    purchased: i64,
    forfeited: i64,
}

#[derive(FromRow)]
struct ExternalRow {
    #[sqlx(flatten)]
    placed: Placed,
    #[sqlx(flatten)]
    sides: Sides,
}

#[derive(FromRow)]
struct Now {
    company_id: Uuid,
    monthly: i64,
    purchased: i64,
    period_end: Option<OffsetDateTime>,
}

#[derive(FromRow)]
struct LogRow {
    deduction_record_id: Uuid,
    id: i64,
    company_id: Uuid,
    token_amount: i64,
}

impl Placed {
    fn with(self, what: What) -> Movement {
        Movement {
            seq: self.seq,
            company: self.company_id,
            at: self.at,
            what,
        }
    }
}

impl Sides {
    fn before(&self) -> Option<Buckets> {
        Some(Buckets {
            monthly: self.monthly_before?,
            purchased: self.purchased_before?,
            period_end: self.period_end_before,
        })
    }

    fn after(&self) -> Option<Buckets> {
        Some(Buckets {
            monthly: self.monthly_after?,
            purchased: self.purchased_after?,
            period_end: self.period_end_after,
        })
    }
}

impl Recomputed {
    pub(super) async fn read(pool: &PgPool) -> Self {
        let mut ledger = Self::default();
        ledger.movements.extend(charges(pool).await);
        ledger.movements.extend(credits(pool).await);
        ledger.movements.extend(external_changes(pool).await);
        ledger.movements.sort_by_key(|movement| movement.seq);
        let companies = "select company_id, monthly_quota_balance as monthly,
                purchased_token_balance as purchased, current_period_end as period_end
            from company_subscriptions";
        for now in all::<Now>(pool, companies).await {
            let buckets = Buckets {
                monthly: now.monthly,
                purchased: now.purchased,
                period_end: now.period_end,
            };
            ledger.companies.insert(now.company_id, buckets);
        }
        let logs = "select deduction_record_id, id, company_id, token_amount from token_usage_logs order by id";
        for log in all::<LogRow>(pool, logs).await {
            let of = ledger.logs.entry(log.deduction_record_id).or_default();
            of.push((log.id, log.company_id, log.token_amount));
        }
        ledger
    }
}

async fn charges(pool: &PgPool) -> impl Iterator<Item = Movement> {
    let rows: Vec<ChargeRow> = all(
        pool,
        "select ledger_seq as seq, company_id, completed_at as at, idempotency_key as key, id as record, amount,
                monthly_deducted as monthly, purchased_deducted as purchased, balance_before as before,
                balance_after as after, monthly_period_end as period_end, status = 'compensated' as is_compensated
         from token_deduction_records where status in ('completed', 'compensated')",
    )
    .await;
    rows.into_iter()
        .map(|row| row.placed.with(What::Charge(row.charge)))
}

async fn credits(pool: &PgPool) -> impl Iterator<Item = Movement> {
    let rows: Vec<CreditRow> = all(
        pool,
        "select ledger_seq as seq, company_id, created_at as at, idempotency_key as key, kind,
                monthly_amount as monthly, purchased_amount as purchased, forfeited_amount as forfeited,
                monthly_before, purchased_before, period_end_before,
                monthly_after, purchased_after, period_end_after
         from token_credits",
    )
    .await;
    rows.into_iter().map(|row| {
        let credit = Credit {
            before: row.sides.before().expect("never null"),
            after: row.sides.after().expect("never null"),
            key: row.key,
            kind: row.kind,
            monthly: row.monthly,
            purchased: row.purchased,
            forfeited: row.forfeited,
        };
        row.placed.with(What::Credit(credit))
    })
}

async fn external_changes(pool: &PgPool) -> impl Iterator<Item = Movement> {
    let rows: Vec<ExternalRow> =
        all(pool, "select *, ledger_seq as seq from external_changes").await;
    rows.into_iter().map(|row| {
        let (before, after) = (row.sides.before(), row.sides.after());
        row.placed.with(What::External { before, after })
    })
}

async fn all<T>(pool: &PgPool, sql: &'static str) -> Vec<T>
where
    T: for<'r> FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin,
{
    let rows = sqlx::query_as(sql).fetch_all(pool).await;
    rows.unwrap_or_else(|error| panic!("{sql}: {error}"))
}
