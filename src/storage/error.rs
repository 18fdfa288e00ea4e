//! What a database error means for the work at hand.

use std::sync::Arc;

use sqlx::postgres::{PgDatabaseError, PgSeverity};
use thiserror::Error;

use super::Finding;

/// An error of the database, or of the way to it.
#[derive(Debug, Error)]
pub enum StorageError {
    /// What sqlx reported.
    #[error("{}", describe(.0))]
    Sqlx(#[from] sqlx::Error),
    /// The migrations couldn't be applied.
    #[error("migration: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// No answer: to a connection within `database.connect_timeout`, or to a statement within a little
    /// more than `database.statement_timeout`.
    #[error("no answer in time")]
    NoAnswer,
    /// Reachable, but not to be written to.
    #[error("the database is read-only")]
    ReadOnly,
    /// Reachable, but something that is needed is missing.
    #[error("{}", listed(.0))]
    Unprepared(Vec<Finding>),
    /// Only the owner of the tables can migrate.
    #[error("the tables belong to {0}: run migrate as that role, or as one that is a member of it")]
    NotOwner(String),
    /// This version must not migrate what another one has made.
    #[error("{0}")]
    OtherVersion(String),
    /// A function answered with something that this version doesn't know.
    #[error("unexpected answer of {function}: {answer}")]
    Unexpected {
        function: &'static str,
        /// What it said.
        answer: String,
    },
}

/// Whose problem an error is, which decides what is done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The database as a whole can't work now: wait, then the same again.
    Unavailable,
    /// Said within a statement on a connection that works: something is missing, forbidden or away. That may be the
    /// installation, or a trigger of the application's that fails for one company: the error can't tell, so
    /// the installation is looked at before anybody is blamed.
    Installation,
    /// The connection broke during the call, or what was prepared on it is void; whether the database is away
    /// as well isn't known yet.
    Disconnected,
    /// Others were in the way (deadlock, a lock or time limit): the same may pass later, and asking at once about
    /// a part of it may only wait as long again.
    Busy,
    /// Nobody knows, or only bad luck: the same may pass later.
    Transient,
    /// The database rejects this very request; a retry meets the same.
    Rejected,
}

/// Why the database can't be worked with. The kind, not each error's words: one outage has many of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// It can't be reached, or ends its connections.
    Away,
    /// It can only be read.
    ReadOnly,
    /// It has no connection, memory or disk left.
    Full,
    /// What is missing, each with its fix.
    Unprepared(Arc<str>),
}

impl StorageError {
    /// Whose problem it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Sqlx(sqlx::Error::Database(error)) => {
                let Some(code) = error.code() else {
                    return Fault::Transient;
                };
                let said = error.try_downcast_ref::<PgDatabaseError>();
                let is_fatal = said.is_none_or(|said| {
                    matches!(said.severity(), PgSeverity::Fatal | PgSeverity::Panic)
                });
                let routine = said.and_then(PgDatabaseError::routine).unwrap_or_default();
                said_fault(&code, is_fatal, routine)
            }
            Self::Sqlx(sqlx::Error::Io(_) | sqlx::Error::Protocol(_)) => Fault::Disconnected,
            Self::Sqlx(
                sqlx::Error::Tls(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed
                | sqlx::Error::Configuration(_),
            )
            | Self::Migrate(_)
            | Self::NoAnswer
            | Self::ReadOnly
            | Self::NotOwner(_)
            | Self::OtherVersion(_)
            | Self::Unprepared(_) => Fault::Unavailable,
            // What nobody foresaw is tried again and then pending, never written off.
            Self::Sqlx(_) | Self::Unexpected { .. } => Fault::Transient,
        }
    }

    /// Whether a table or a function that we need isn't there.
    pub fn is_not_migrated(&self) -> bool {
        matches!(self, Self::Sqlx(sqlx::Error::Database(error))
            if matches!(error.code().as_deref(), Some("42P01" | "42883")))
    }

    /// Whether there was no room to write.
    pub(super) fn is_disk_full(&self) -> bool {
        matches!(self, Self::Sqlx(sqlx::Error::Database(error)) if error.code().as_deref() == Some("53100"))
    }

    /// What this says of the database, if it is the database's problem.
    pub(super) fn trouble(&self) -> Trouble {
        match self {
            Self::Unprepared(findings) => Trouble::Unprepared(listed(findings).into()),
            Self::ReadOnly => Trouble::ReadOnly,
            Self::Sqlx(sqlx::Error::Database(error)) => match error.code().as_deref() {
                Some("25006") => Trouble::ReadOnly,
                Some(code) if code.starts_with("53") => Trouble::Full,
                _ => Trouble::Away,
            },
            _ => Trouble::Away,
        }
    }
}

