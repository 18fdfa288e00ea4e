//! The ledger of one test: companies to charge, and what its functions and tables say.

use std::fmt::Display;

use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, ConnectOptions, PgExecutor, PgPool};
use token_billing::config;
use token_billing::storage::{Storage, migrate};
use uuid::Uuid;

use super::db::TestDb;
use super::servers::Servers;

/// What a charge answers, by either function. Fields that the single one leaves out are `None`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Answer {
    pub(crate) success: bool,
    pub(crate) idempotent: bool,
    pub(crate) status: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) error_message: Option<String>,
    pub(crate) deduction_record_id: Option<Uuid>,
    pub(crate) amount: Option<i64>,
    pub(crate) monthly_deducted: i64,
    pub(crate) purchased_deducted: i64,
    pub(crate) balance_before: Option<i64>,
    pub(crate) balance_after: Option<i64>,
    pub(crate) retry_count: Option<i32>,
    pub(crate) required: Option<i64>,
    pub(crate) available: Option<i64>,
    pub(crate) job_status_error: Option<String>,
}

impl Answer {
    /// The error's code, `""` on success.
    pub(crate) fn error(&self) -> &str {
        self.error.as_deref().unwrap_or_default()
    }

    /// Monthly and purchased share, balance before and after.
    pub(crate) fn figures(&self) -> (i64, i64, Option<i64>, Option<i64>) {
        (
            self.monthly_deducted,
            self.purchased_deducted,
            self.balance_before,
            self.balance_after,
        )
    }
}

/// A row of `token_deduction_records`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Record {
    pub(crate) idempotency_key: String,
    pub(crate) id: Uuid,
    pub(crate) company_id: Uuid,
    pub(crate) article_id: Option<Uuid>,
    pub(crate) amount: i64,
    pub(crate) status: String,
    pub(crate) monthly_deducted: i64,
    pub(crate) purchased_deducted: i64,
    pub(crate) balance_before: Option<i64>,
    pub(crate) balance_after: Option<i64>,
    pub(crate) monthly_period_end: Option<String>,
    pub(crate) ledger_seq: Option<i64>,
    pub(crate) usage_type: String,
    pub(crate) error_code: Option<String>,
    pub(crate) error_message: Option<String>,
    pub(crate) retry_count: i32,
    pub(crate) completed_at: Option<String>,
    pub(crate) metadata: Value,
}

/// A row of `token_usage_logs`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct UsageLog {
    pub(crate) id: i64,
    pub(crate) company_id: Uuid,
    pub(crate) article_id: Option<Uuid>,
    pub(crate) token_amount: i64,
    pub(crate) deduction_record_id: Uuid,
    pub(crate) usage_type: String,
    pub(crate) metadata: Value,
}

/// One element of a batch.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) key: Option<String>,
    pub(crate) company_id: Option<Uuid>,
    pub(crate) article_id: Option<Uuid>,
    pub(crate) amount: Option<i64>,
    pub(crate) metadata: Option<Value>,
    pub(crate) usage_type: Option<String>,
    pub(crate) job_id: Option<Uuid>,
}

impl Item {
    /// With the key's job, if it is a UUID, and no metadata.
    pub(crate) fn new(key: impl Display, company_id: Uuid, amount: i64) -> Self {
        let key = key.to_string();
        Self {
            job_id: key.parse().ok(),
            key: Some(key),
            company_id: Some(company_id),
            article_id: None,
            amount: Some(amount),
            metadata: Some(json!({})),
            usage_type: None,
        }
    }
}

/// `deduct_tokens_atomic` without article and metadata.
pub(crate) async fn deduct(
    executor: impl PgExecutor<'_>,
    key: impl Display,
    company_id: Uuid,
    amount: i64,
) -> sqlx::Result<Answer> {
    deduct_item(executor, &Item::new(key, company_id, amount)).await
}

/// `deduct_tokens_atomic` with what it takes of `item`.
pub(crate) async fn deduct_item(
    executor: impl PgExecutor<'_>,
    item: &Item,
) -> sqlx::Result<Answer> {
    sqlx::query_scalar("select deduct_tokens_atomic($1, $2, $3, $4, $5)")
        .bind(&item.key)
        .bind(item.company_id)
        .bind(item.article_id)
        .bind(item.amount)
        .bind(&item.metadata)
        .fetch_one(executor)
        .await
        .map(|Json(answer)| answer)
}

