//! What a database error means for the work at hand.

use thiserror::Error;

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
    /// A function answered with something that this version doesn't know.
    #[error("unexpected answer of {function}: {answer}")]
    Unexpected {
        /// Which function.
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
    /// Something is missing or forbidden: not migrated, altered, no rights. Nobody's event's fault, unless
    /// it stays so for one company while the rest works.
    Installation,
    /// The connection broke during the call; whether the database is away as well isn't known yet.
    Disconnected,
    /// This call had bad luck (deadlock, a lock or time limit): try again later.
    Transient,
    /// The database rejects this very request; a retry meets the same.
    Rejected,
}

impl StorageError {
    /// Whose problem it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Sqlx(sqlx::Error::Database(error)) => error
                .code()
                .map_or(Fault::Transient, |code| sqlstate_fault(&code)),
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
            | Self::ReadOnly => Fault::Unavailable,
            // What nobody foresaw is tried again and then owed, never written off.
            Self::Sqlx(_) | Self::Unexpected { .. } => Fault::Transient,
        }
    }
}

/// Sorts by SQLSTATE (PostgreSQL documentation, appendix A). What says "this server can't" or "this
/// installation isn't complete" is nobody's event's fault and must not use up its attempts.
fn sqlstate_fault(code: &str) -> Fault {
    match code {
        // serialization failure, deadlock, lock timeout, statement timeout; out of memory (perhaps of
        // this call only). A unique violation is a race for a key that was lost three times in a row.
        "40001" | "40P01" | "55P03" | "57014" | "53200" | "23505" => Fault::Transient,
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
    fn sqlstates_fall_to_who_must_act() {
        for (code, fault) in [
            ("40P01", Fault::Transient),
            ("55P03", Fault::Transient),
            ("57014", Fault::Transient),
            ("57P01", Fault::Unavailable),
            ("57P03", Fault::Unavailable),
            ("53300", Fault::Unavailable),
            ("25006", Fault::Unavailable),
            ("42883", Fault::Installation),
            ("26000", Fault::Installation),
            ("P0001", Fault::Transient),
            ("28P01", Fault::Unavailable),
            ("22003", Fault::Rejected),
            ("23514", Fault::Rejected),
        ] {
            assert_eq!(sqlstate_fault(code), fault, "{code}");
        }
    }
}