/// What is missing, in one line.
fn listed(findings: &[Finding]) -> String {
    let findings: Vec<String> = findings.iter().map(ToString::to_string).collect();
    findings.join("; ")
}

/// Sorts by SQLSTATE, and by who said it. What a connection was ended with (FATAL) is the server's own state;
/// a statement that fails (ERROR) on a connection that goes on can report anything, because the
/// application's triggers run within it.
fn said_fault(code: &str, is_fatal: bool, routine: &str) -> Fault {
    match sqlstate_fault(code) {
        // `RAISE` in somebody's PL/pgSQL, with whatever SQLSTATE pleased: never the server's.
        Fault::Unavailable | Fault::Installation if routine == "exec_stmt_raise" => {
            Fault::Transient
        }
        // Prepared before a migration changed the result's type, or on another connection by a pooler: good
        // again on a new connection.
        _ if code == "26000" || routine == "RevalidateCachedQuery" => Fault::Disconnected,
        // The server itself says these within a statement: read-only, disk full, system error, input/output. All else
        // may be a trigger's, such as 58P01: a file or library that it wants.
        Fault::Unavailable
            if !is_fatal && !matches!(code, "25006" | "53100" | "58000" | "58030") =>
        {
            Fault::Installation
        }
        fault => fault,
    }
}

/// Sorts by SQLSTATE (PostgreSQL documentation, appendix A). What says "this server can't" or "this
/// installation isn't complete" is nobody's event's fault and must not use up its attempts.
fn sqlstate_fault(code: &str) -> Fault {
    match code {
        // serialization failure, deadlock, lock timeout, statement timeout.
        "40001" | "40P01" | "55P03" | "57014" => Fault::Busy,
        // out of memory (perhaps of this call only). A unique violation is a race for a key that was lost
        // three times in a row.
        "53200" | "23505" => Fault::Transient,
        // read-only: a standby, or one that is being switched over.
        "25006" => Fault::Unavailable,
        _ => match code.get(..2) {
            // connection, authorization, no such database, resources, operator, system.
            Some("08" | "28" | "3D" | "53" | "57" | "58") => Fault::Unavailable,
            // feature, prepared statement, schema, syntax or rights, limits, state, configuration.
            Some("0A" | "26" | "3F" | "42" | "54" | "55" | "F0") => Fault::Installation,
            // data that can't be stored, constraints.
            Some("22" | "23") => Fault::Rejected,
            _ => Fault::Transient,
        },
    }
}

/// Message, detail and SQLSTATE on one line. sqlx's own text leaves the last two out.
fn describe(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => {
            let mut text = error.message().to_owned();
            if let Some(code) = error.code() {
                text = format!("{text} (SQLSTATE {code})");
            }
            text
        }
        sqlx::Error::PoolTimedOut => {
            "no connection to the database within database.acquire_timeout".into()
        }
        sqlx::Error::Io(error) => format!("the connection to the database broke: {error}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_connection_falls_to_who_must_act() {
        for (code, fault) in [
            ("40P01", Fault::Busy),
            ("55P03", Fault::Busy),
            ("57014", Fault::Busy),
            ("57P01", Fault::Unavailable),
            ("57P03", Fault::Unavailable),
            ("53300", Fault::Unavailable),
            ("25006", Fault::Unavailable),
            ("42883", Fault::Installation),
            ("26000", Fault::Disconnected),
            ("P0001", Fault::Transient),
            ("28P01", Fault::Unavailable),
            ("22003", Fault::Rejected),
            ("23514", Fault::Rejected),
        ] {
            assert_eq!(said_fault(code, true, "ProcessInterrupts"), fault, "{code}");
        }
    }

    #[test]
    fn what_a_statement_says_is_not_taken_for_the_servers_state() {
        for (code, routine, fault) in [
            // Out of a trigger, perhaps: to be looked at.
            ("42703", "errorMissingColumn", Fault::Installation),
            ("53300", "pgfdw_report_error", Fault::Installation),
            ("08001", "connect_pg_server", Fault::Installation),
            ("57P03", "dblink_res_error", Fault::Installation),
            // By hand.
            ("57P03", "exec_stmt_raise", Fault::Transient),
            ("53300", "exec_stmt_raise", Fault::Transient),
            ("25006", "exec_stmt_raise", Fault::Transient),
            ("42703", "exec_stmt_raise", Fault::Transient),
            ("23514", "exec_stmt_raise", Fault::Rejected),
            // The server's own.
            ("53100", "mdextend", Fault::Unavailable),
            ("58030", "mdread", Fault::Unavailable),
            ("58P01", "internal_load_library", Fault::Installation),
            ("25006", "PreventCommandIfReadOnly", Fault::Unavailable),
            ("0A000", "RevalidateCachedQuery", Fault::Disconnected),
        ] {
            assert_eq!(said_fault(code, false, routine), fault, "{code} {routine}");
        }
    }
}
