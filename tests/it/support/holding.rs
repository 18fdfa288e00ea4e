//! Somebody else's transactions, which hold what a charge needs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sqlx::{AssertSqlSafe, PgPool, Postgres, Transaction};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    eventually::{PATIENCE, eventually},
    site::Site,
};

/// A transaction that does nothing more. Without a word about it, it ends with the test.
pub(crate) struct Held(Transaction<'static, Postgres>);

impl Held {
    /// Returns when the lock has been held for so long, by the database's clock.
    pub(crate) async fn lasts_for(mut self, length: Duration) -> Self {
        let looks = async || {
            let age = "select extract(epoch from clock_timestamp() - now())::float8";
            let age: f64 = sqlx::query_scalar(age)
                .fetch_one(&mut *self.0)
                .await
                .expect("the transaction lives");
            age
        };
        let enough = |&age: &f64| age >= length.as_secs_f64();
        eventually("the lock lasts", PATIENCE, looks, enough).await;
        self
    }

    pub(crate) async fn release(self) {
        self.0.rollback().await.expect("released");
    }
}

/// A session that locks one company after the other.
pub(crate) struct ByTurns {
    stop: CancellationToken,
    locked: Arc<AtomicU64>,
    done: JoinHandle<()>,
}

impl ByTurns {
    /// How often it has locked one so far.
    pub(crate) fn locked(&self) -> u64 {
        self.locked.load(Ordering::Relaxed)
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.done.await.expect("it only locks");
    }
}

impl Site {
    /// Locks the rows of these companies.
    pub(crate) async fn hold_companies(&self, companies: &[Uuid]) -> Held {
        hold(
            self.db.pool(),
            &rows("company_subscriptions", "company_id", companies),
        )
        .await
    }

    /// Locks the row of this job.
    pub(crate) async fn hold_job(&self, job: Uuid) -> Held {
        hold(self.db.pool(), &rows("article_jobs", "id", &[job])).await
    }

    /// Locks this table, as an `alter table` would.
    pub(crate) async fn hold_table(&self, table: &str) -> Held {
        let sql = format!("lock table {table} in access exclusive mode");
        hold(self.db.pool(), &sql).await
    }

    /// Locks each of these companies in turn, for so long, over and over.
    pub(crate) fn hold_by_turns(&self, companies: Vec<Uuid>, each: Duration) -> ByTurns {
        let (stop, pool) = (CancellationToken::new(), self.db.pool().clone());
        let locked = Arc::new(AtomicU64::new(0));
        let (stopped, count) = (stop.clone(), Arc::clone(&locked));
        let done = tokio::spawn(async move {
            for company in companies.iter().cycle() {
                if stopped.is_cancelled() {
                    break;
                }
                let sql = rows("company_subscriptions", "company_id", &[*company]);
                let held = hold(&pool, &sql).await;
                count.fetch_add(1, Ordering::Relaxed);
                let _ = timeout(each, stopped.cancelled()).await;
                held.release().await;
            }
        });
        ByTurns { stop, locked, done }
    }

    /// Sessions of the product that wait for a lock in a statement that says this.
    pub(crate) async fn waiting_for_a_lock(&self, says: &str) -> i64 {
        sqlx::query_scalar(
            "select count(*) from pg_stat_activity
             where datname = current_database() and application_name = 'token-billing'
               and wait_event_type = 'Lock' and query like '%' || $1 || '%'",
        )
        .bind(says)
        .fetch_one(self.db.pool())
        .await
        .expect("sessions can be listed")
    }
}

fn rows(table: &str, column: &str, ids: &[Uuid]) -> String {
    let ids: Vec<String> = ids.iter().map(|id| format!("'{id}'")).collect();
    let ids = ids.join(", ");
    // In the order of the charge, so that the two never deadlock.
    format!("select from {table} where {column} in ({ids}) order by {column} for update")
}

async fn hold(pool: &PgPool, sql: &str) -> Held {
    let mut transaction = pool.begin().await.expect("begun");
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(&mut *transaction)
        .await
        .expect("locked");
    Held(transaction)
}
