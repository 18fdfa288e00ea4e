//! Bringing a database to this version, beside whoever works in it.
//!
//! All that is missing is applied in one transaction. If this process dies before the commit, nothing happened;
//! and nobody ever sees an object of ours with the rights that the server's defaults gave to others.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection, migrate::MigrateError};

use super::{Revoked, Storage, StorageError, installation::Holdings};
use crate::config;

/// The migrations, embedded in the binary.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// Between two tries to get a lock: whoever waited behind the last one goes first.
const PAUSE: Duration = Duration::from_secs(2);
/// The first version that leaves nobody but the owner a right that was not granted by name.
const FIRST_PRIVATE: i64 = 10;
/// The version that gave each job one spelling.
const CANONICAL_KEYS: i64 = 8;

/// What [`migrate`] did.
#[derive(Debug, Default)]
pub struct Migrated {
    /// Rights that others had on objects of ours, by the server's defaults, and have no more.
    pub revoked: Vec<Revoked>,
    /// Records that were left under another spelling of their job, because the job has a record already.
    pub other_spellings: Vec<String>,
}

/// Applies the migrations that are missing; safe to run by several at once, and while others work. If a lock can't
/// be had within `limits.migrate_lock_timeout`, `waits` hears who has it, and all is tried again, until
/// `limits.migrate_patience` is over.
pub async fn migrate(
    storage: &Storage,
    limits: &config::Database,
    mut waits: impl FnMut(&str),
) -> Result<Migrated, StorageError> {
    let until = Instant::now() + limits.migrate_patience;
    loop {
        match apply(storage, limits.migrate_lock_timeout).await {
            Err(error) if is_about_locks(&error) && Instant::now() < until => {
                waits(&storage.who_holds().await?);
                tokio::time::sleep(PAUSE).await;
            }
            done => return done,
        }
    }
}

async fn apply(storage: &Storage, lock_timeout: Duration) -> Result<Migrated, StorageError> {
    let mut connection = storage.connect_once().await?;
    // Reading all of a table may take longer than any charge may.
    let limits = format!(
        "set statement_timeout = 0; set lock_timeout = {}",
        lock_timeout.as_millis()
    );
    sqlx::raw_sql(AssertSqlSafe(limits))
        .execute(&mut connection)
        .await?;
    let mut transaction = connection.begin().await?;
    // To the end of the transaction; the migrator's own lock ends before.
    sqlx::query("select pg_advisory_xact_lock(hashtextextended('token-billing migrate', 0))")
        .execute(&mut *transaction)
        .await?;
    become_owner(&mut transaction).await?;
    let applied = applied(&mut transaction).await?;
    let before = Holdings::read(&mut transaction).await?;
    MIGRATIONS.run(&mut *transaction).await?;
    let had = |version| applied.contains(&version);
    let clean_old = !applied.is_empty() && !had(FIRST_PRIVATE);
    let migrated = Migrated {
        revoked: before.take_rights(&mut transaction, clean_old).await?,
        other_spellings: if had(CANONICAL_KEYS) {
            Vec::new()
        } else {
            other_spellings(&mut transaction).await?
        },
    };
    transaction.commit().await?;
    connection.close().await?;
    Ok(migrated)
}

/// Until the end of the transaction: what is made now belongs to whom all that is there belongs, or the functions could
/// not call one another.
async fn become_owner(connection: &mut PgConnection) -> Result<(), StorageError> {
    let owner: Option<(String, bool, bool)> = sqlx::query_as(
        "select c.relowner::regrole::text, c.relowner = (select r.oid from pg_roles r where r.rolname = current_user), pg_has_role(c.relowner, 'member')
         from pg_class c where c.oid = to_regclass('token_deduction_records')",
    )
    .fetch_optional(&mut *connection)
    .await?;
    match owner {
        None | Some((_, true, _)) => Ok(()),
        Some((owner, _, true)) => {
            sqlx::raw_sql(AssertSqlSafe(format!("set local role {owner}")))
                .execute(connection)
                .await?;
            Ok(())
        }
        Some((owner, ..)) => Err(StorageError::NotOwner(owner)),
    }
}

/// The migrations that [`migrate`] would apply: number and description.
pub async fn pending_migrations(storage: &Storage) -> Result<Vec<(i64, String)>, StorageError> {
    let applied = storage
        .call(async |connection| applied(connection).await)
        .await;
    let applied = match applied {
        // Whoever may not even look.
        Err(error) if code(&error).as_deref() == Some("42501") => {
            let mut connection = storage.connect_once().await?;
            become_owner(&mut connection).await?;
            return Err(error);
        }
        applied => applied?,
    };
    Ok(MIGRATIONS
        .iter()
        .filter(|migration| !applied.contains(&migration.version))
        .map(|migration| (migration.version, migration.description.to_string()))
        .collect())
}

async fn applied(connection: &mut PgConnection) -> sqlx::Result<Vec<i64>> {
    let there: bool = sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null")
        .fetch_one(&mut *connection)
        .await?;
    if !there {
        return Ok(Vec::new());
    }
    sqlx::query_scalar("select version from _sqlx_migrations where success")
        .fetch_all(connection)
        .await
}

async fn other_spellings(connection: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(
        "select format('%s (%s) of job %s', quote_literal(idempotency_key), status, canonical_key(idempotency_key))
         from token_deduction_records
         where canonical_key(idempotency_key) <> idempotency_key collate \"C\" order by idempotency_key",
    )
    .fetch_all(connection)
    .await
}

/// A lock timeout, or a deadlock.
fn is_about_locks(error: &StorageError) -> bool {
    matches!(code(error).as_deref(), Some("55P03" | "40P01"))
}

fn code(error: &StorageError) -> Option<String> {
    let error = match error {
        StorageError::Sqlx(error) => error,
        StorageError::Migrate(
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _),
        ) => error,
        _ => return None,
    };
    let code = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code);
    code.map(std::borrow::Cow::into_owned)
}

impl Storage {
    /// The oldest transaction that has a lock on a table of our schema, or an advisory lock, for a person.
    async fn who_holds(&self) -> Result<String, StorageError> {
        let query = sqlx::query_scalar(
            "select format('process %s (%s of %s) holds %s since %s', a.pid,
                           coalesce(nullif(a.application_name, ''), 'a session'), coalesce(a.usename, '?'),
                           coalesce(l.relation::regclass::text, 'an advisory lock'),
                           date_trunc('second', coalesce(a.xact_start, a.state_change)))
             from pg_locks l join pg_stat_activity a on a.pid = l.pid
             where l.granted and l.pid <> pg_backend_pid()
               and l.database = (select oid from pg_database where datname = current_database())
               and (l.locktype = 'advisory' or l.relation in (
                        select c.oid from pg_class c where c.relnamespace = current_schema()::regnamespace))
             order by a.xact_start nulls last limit 1",
        );
        let holder: Option<String> = self
            .call(async |connection| query.fetch_optional(connection).await)
            .await?;
        Ok(holder.unwrap_or_else(|| "another session held it".to_owned()))
    }
}
