//! Which version of this program the database was brought to.

use std::fmt;

use sqlx::PgConnection;

use super::Inspection;
use crate::storage::{MIGRATIONS, StorageError};

/// How the database differs from what this binary would make of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StrangeMigration {
    /// Not applied yet.
    Pending(i64),
    /// Applied by a newer version of this program.
    Unknown(i64),
    /// Begun and not finished.
    Unfinished(i64),
    /// Applied with another text.
    Altered(i64),
    /// The functions are those of this version, a newer one.
    Newer(String),
}

impl fmt::Display for StrangeMigration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pending(number)
            | Self::Unknown(number)
            | Self::Unfinished(number)
            | Self::Altered(number) => number.fmt(f),
            Self::Newer(version) => write!(f, "the functions of token-billing {version}"),
        }
    }
}

/// Major, minor, patch.
pub(in crate::storage) fn this_version() -> Vec<i32> {
    let version = env!("CARGO_PKG_VERSION").split(['.', '-', '+']);
    version
        .map_while(|part| part.parse().ok())
        .take(3)
        .collect()
}

/// What isn't as this binary has it: its own migrations in order, then others, then the version.
pub(in crate::storage) async fn strange_migrations(
    connection: &mut PgConnection,
) -> sqlx::Result<Vec<StrangeMigration>> {
    let (has_migrations, has_version): (bool, bool) = sqlx::query_as(
        "select to_regclass('_sqlx_migrations') is not null, to_regclass('token_billing_version') is not null",
    )
    .fetch_one(&mut *connection)
    .await?;
    let applied: Vec<(i64, bool, Vec<u8>)> = if has_migrations {
        sqlx::query_as("select version, success, checksum from _sqlx_migrations order by version")
            .fetch_all(&mut *connection)
            .await?
    } else {
        Vec::new()
    };
    let mut strange = Vec::new();
    for migration in MIGRATIONS.iter() {
        let version = migration.version;
        match applied.iter().find(|(applied, ..)| *applied == version) {
            None => strange.push(StrangeMigration::Pending(version)),
            Some((_, false, _)) => strange.push(StrangeMigration::Unfinished(version)),
            Some((.., checksum)) if *checksum != *migration.checksum => {
                strange.push(StrangeMigration::Altered(version));
            }
            Some(_) => {}
        }
    }
    let known = |version: &i64| MIGRATIONS.iter().any(|known| known.version == *version);
    let others = applied.into_iter().map(|(version, ..)| version);
    strange.extend(
        others
            .filter(|version| !known(version))
            .map(StrangeMigration::Unknown),
    );
    if has_version {
        let newer: Option<String> = sqlx::query_scalar(
            "select array_to_string(version, '.') from token_billing_version where version > $1",
        )
        .bind(this_version())
        .fetch_optional(connection)
        .await?;
        strange.extend(newer.map(StrangeMigration::Newer));
    }
    Ok(strange)
}

impl Inspection {
    /// How the database differs from what this binary would make of it.
    pub async fn strange_migrations(&mut self) -> Result<Vec<StrangeMigration>, StorageError> {
        self.ask(strange_migrations).await
    }
}
