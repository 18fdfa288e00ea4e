//! A database of one's own beside the configured one, for measuring.

use std::str::FromStr as _;

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, postgres::PgConnectOptions};
use uuid::Uuid;

use super::{Storage, StorageError, migrate};
use crate::{
    config::{Database, Reconnect},
    domain::{CompletionEvent, Deduction},
};

/// A migrated database that exists until [`Scratch::drop_database`].
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
    /// Creates it on the server of these settings, whose role must be allowed to.
    pub async fn create(
        database: &Database,
        reconnect: &Reconnect,
        name: String,
    ) -> Result<Self, StorageError> {
        let admin = PgConnectOptions::from_str(database.url.expose_secret())?;
        let mut connection = PgConnection::connect_with(&admin).await?;
        sqlx::raw_sql(AssertSqlSafe(format!(
            "drop database if exists {name} with (force)"
        )))
        .execute(&mut connection)
        .await?;
        sqlx::raw_sql(AssertSqlSafe(format!("create database {name}")))
            .execute(&mut connection)
            .await?;
        connection.close().await?;
        let mut database = database.clone();
        let url = with_path(database.url.expose_secret(), &name);
        database.url = SecretString::from(url);
        let storage = Storage::new(&database, reconnect)?;
        migrate(&storage, &database, |_| {}).await?;
        Ok(Self {
            admin,
            name,
            database,
            storage,
        })
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

    /// Fresh statistics and a checkpoint behind us, so that every measurement starts alike.
    pub async fn settle(&self) -> Result<(), StorageError> {
        sqlx::raw_sql("analyze").execute(&self.storage.pool).await?;
        // Needs a role that may; without it the figures are a little noisier.
        let _ = sqlx::raw_sql("checkpoint")
            .execute(&self.storage.pool)
            .await;
        Ok(())
    }

    /// The function alone.
    pub async fn deduct(
        &self,
        events: &[&CompletionEvent],
    ) -> Result<Vec<Deduction>, StorageError> {
        self.storage.deduct(events, None).await
    }

    /// Completed records, usage logs, and tokens that left the balances.
    pub async fn totals(&self) -> Result<(i64, i64, i64), StorageError> {
        Ok(sqlx::query_as(
            "select (select count(*) from token_deduction_records where status = 'completed'),
                    (select count(*) from token_usage_logs),
                    (select coalesce(sum(monthly_deducted + purchased_deducted), 0)::bigint
                     from token_deduction_records)",
        )
        .fetch_one(&self.storage.pool)
        .await?)
    }

    /// Removes the database.
    pub async fn drop_database(self) -> Result<(), StorageError> {
        self.storage.close().await;
        let mut connection = PgConnection::connect_with(&self.admin).await?;
        let drop = format!("drop database if exists {} with (force)", self.name);
        sqlx::raw_sql(AssertSqlSafe(drop))
            .execute(&mut connection)
            .await?;
        Ok(connection.close().await?)
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
