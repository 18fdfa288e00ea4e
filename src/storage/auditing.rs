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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
pub struct Violation {
    /// Which kind, a stable word.
    pub kind: String,
    /// Of which company, if it is of one.
    pub company_id: Option<Uuid>,
    /// The key, log, letter or credit that it is about.
    pub subject: String,
    /// The same for a person.
    pub detail: String,
}

/// Tokens that nobody was charged, or that somebody lost, on one day (UTC) for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
pub struct GivenAway {
    /// `2026-11-21`.
    pub day: String,
    /// `article_not_found`, `discarded`, `forfeited_by_renewal` or `forfeited_by_refund`.
    pub reason: String,
    /// How many records, letters or credits.
    pub count: i64,
    /// Tokens, where they are known.
    pub tokens: i64,
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, FromRow)]
pub struct LedgerSize {
    /// Rows of `company_subscriptions`.
    pub companies: i64,
    /// Rows of `token_deduction_records`.
    pub records: i64,
    /// Rows of `token_usage_logs`.
    pub usage_logs: i64,
    /// Rows of `token_credits`.
    pub credits: i64,
    /// Rows of `dead_letters`.
    pub dead_letters: i64,
}

/// A company's movement, or its balance at the end of its movements.
#[derive(Debug, Clone, Copy)]
pub struct LedgerLine {
    /// Whose.
    pub company_id: Uuid,
    /// When.
    pub at: OffsetDateTime,
    /// The position in the ledger, and what happened; `None`: the balance of now.
    pub movement: Option<(i64, Movement)>,
    /// The balance of now, in its line; `None` there: the company is gone.
    pub now: Option<Buckets>,
}

/// The checks that are one query each: a name, what it proves, and how to find what contradicts it.
/// $1 is the age in seconds past which nothing may be pending.
pub const CHECKS: [(&str, &str, &str); 6] = [
    (
        "usage logs",
        "each charge has one usage log, each refunded charge two that sum to zero, each log its record",
        "select case when r.id is null then 'log_without_record'
                     when l.n is null then 'charge_without_log'
                     when r.status = 'compensated' then 'refund_logs_wrong'
                     else 'charge_log_wrong' end as kind,
                coalesce(r.company_id, l.company_id) as company_id,
                coalesce(r.idempotency_key, 'record ' || l.deduction_record_id) as subject,
                format('record %s of %s tokens; %s logs that sum to %s', coalesce(r.status, 'missing'),
                       coalesce(r.amount, 0), coalesce(l.n, 0), coalesce(l.total, 0)) as detail
         from (select * from token_deduction_records where status in ('completed', 'compensated')) r
         full join (
             select deduction_record_id, count(*) as n, sum(token_amount) as total, min(company_id::text)::uuid as company_id,
                    count(distinct company_id) as companies, min(id) as first_id, max(token_amount) as largest
             from token_usage_logs group by deduction_record_id
         ) l on l.deduction_record_id = r.id
         where r.id is null or l.n is null or l.companies <> 1 or l.company_id <> r.company_id
            or l.largest <> r.amount or l.first_id <> r.ledger_seq
            or (r.status = 'completed' and (l.n <> 1 or l.total <> r.amount))
            or (r.status = 'compensated' and (l.n <> 2 or l.total <> 0))",
    ),
    (
        "arithmetic",
        "each charge's shares add up to its amount, and its balances differ by it",
        "select 'charge_arithmetic' as kind, company_id, idempotency_key as subject,
                format('%s = %s + %s monthly and purchased; %s -> %s', amount, monthly_deducted, purchased_deducted,
                       balance_before, balance_after) as detail
         from token_deduction_records
         where case when status in ('completed', 'compensated')
                    then (balance_before - amount = balance_after and balance_after >= 0
                          and monthly_deducted + purchased_deducted = amount
                          and monthly_deducted >= 0 and purchased_deducted >= 0
                          and completed_at is not null and ledger_seq is not null) is not true
                    else monthly_deducted <> 0 or purchased_deducted <> 0 or ledger_seq is not null end
         union all
         select 'duplicate_position', null, 'ledger_seq ' || ledger_seq, format('%s movements have it', count(*))
         from (select ledger_seq from token_deduction_records where ledger_seq is not null
               union all select ledger_seq from token_credits) movements
         group by ledger_seq having count(*) > 1",
    ),
    (
        "refunds",
        "each refunded charge has its credit, and each refund its charge",
        "select case when c.idempotency_key is null then 'refund_without_credit' else 'refund_credit_wrong' end as kind,
                coalesce(r.company_id, c.company_id) as company_id,
                coalesce(r.idempotency_key, c.idempotency_key) as subject,
                format('record %s of %s tokens; given back %s, forfeited %s', coalesce(r.status, 'not refunded'),
                       coalesce(r.amount, 0), coalesce(c.monthly_amount + c.purchased_amount, 0),
                       coalesce(c.forfeited_amount, 0)) as detail
         from (select * from token_deduction_records where status = 'compensated') r
         full join (select * from token_credits where kind = 'refund') c on c.idempotency_key = r.idempotency_key
         where r.idempotency_key is null or c.idempotency_key is null or c.company_id <> r.company_id
            or c.monthly_amount + c.purchased_amount + c.forfeited_amount <> r.amount",
    ),
    (
        "balances",
        "no balance is below zero",
        "select 'negative_balance' as kind, company_id, company_id::text as subject,
                format('monthly %s, purchased %s', monthly_quota_balance, purchased_token_balance) as detail
         from company_subscriptions where monthly_quota_balance < 0 or purchased_token_balance < 0",
    ),
    (
        "pending",
        "nothing is pending longer than the sweeper allows",
        "select 'pending_too_long' as kind, company_id, idempotency_key as subject,
                format('%s tokens, since %s', amount, coalesce(pending_since, created_at)) as detail
         from token_deduction_records
         where status = 'pending'
           and coalesce(pending_since, created_at) < clock_timestamp() - make_interval(secs => $1)",
    ),
    (
        "dead letters",
        "no dead letter contradicts the books",
        "select case d.state when 'resolved' then 'letter_resolved_uncharged' else 'letter_open_though_charged' end as kind,
                d.company_id, 'dead letter ' || d.id as subject,
                format('%s, %s: job %s is %s', d.state, d.reason, d.job_id, d.charge_state) as detail
         from dead_letters_with_charges d
         -- What was written off may be tried again, and fail for another reason.
         where (d.state = 'resolved' and d.charge_state not in ('charged', 'compensated')
                and not d.is_resolvable and d.written_off_at is null)
            -- The archivist resolves them every minute; what is older than an hour it has missed.
            or (d.state in ('open', 'replayed') and d.is_resolvable
                and coalesce(d.charged_at, d.written_off_at) < clock_timestamp() - interval '1 hour'
                and d.archived_at < clock_timestamp() - interval '1 hour')",
    ),
];

