//! Connections, migrations, and knowing whether the database is there.

use std::{str::FromStr as _, time::Duration};

use secrecy::ExposeSecret as _;
use sqlx::{
    Connection as _, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use time::OffsetDateTime;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use super::StorageError;
use crate::{config, reconnect::Reconnect};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// The books.
#[derive(Debug)]
pub struct Storage {
    pub(super) pool: PgPool,
    reconnect: config::Reconnect,
    /// Whether the last thing heard of the database was good: readiness, and one log line a change.
    available: watch::Sender<bool>,
    /// When the server that we last spoke to was started.
    started_at: Mutex<Option<OffsetDateTime>>,
}

/// What a wait for the database found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comeback {
    /// It is another server process than before: it had been away.
    Restarted,
    /// The same server process as before: it was only our connection.
    Same,
    /// Cancelled before it came.
    Cancelled,
}

impl Storage {
    /// Prepares a pool; connects when first used, so that a process may start before its database.
    pub fn new(
        database: &config::Database,
        reconnect: &config::Reconnect,
    ) -> Result<Self, StorageError> {
        let options = PgConnectOptions::from_str(database.url.expose_secret())?
            .application_name("token-billing");
        let limits = format!(
            "set lock_timeout = {}; set statement_timeout = {}; set time zone 'UTC'",
            database.lock_timeout.as_millis(),
            database.statement_timeout.as_millis()
        );
        let pool = PgPoolOptions::new()
            .max_connections(database.max_connections)
            .acquire_timeout(database.acquire_timeout)
            // A broken connection shows at its first use, and that is repeated anyway; asking each
            // time costs a round trip a batch.
            .test_before_acquire(false)
            .after_connect(move |connection, _| {
                let limits = limits.clone();
                Box::pin(async move {
                    sqlx::raw_sql(sqlx::AssertSqlSafe(limits))
                        .execute(connection)
                        .await
                        .map(|_| ())
                })
            })
            .connect_lazy_with(options);
        Ok(Self {
            pool,
            reconnect: reconnect.clone(),
            available: watch::Sender::new(true),
            started_at: Mutex::new(None),
        })
    }

    /// Connects once, within `patience`: the pool would go on trying and then say only that time was
    /// up, but a person who waits wants the reason.
    pub async fn reach(&self, patience: Duration) -> Result<(), StorageError> {
        let options = self.pool.connect_options();
        let connecting = PgConnection::connect_with(&options);
        let late = |_| std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in time");
        let connection = tokio::time::timeout(patience, connecting)
            .await
            .map_err(|elapsed| sqlx::Error::Io(late(elapsed)))??;
        Ok(connection.close().await?)
    }

    /// One look: reachable, writable, migrated, and ours to use? Returns when the server was started.
    pub async fn probe(&self) -> Result<OffsetDateTime, StorageError> {
        let (started_at, read_only): (OffsetDateTime, bool) = sqlx::query_as(
            "select pg_postmaster_start_time(), current_setting('transaction_read_only')::bool
             from (select count(*) from deduct_tokens_batch('{}', '{}', '{}', '{}', '{}', '{}', '{}')) works",
        )
        .fetch_one(&self.pool)
        .await?;
        if read_only {
            Err(StorageError::ReadOnly)
        } else {
            Ok(started_at)
        }
    }

    /// Waits, however long, until the database can work. Says once that it is away and once that it is
    /// back, whoever asks.
    pub async fn wait_until_available(&self, cancelled: &CancellationToken) -> Comeback {
        let mut reconnect = Reconnect::new(&self.reconnect);
        loop {
            match self.probe().await {
                Ok(started_at) => {
                    self.heard(None);
                    let before = self.started_at.lock().await.replace(started_at);
                    return match before {
                        Some(before) if before == started_at => Comeback::Same,
                        _ => Comeback::Restarted,
                    };
                }
                Err(error) => self.heard(Some(&error)),
            }
            if !reconnect.wait(cancelled).await {
                return Comeback::Cancelled;
            }
        }
    }

    /// Whether the database was there when last heard of; changes can be awaited.
    pub fn availability(&self) -> watch::Receiver<bool> {
        self.available.subscribe()
    }

    /// Notes what was heard of the database, and logs if that is news.
    pub fn heard(&self, trouble: Option<&StorageError>) {
        let changed = self.available.send_if_modified(|available| {
            let changed = *available == trouble.is_some();
            *available = trouble.is_none();
            changed
        });
        match (changed, trouble) {
            (true, Some(error)) => tracing::error!(%error, "database unavailable: charging pauses"),
            (true, None) => tracing::info!("database available: charging goes on"),
            _ => {}
        }
    }

    /// Closes all connections.
    pub async fn close(&self) {
        // A connection that hangs must not keep a stopping process alive.
        let _ = tokio::time::timeout(Duration::from_secs(5), self.pool.close()).await;
    }
}

/// Applies the migrations that are missing; safe to run by several at once.
pub async fn migrate(storage: &Storage) -> Result<(), StorageError> {
    // Building an index may take longer than any charge may; so may waiting for another migrator.
    let mut connection = storage.pool.acquire().await?;
    sqlx::raw_sql("set statement_timeout = 0; set lock_timeout = '1min'")
        .execute(&mut *connection)
        .await?;
    let done = MIGRATIONS.run(&mut *connection).await;
    // Back to the pool with its limits as they were: a connection is cheaper than a mistake.
    drop(connection.detach());
    Ok(done?)
}

/// The migrations that [`migrate`] would apply: number and description.
pub async fn pending_migrations(storage: &Storage) -> Result<Vec<(i64, String)>, StorageError> {
    let there: bool = sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null")
        .fetch_one(&storage.pool)
        .await?;
    let applied: Vec<i64> = if there {
        sqlx::query_scalar("select version from _sqlx_migrations where success")
            .fetch_all(&storage.pool)
            .await?
    } else {
        Vec::new()
    };
    Ok(MIGRATIONS
        .iter()
        .filter(|migration| !applied.contains(&migration.version))
        .map(|migration| (migration.version, migration.description.to_string()))
        .collect())
}
