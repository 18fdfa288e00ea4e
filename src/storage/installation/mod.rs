//! Looking at an installation without changing it: on one connection that may only read, with every answer
//! awaited for a bounded time.

mod application;
mod durability;
mod functions;
mod grants;
mod guards;
mod holdings;
mod interference;
mod others;
mod preflight;
mod rights;
mod versions;

use std::time::Duration;

use sqlx::{Connection as _, PgConnection};
use time::OffsetDateTime;

use super::{InstallationStatus, Storage, StorageError, status::status};

pub use durability::Durability;
pub(super) use functions::{FILES, TRIGGERS, enabled_triggers, strange_functions};
pub use functions::{FUNCTIONS, Function, StrangeFunction};
pub use grants::{Grant, Object, Purpose, grants, grants_sql};
pub(super) use holdings::Holdings;
pub use holdings::{RELATIONS, Revoked};
pub use others::OtherRole;
pub use preflight::{Finding, Look, Preflight, Severity, print_grants};
pub use rights::Excess;
pub use versions::StrangeMigration;
pub(super) use versions::{strange_migrations, this_version};

/// For one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// One connection for looking.
#[derive(Debug)]
pub struct Inspection {
    /// `None` once an answer didn't come: what comes next on it could be that one.
    connection: Option<PgConnection>,
    within: Duration,
}

/// What the server says of itself.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Server {
    /// `15.18`.
    pub version: String,
    /// `150018`.
    pub version_number: i32,
    pub database: String,
    /// The role that is connected.
    pub role: String,
    /// Nothing can be written: a standby, or set so.
    pub read_only: bool,
}

impl Storage {
    /// The database and the schema in which our tables are, or would be made.
    pub async fn place(&self) -> Result<(String, String), StorageError> {
        self.call(async |connection| {
            sqlx::query_as(
                "select current_database()::text, coalesce((
                     select n.nspname from pg_class c join pg_namespace n on n.oid = c.relnamespace
                     where c.oid = to_regclass('token_deduction_records')), current_schema(), 'public')::text",
            )
            .fetch_one(connection)
            .await
        })
        .await
    }

    /// Opens a connection for looking; within `database.connect_timeout`.
    pub async fn inspect(&self) -> Result<Inspection, StorageError> {
        let mut inspection = Inspection {
            connection: Some(self.connect_once().await?),
            within: ANSWER_WITHIN,
        };
        let limit = ANSWER_WITHIN.as_millis();
        let limits = format!("set statement_timeout = {limit}; set lock_timeout = {limit}");
        inspection
            .ask(async |connection| {
                sqlx::raw_sql(sqlx::AssertSqlSafe(limits))
                    .execute(connection)
                    .await
            })
            .await?;
        Ok(inspection)
    }
}

impl Inspection {
    pub(super) async fn ask<T>(
        &mut self,
        question: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
    ) -> Result<T, StorageError> {
        let Some(mut connection) = self.connection.take() else {
            return Err(StorageError::NoAnswer);
        };
        let answer = tokio::time::timeout(self.within, question(&mut connection)).await;
        let answer = answer.map_err(|_| StorageError::NoAnswer)?;
        self.connection = Some(connection);
        Ok(answer?)
    }

    /// Which server this is. From here on the connection may only read.
    pub async fn server(&mut self) -> Result<Server, StorageError> {
        self.ask(async |connection| {
            let server = sqlx::query_as(
                "select split_part(current_setting('server_version'), ' ', 1) as version,
                        current_setting('server_version_num')::int as version_number,
                        current_database()::text as database, current_user::text as role,
                        current_setting('transaction_read_only')::bool as read_only",
            )
            .fetch_one(&mut *connection)
            .await?;
            sqlx::raw_sql("set default_transaction_read_only = on")
                .execute(connection)
                .await?;
            Ok(server)
        })
        .await
    }

    /// How far the server's clock is before this machine's (behind, if negative), in seconds. The answer's
    /// way is part of the error.
    pub async fn clock_ahead_seconds(&mut self) -> Result<f64, StorageError> {
        self.ask(async |connection| {
            let asked = OffsetDateTime::now_utc();
            let there: OffsetDateTime = sqlx::query_scalar("select clock_timestamp()")
                .fetch_one(connection)
                .await?;
            let here = asked + (OffsetDateTime::now_utc() - asked) / 2;
            let ahead: time::Duration = there - here;
            Ok(ahead.as_seconds_f64())
        })
        .await
    }

    /// How things stand, with what happened within `window`.
    pub async fn status(&mut self, window: Duration) -> Result<InstallationStatus, StorageError> {
        self.ask(async |connection| status(connection, window).await)
            .await
    }

    pub async fn close(self) {
        if let Some(connection) = self.connection {
            let _ = tokio::time::timeout(self.within, connection.close()).await;
        }
    }
}