/// The look.
#[derive(Debug)]
pub struct Snapshot {
    connection: PgConnection,
}

impl Storage {
    /// Begins it. All that it tells is of this one moment.
    pub async fn snapshot(&self) -> Result<Snapshot, StorageError> {
        let mut connection = self.connect_once().await?;
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
    pub async fn size(&mut self) -> Result<LedgerSize, StorageError> {
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
    pub async fn violations(
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
    pub async fn ledger(&mut self, mut line: impl FnMut(LedgerLine)) -> Result<(), StorageError> {
        let mut rows = sqlx::query_as::<_, LedgerRow>(
            "select company_id, ledger_seq, coalesce(completed_at, created_at) as at, 'charge' as kind,
                    balance_before, balance_after, purchased_deducted,
                    monthly_period_end as period_end_before,
                    null::bigint as monthly_before, null::bigint as monthly_after, null::bigint as purchased_before,
                    null::bigint as purchased_after, null::timestamptz as period_end_after
             from token_deduction_records where status in ('completed', 'compensated')
             union all
             select company_id, ledger_seq, created_at, 'credit', null, null, null, period_end_before,
                    monthly_before, monthly_after, purchased_before, purchased_after, period_end_after
             from token_credits
             union all
             select m.company_id, null, clock_timestamp(), case when c.company_id is null then 'gone' else 'now' end,
                    null, null, null, c.current_period_end,
                    -- A NULL balance counts as 0 everywhere.
                    case when c.company_id is not null then coalesce(c.monthly_quota_balance, 0) end, null,
                    case when c.company_id is not null then coalesce(c.purchased_token_balance, 0) end, null, null
             from (select company_id from token_deduction_records where status in ('completed', 'compensated')
                   union select company_id from token_credits) m
             left join company_subscriptions c on c.company_id = m.company_id
             order by company_id, ledger_seq nulls last",
        )
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
    pub async fn given_away(&mut self) -> Result<Vec<GivenAway>, StorageError> {
        Ok(sqlx::query_as(
            "select to_char(at, 'YYYY-MM-DD') as day, reason, count(*) as count,
                    least(coalesce(sum(greatest(tokens, 0)), 0), 9223372036854775807)::bigint as tokens
             from (
                 select coalesce(written_off_at, created_at) as at, 'article_not_found' as reason, amount as tokens
                 from token_deduction_records where status = 'failed' and error_code = 'article_not_found'
                 union all
                 -- One letter a job, of those whose jobs the books haven't settled in any other way.
                 select distinct on (coalesce(job_id::text, id::text)) coalesce(discarded_at, last_arrived_at), 'discarded', tokens
                 from (
                     select d.*, (select max(a.at) from dead_letter_actions l join operator_actions a on a.id = l.action_id
                                  where l.dead_letter_id = d.id and a.action = 'discard') as discarded_at
                     from dead_letters_with_charges d
                     left join token_deduction_records r on r.idempotency_key = d.job_id::text collate \"C\"
                     where d.state = 'discarded' and d.charge_state = 'never_charged'
                       and r.error_code is distinct from 'article_not_found'
                 ) discarded
                 union all
                 select created_at, case kind when 'refund' then 'forfeited_by_refund' else 'forfeited_by_renewal' end,
                        forfeited_amount
                 from token_credits where forfeited_amount > 0
             ) given
             group by 1, 2 order by 1, 2",
        )
        .fetch_all(&mut self.connection)
        .await?)
    }

    /// Ends it.
    pub async fn close(self) -> Result<(), StorageError> {
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