/// `deduct_tokens_batch`. Holds it to one result per item, in order.
pub(crate) async fn deduct_batch(
    executor: impl PgExecutor<'_>,
    items: &[Item],
) -> sqlx::Result<Vec<Answer>> {
    let rows: Vec<(i32, Json<Answer>)> = sqlx::query_as(
        "select r.item, to_jsonb(r) from deduct_tokens_batch($1, $2, $3, $4, $5, $6, $7) r",
    )
    .bind(column(items, |item| item.key.clone()))
    .bind(column(items, |item| item.company_id))
    .bind(column(items, |item| item.article_id))
    .bind(column(items, |item| item.amount))
    .bind(column(items, |item| item.metadata.clone()))
    .bind(column(items, |item| item.usage_type.clone()))
    .bind(column(items, |item| item.job_id))
    .fetch_all(executor)
    .await?;
    let order: Vec<i32> = rows.iter().map(|(item, _)| *item).collect();
    let expected: Vec<i32> = (1..).take(items.len()).collect();
    assert_eq!(order, expected, "one result per item, in input order");
    Ok(rows.into_iter().map(|(_, Json(answer))| answer).collect())
}

/// `charge_events`, which waits for no lock: the outcome of each, `charged` where there is no exception.
pub(crate) async fn charge_events(
    executor: impl PgExecutor<'_>,
    events: &[Item],
) -> sqlx::Result<Vec<String>> {
    let exceptions: Vec<(i32, String)> =
        sqlx::query_as("select item, outcome from charge_events($1, $2, $3, $4, $5, $6, null)")
            .bind(column(events, |event| event.job_id))
            .bind(column(events, |event| event.company_id))
            .bind(column(events, |event| event.article_id))
            .bind(column(events, |event| event.amount))
            .bind(column(events, |event| event.metadata.clone()))
            .bind(column(events, |event| event.usage_type.clone()))
            .fetch_all(executor)
            .await?;
    let mut outcomes = vec!["charged".to_owned(); events.len()];
    for (item, outcome) in exceptions {
        outcomes[usize::try_from(item - 1).expect("from 1")] = outcome;
    }
    Ok(outcomes)
}

/// `mark_deductions_pending`: status of the record and whether it is of this request, by item.
pub(crate) async fn mark_pending(
    executor: impl PgExecutor<'_>,
    items: &[Item],
    error: &str,
) -> sqlx::Result<Vec<(String, String, bool)>> {
    sqlx::query_as(
        "select m.* from mark_deductions_pending($1, $2, $3, $4, $5, $6, $7, $8) m
         order by array_position($1, m.idempotency_key)",
    )
    .bind(column(items, |item| item.key.clone()))
    .bind(column(items, |item| item.company_id))
    .bind(column(items, |item| item.article_id))
    .bind(column(items, |item| item.amount))
    .bind(column(items, |item| item.metadata.clone()))
    .bind(column(items, |item| item.usage_type.clone()))
    .bind(column(items, |item| item.job_id))
    .bind(vec![error; items.len()])
    .fetch_all(executor)
    .await
}

fn column<T>(items: &[Item], field: impl Fn(&Item) -> T) -> Vec<T> {
    items.iter().map(field).collect()
}

/// Migrates by the product's own code.
pub(crate) async fn migrated(pool: &PgPool) {
    let database = config::Database {
        url: pool.connect_options().to_url_lossy().to_string().into(),
        ..config::Database::default()
    };
    let storage = Storage::new(&database, &config::Reconnect::default()).expect("a good URL");
    let done = migrate(&storage, &database, |_| {}).await;
    done.expect("migrated");
    storage.close().await;
}

/// A migrated database of one test's own.
#[derive(Debug)]
pub(crate) struct Ledger {
    db: TestDb,
}

impl Ledger {
    pub(crate) async fn open() -> Self {
        Self::open_on(Servers::shared()).await
    }

    pub(crate) async fn open_on(servers: &Servers) -> Self {
        Self {
            db: TestDb::create(servers, migrated).await,
        }
    }

    pub(crate) fn pool(&self) -> &PgPool {
        self.db.pool()
    }

    pub(crate) fn url(&self) -> &str {
        self.db.url()
    }

