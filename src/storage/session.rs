//! What each of our sessions sets for itself, because correctness rests on it and the server, the database
//! or the role may have another default: the database belongs to somebody else.

use sqlx::PgConnection;

use crate::config;

/// `SET` statements for a new connection, all in one round trip:
///
/// - `synchronous_commit`: without it a commit that was answered, and whose event was acked, can be lost by a
///   crash of the server. `remote_apply` promises more and stays.
/// - `default_transaction_isolation`: under REPEATABLE READ and above, charges of one company that meet fail
///   with 40001 instead of waiting for one another.
/// - `row_security`: `off` would make an error of each policy, also of one that hides nothing.
/// - `transform_null_equals`, `standard_conforming_strings`, `plpgsql.extra_errors`: they change what our SQL
///   means, or whether it is SQL at all.
/// - `idle_session_timeout`, `transaction_timeout` (from `PostgreSQL` 17): they end connections that the pool keeps, and
///   look like an outage.
pub(super) fn settings(database: &config::Database) -> String {
    format!(
        "set lock_timeout = {}; set statement_timeout = {};
         set time zone 'UTC';
         set default_transaction_isolation = 'read committed';
         set row_security = on;
         set transform_null_equals = off;
         set standard_conforming_strings = on;
         set plpgsql.extra_errors = 'none';
         set idle_session_timeout = 0;
         select set_config('transaction_timeout', '0', false)
         where current_setting('transaction_timeout', true) is not null;
         select set_config('synchronous_commit', 'on', false)
         where current_setting('synchronous_commit') <> 'remote_apply'",
        database.lock_timeout.as_millis(),
        database.statement_timeout.as_millis()
    )
}

/// Gives a connection these settings.
pub(super) async fn prepare(connection: &mut PgConnection, settings: &str) -> sqlx::Result<()> {
    sqlx::raw_sql(sqlx::AssertSqlSafe(settings.to_owned()))
        .execute(connection)
        .await
        .map(|_| ())
}
