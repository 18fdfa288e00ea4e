//! Bringing a database to this version, beside whoever works in it.
//!
//! All that is missing is applied in one transaction. If this process dies before the commit, nothing happened;
//! and nobody ever sees an object of ours with the rights that the server's defaults gave to others.
//!
//! Two kinds of files, in this order:
//!
//! 1. `migrations/NNNN_*.sql`: tables, types, indexes, views. Each is applied once and never edited after that. None
//!    calls a function of ours: the functions that are there are those of the version before, or none.
//! 2. `migrations/functions/NAME.sql`: a function, or a trigger function with its triggers. Edited in place; applied
//!    whenever the catalog differs from it, be it that a version has changed it or that somebody has by hand. Of a
//!    trigger only its name is compared: one that is to be another one gets a new name.
//!
//! # How two versions live together
//!
//! While a version is rolled out, its schema and processes of the version before work side by side, and a call that is
//! under way may meet the new text of a function that it calls. So:
//!
//! - A function keeps its arguments, its result and what they mean. What changes one of these is a function with a new
//!   name. The old one's file stays for one version; the next version deletes it, with a `drop function if exists` in a
//!   numbered migration. The same goes for a column or table that the old functions or programs name.
//! - An older program goes on with newer functions (it says that they are newer), and a newer one with older functions
//!   as long as all that it calls are there. `migrate` comes before the programs.
//! - An older program's `migrate` refuses: it would put back its own functions. `token_billing_version` tells.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection, migrate::MigrateError};

use super::{
    Revoked, Storage, StorageError, StrangeMigration,
    installation::{
        FILES, Holdings, TRIGGERS, enabled_triggers, strange_functions, strange_migrations,
        this_version,
    },
};
use crate::config;

/// The numbered migrations, embedded in the binary.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// Between two tries to get a lock: whoever waited behind the last one goes first.
const PAUSE: Duration = Duration::from_secs(2);

/// What [`migrate`] did, or would do.
#[derive(Debug, Default)]
pub struct Migrated {
    /// The migrations that were missing: number and description.
    pub migrations: Vec<(i64, String)>,
    /// The files in `migrations/functions` from which the database differed.
    pub functions: Vec<&'static str>,
    /// Rights that others had on new objects of ours, by the server's defaults, and have no more.
    pub revoked: Vec<Revoked>,
}

/// Applies what is missing; safe to run by several at once, and while others work. If a lock can't
/// be had within `limits.migrate_lock_timeout`, `waits` hears who has it, and all is tried again, until
/// `limits.migrate_patience` is over.
///
/// # Errors
///
/// [`StorageError::OtherVersion`] where an older or an unreleased version would spoil what is there.
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
    let migrations = missing_migrations(&mut transaction).await?;
    let before = Holdings::read(&mut transaction).await?;
    MIGRATIONS.run(&mut *transaction).await?;
    let migrated = Migrated {
        migrations,
        functions: apply_functions(&mut transaction).await?,
        revoked: before.take_rights(&mut transaction).await?,
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

/// Brings functions and triggers to what their files say; the files that were applied.
async fn apply_functions(connection: &mut PgConnection) -> sqlx::Result<Vec<&'static str>> {
    // A function may call one that comes later. The schema is the one that the functions' search_path is pinned to.
    sqlx::query(
        "select set_config('check_function_bodies', 'off', true),
                set_config('search_path', format('%s, pg_temp', c.relnamespace::regnamespace), true)
         from pg_class c where c.oid = to_regclass('token_deduction_records')",
    )
    .execute(&mut *connection)
    .await?;
    let other = other_files(connection).await?;
    for (_, text) in FILES.iter().filter(|(file, _)| other.contains(file)) {
        sqlx::raw_sql(*text).execute(&mut *connection).await?;
    }
    sqlx::query(
        "insert into token_billing_version (version) values ($1)
         on conflict (is_current) do update set version = excluded.version
         where token_billing_version.version <> excluded.version",
    )
    .bind(this_version())
    .execute(connection)
    .await?;
    Ok(other)
}

/// The files from which the database differs: of an altered function, or one that is missing, or a trigger that is.
async fn other_files(connection: &mut PgConnection) -> sqlx::Result<Vec<&'static str>> {
    let functions = strange_functions(&mut *connection).await?;
    let triggers = TRIGGERS.iter().zip(enabled_triggers(connection).await?);
    let missing = triggers.filter(|(_, enabled)| enabled.is_none());
    let mut files: Vec<&str> = missing.map(|(trigger, _)| trigger.file).collect();
    files.extend(functions.iter().map(|one| one.function.file));
    files.sort_unstable();
    files.dedup();
    Ok(files)
}

/// What [`migrate`] would do.
pub async fn planned(storage: &Storage) -> Result<Migrated, StorageError> {
    let mut connection = storage.connect_once().await?;
    let migrations = match missing_migrations(&mut connection).await {
        // Whoever may not even look.
        Err(error) if code(&error).as_deref() == Some("42501") => {
            become_owner(&mut connection).await?;
            return Err(error);
        }
        migrations => migrations?,
    };
    let functions = other_files(&mut connection).await?;
    connection.close().await?;
    Ok(Migrated {
        migrations,
        functions,
        revoked: Vec::new(),
    })
}

/// The numbered migrations that aren't applied yet.
async fn missing_migrations(
    connection: &mut PgConnection,
) -> Result<Vec<(i64, String)>, StorageError> {
    let strange = strange_migrations(connection).await?;
    // An unreleased version's database has numbers that are unknown here as well.
    let refusal = strange.iter().find_map(|one| match one {
        StrangeMigration::Altered(number) => Some(format!(
            "this database was made by an unreleased version of token-billing (its migration {number} is another one): \
             create a new database and migrate that"
        )),
        _ => None,
    });
    let newer = || {
        strange.iter().find_map(|one| match one {
            StrangeMigration::Unknown(_) | StrangeMigration::Newer(_) => Some(format!(
                "the database is newer than this program, which doesn't know {one}, and is left as it is: \
                 run migrate of the newer version"
            )),
            _ => None,
        })
    };
    if let Some(refusal) = refusal.or_else(newer) {
        return Err(StorageError::OtherVersion(refusal));
    }
    Ok(MIGRATIONS
        .iter()
        .filter(|migration| strange.contains(&StrangeMigration::Pending(migration.version)))
        .map(|migration| (migration.version, migration.description.to_string()))
        .collect())
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