    /// Runs statements of the test's own.
    pub(crate) async fn execute(&self, sql: impl Into<String>) {
        let sql = sql.into();
        sqlx::raw_sql(AssertSqlSafe(sql.as_str()))
            .execute(self.pool())
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// A new company whose monthly quota lasts for a month from now.
    pub(crate) async fn company(&self, monthly: i64, purchased: i64) -> Uuid {
        let id = Uuid::new_v4();
        self.add_company(id, monthly, purchased).await;
        id
    }

    pub(crate) async fn add_company(&self, id: Uuid, monthly: i64, purchased: i64) {
        sqlx::query(
            "insert into company_subscriptions (company_id, monthly_token_quota,
                 monthly_quota_balance, purchased_token_balance, current_period_end)
             values ($1, $2, $2, $3, now() + interval '1 month')",
        )
        .bind(id)
        .bind(monthly)
        .bind(purchased)
        .execute(self.pool())
        .await
        .expect("the company is added");
    }

    /// A job of `company_id` in status `running`.
    pub(crate) async fn job(&self, company_id: Uuid) -> Uuid {
        let id = Uuid::new_v4();
        sqlx::query("insert into article_jobs (id, company_id, status) values ($1, $2, 'running')")
            .bind(id)
            .bind(company_id)
            .execute(self.pool())
            .await
            .expect("the job is added");
        id
    }

    /// Status and error message.
    pub(crate) async fn job_status(&self, id: Uuid) -> (String, Option<String>) {
        sqlx::query_as("select status::text, error_message from article_jobs where id = $1")
            .bind(id)
            .fetch_one(self.pool())
            .await
            .expect("the job is there")
    }

    /// Ends the current period in the past.
    pub(crate) async fn expire(&self, company_id: Uuid) {
        sqlx::query(
            "update company_subscriptions set current_period_end = '2020-01-01' where company_id = $1",
        )
        .bind(company_id)
        .execute(self.pool())
        .await
        .expect("the period is ended");
    }

    pub(crate) async fn deduct(&self, key: impl Display, company_id: Uuid, amount: i64) -> Answer {
        deduct(self.pool(), key, company_id, amount)
            .await
            .expect("a charge never raises")
    }

    pub(crate) async fn deduct_batch(&self, items: &[Item]) -> Vec<Answer> {
        deduct_batch(self.pool(), items)
            .await
            .expect("a batch never raises")
    }

    pub(crate) async fn charge_events(&self, events: &[Item]) -> Vec<String> {
        charge_events(self.pool(), events)
            .await
            .expect("events never raise")
    }

    /// The monthly and the purchased balance, as stored.
    pub(crate) async fn balances(&self, company_id: Uuid) -> (i64, i64) {
        sqlx::query_as(
            "select monthly_quota_balance, purchased_token_balance
             from company_subscriptions where company_id = $1",
        )
        .bind(company_id)
        .fetch_one(self.pool())
        .await
        .expect("the company is there")
    }

    pub(crate) async fn record(&self, key: impl Display) -> Option<Record> {
        sqlx::query_scalar(
            "select to_jsonb(r) from token_deduction_records r where idempotency_key = $1",
        )
        .bind(key.to_string())
        .fetch_optional(self.pool())
        .await
        .expect("records can be read")
        .map(|Json(record)| record)
    }

    /// All usage logs of a company, in the order of its ledger.
    pub(crate) async fn usage_logs(&self, company_id: Uuid) -> Vec<UsageLog> {
        sqlx::query_scalar(
            "select to_jsonb(u) from token_usage_logs u where company_id = $1 order by id",
        )
        .bind(company_id)
        .fetch_all(self.pool())
        .await
        .expect("usage logs can be read")
        .into_iter()
        .map(|Json(log)| log)
        .collect()
    }

    /// Every row of every table that the functions write.
    pub(crate) async fn everything(&self) -> Value {
        sqlx::query_scalar(
            "select jsonb_build_object(
                'company_subscriptions', (select jsonb_agg(t order by company_id) from company_subscriptions t),
                'article_jobs', (select jsonb_agg(t order by id) from article_jobs t),
                'token_deduction_records', (select jsonb_agg(t order by idempotency_key) from token_deduction_records t),
                'token_usage_logs', (select jsonb_agg(t order by id) from token_usage_logs t),
                'token_credits', (select jsonb_agg(t order by ledger_seq) from token_credits t),
                'token_deduction_attempts', (select jsonb_agg(t order by id) from token_deduction_attempts t),
                'operator_actions', (select jsonb_agg(t order by id) from operator_actions t))",
        )
        .fetch_one(self.pool())
        .await
        .expect("all tables can be read")
    }
}
