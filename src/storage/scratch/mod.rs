//! A database of one's own beside the configured one, for measuring.

mod session;

use std::str::FromStr as _;

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, postgres::PgConnectOptions};
use uuid::Uuid;

use super::{Storage, StorageError, migrate};
use crate::config::{Database, Reconnect};

pub use session::{LockedCompanies, ScratchSession};

/// A migrated database between [`Scratch::create`] and [`Scratch::drop_database`].
#[derive(Debug)]
pub struct Scratch {
    admin: PgConnectOptions,
    name: String,
    /// The settings to reach it.
    pub database: Database,
    /// The ledger in it.
    pub storage: Storage,
}

impl Scratch {
    /// On the server of these settings; nothing is there yet. The name is an identifier that needs no quotes.
    pub fn new(
        database: &Database,
        reconnect: &Reconnect,
        name: String,
    ) -> Result<Self, StorageError> {
        let admin = PgConnectOptions::from_str(database.url.expose_secret())?;
        let mut database = database.clone();
        let url = with_path(database.url.expose_secret(), &name);
        database.url = SecretString::from(url);
        Ok(Self {
            admin,
            name,
            storage: Storage::new(&database, reconnect)?,
            database,
        })
    }

    /// Creates and migrates it, for which the role needs CREATEDB.
    pub async fn create(&self) -> Result<(), StorageError> {
        self.administer(&format!("create database {}", self.name))
            .await?;
        migrate(&self.storage, &self.database, |_| {}).await?;
        Ok(())
    }

    /// Removes it, if it is there, whoever is connected.
    pub async fn drop_database(&self) -> Result<(), StorageError> {
        self.storage.close().await;
        let drop = format!("drop database if exists {} with (force)", self.name);
        self.administer(&drop).await
    }

    async fn administer(&self, sql: &str) -> Result<(), StorageError> {
        let mut connection = PgConnection::connect_with(&self.admin).await?;
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
            .execute(&mut connection)
            .await?;
        Ok(connection.close().await?)
    }

    /// A connection of its own, on which a statement may take as long as it takes.
    async fn connect(&self) -> Result<PgConnection, StorageError> {
        Ok(PgConnection::connect_with(&self.storage.pool.connect_options()).await?)
    }

    /// Runs statements that make something in it.
    pub async fn execute(&self, sql: &'static str) -> Result<(), StorageError> {
        sqlx::raw_sql(sql).execute(&self.storage.pool).await?;
        Ok(())
    }

    /// Companies with this purchased balance each.
    pub async fn seed_companies(&self, ids: &[Uuid], balance: i64) -> Result<(), StorageError> {
        sqlx::query(
            "insert into company_subscriptions (company_id, purchased_token_balance)
             select id, $2 from unnest($1) id",
        )
        .bind(ids)
        .bind(balance)
        .execute(&self.storage.pool)
        .await?;
        Ok(())
    }

    /// Rows of `article_jobs`.
    pub async fn seed_jobs(&self, ids: &[Uuid], company_ids: &[Uuid]) -> Result<(), StorageError> {
        sqlx::query(
            "insert into article_jobs (id, company_id, status)
             select id, company_id, 'generated' from unnest($1, $2) as job (id, company_id)",
        )
        .bind(ids)
        .bind(company_ids)
        .execute(&self.storage.pool)
        .await?;
        Ok(())
    }

    /// Open holds of so many tokens, for a day.
    pub async fn seed_holds(
        &self,
        job_ids: &[Uuid],
        company_ids: &[Uuid],
        tokens: i64,
    ) -> Result<(), StorageError> {
        sqlx::query(
            "insert into token_holds (job_id, company_id, amount, expires_at)
             select id, company_id, $3, now() + interval '1 day' from unnest($1, $2) as job (id, company_id)",
        )
        .bind(job_ids)
        .bind(company_ids)
        .bind(tokens)
        .execute(&self.storage.pool)
        .await?;
        Ok(())
    }

    /// Holds that are open.
    pub async fn open_holds(&self) -> Result<i64, StorageError> {
        let query = "select count(*) from token_holds where status = 'open'";
        Ok(sqlx::query_scalar(query)
            .fetch_one(&self.storage.pool)
            .await?)
    }

    /// Rows of `articles`.
    pub async fn seed_articles(
        &self,
        ids: &[Uuid],
        company_ids: &[Uuid],
    ) -> Result<(), StorageError> {
        sqlx::query(
            "insert into articles (id, company_id)
             select id, company_id from unnest($1, $2) as article (id, company_id)",
        )
        .bind(ids)
        .bind(company_ids)
        .execute(&self.storage.pool)
        .await?;
        Ok(())
    }

    /// So many completed records and usage logs of these companies, as if charged one after the other; fast, and with
    /// indexes of the size that they would have come to. The balances know nothing of them.
    pub async fn seed_records(
        &self,
        records: i64,
        keys_in_time_order: bool,
        company_ids: &[Uuid],
        tokens: i64,
    ) -> Result<(), StorageError> {
        let mut connection = self.connect().await?;
        sqlx::raw_sql(include_str!("seed_records.sql"))
            .execute(&mut connection)
            .await?;
        sqlx::query("call seed_records($1, $2, $3, $4)")
            .bind(records)
            .bind(keys_in_time_order)
            .bind(company_ids)
            .bind(tokens)
            .execute(&mut connection)
            .await?;
        Ok(connection.close().await?)
    }

    /// Fresh statistics and a checkpoint behind us, so that every measurement starts alike.
    pub async fn settle(&self) -> Result<(), StorageError> {
        let mut connection = self.connect().await?;
        sqlx::raw_sql("vacuum analyze")
            .execute(&mut connection)
            .await?;
        // Needs a role that may; without it the figures are a little noisier.
        let _ = sqlx::raw_sql("checkpoint").execute(&mut connection).await;
        Ok(connection.close().await?)
    }

    /// Completed records, usage logs, and tokens that left the balances.
    pub async fn totals(&self) -> Result<(i64, i64, i64), StorageError> {
        let mut connection = self.connect().await?;
        let totals = sqlx::query_as(
            "select (select count(*) from token_deduction_records where status = 'completed'),
                    (select count(*) from token_usage_logs),
                    (select coalesce(sum(monthly_deducted + purchased_deducted), 0)::bigint
                     from token_deduction_records)",
        )
        .fetch_one(&mut connection)
        .await?;
        connection.close().await?;
        Ok(totals)
    }

    /// Movements that were begun so far: the ledger's own numbering.
    pub async fn movements(&self) -> Result<i64, StorageError> {
        let query = "select case when is_called then last_value else 0 end from token_ledger_seq";
        Ok(sqlx::query_scalar(query)
            .fetch_one(&self.storage.pool)
            .await?)
    }

    /// Purchased tokens of all companies, or of one of them.
    pub async fn purchased(&self, company_id: Option<Uuid>) -> Result<i64, StorageError> {
        Ok(sqlx::query_scalar(
            "select coalesce(sum(purchased_token_balance), 0)::bigint from company_subscriptions
             where company_id = $1 or $1 is null",
        )
        .bind(company_id)
        .fetch_one(&self.storage.pool)
        .await?)
    }
}

/// The same URL with another database.
fn with_path(url: &str, name: &str) -> String {
    match url::Url::parse(url) {
        Ok(mut url) => {
            url.set_path(name);
            url.into()
        }
        // Unreachable: the settings have been checked.
        Err(_) => url.to_owned(),
    }
}
