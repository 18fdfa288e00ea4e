//! What an installation needs before anything is charged, each lack with its fix. One list for `migrate`,
//! `doctor` and the start of `serve`: the database belongs to an application, which may have made its tables
//! in another way, or change them on any day.

use std::fmt;

use super::{Inspection, Purpose, StrangeFunction, StrangeMigration, functions::signatures};
use crate::storage::{Fault, StorageError};

/// What is to be looked at.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// What the connected role must be able to do; `None`: its rights don't matter.
    pub purpose: Option<Purpose>,
    /// `articles` is asked whether an article exists (no `sweeper.article_exists_query` is set).
    pub articles: bool,
    /// Rows are looked through as well, as far as the role may read them, which takes a while on a large table.
    pub rows: bool,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Nothing can be charged, or wrongly: `serve` waits until it is fixed.
    Blocking,
    /// To be fixed: a part doesn't work, or not for everybody.
    Fault,
    /// To be known; whether it is good can't be told from here.
    Note,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// By which check, a stable word: one of [`Preflight::CHECKS`].
    pub check: &'static str,
    /// Where, if there are several places.
    pub subject: Option<String>,
    pub finding: String,
    /// What to do about it; SQL where that is possible.
    pub fix: Option<String>,
    /// How bad it is.
    pub severity: Severity,
}

impl Finding {
    pub(super) fn new(
        severity: Severity,
        check: &'static str,
        finding: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            check,
            subject: None,
            finding: finding.into(),
            fix: Some(fix.into()),
            severity,
        }
    }

    pub(super) fn of(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.check.replace('_', " "))?;
        if let Some(subject) = &self.subject {
            write!(f, "{subject}: ")?;
        }
        f.write_str(&self.finding)?;
        match &self.fix {
            Some(fix) => write!(f, " (fix: {fix})"),
            None => Ok(()),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preflight {
    /// In the order of the checks.
    pub findings: Vec<Finding>,
    /// Why the checks that found nothing were not made.
    pub unseen: Option<String>,
}

impl Preflight {
    /// The checks that there are.
    pub const CHECKS: [&'static str; 7] = [
        "migrations",
        "functions",
        "guards",
        "rights_enough",
        "application_tables",
        "row_security",
        "triggers",
    ];

    fn unseen(finding: Finding, why: &str) -> Self {
        Self {
            findings: vec![finding],
            unseen: Some(format!("not checked: {why}")),
        }
    }
}

/// Called with literals, whose types another function of that name may fit better.
const CALLED_BY_HAND: [&str; 4] = [
    "deduct_tokens_atomic",
    "deduct_tokens_batch",
    "credit_tokens",
    "refund_tokens",
];

impl Inspection {
    /// Looks at everything that charging rests on. Changes nothing.
    ///
    /// # Errors
    ///
    /// The database can't be asked. What is forbidden or missing is a finding.
    pub async fn preflight(&mut self, look: Look) -> Result<Preflight, StorageError> {
        let hidden = self.hidden_schemas().await?.join(", ");
        if !hidden.is_empty() {
            let (role, fix) = self.grants_for(look.purpose).await?;
            let finding = format!("{role} lacks {hidden}");
            let finding = Finding::new(Severity::Blocking, "rights_enough", finding, fix);
            return Ok(Preflight::unseen(finding, &format!("there is no {hidden}")));
        }
        let strange = match self.strange_migrations().await {
            // Told by the rights.
            Err(error) if error.fault() == Fault::Installation => Vec::new(),
            strange => strange?,
        };
        let mut findings: Vec<Finding> = migrations(&strange).into_iter().collect();
        let has = |wanted: fn(&StrangeMigration) -> bool| strange.iter().any(wanted);
        if has(|one| matches!(one, StrangeMigration::Pending(_))) {
            let why = "not checked: the database is not migrated".to_owned();
            return Ok(Preflight {
                findings,
                unseen: Some(why),
            });
        }
        // A newer version's functions are not for this one to judge; it must still be able to call them.
        if !has(|one| {
            matches!(
                one,
                StrangeMigration::Unknown(_) | StrangeMigration::Newer(_)
            )
        }) {
            findings.extend(functions(&self.strange_functions().await?));
        }
        findings.extend(self.overloads().await?);
        findings.extend(self.guards().await?);
        if let Some(purpose) = look.purpose {
            let missing = self.missing_rights(purpose).await?;
            if !missing.is_empty() {
                let (role, fix) = self.grants_for(look.purpose).await?;
                let (purpose, missing) = (purpose.as_str(), missing.join("; "));
                let finding = format!("{role} lacks for {purpose}: {missing}");
                findings.push(Finding::new(
                    Severity::Blocking,
                    "rights_enough",
                    finding,
                    fix,
                ));
            }
        }
        findings.extend(self.application_tables(look).await?);
        findings.extend(self.row_security(look.purpose).await?);
        findings.extend(self.triggers().await?);
        Ok(Preflight {
            findings,
            unseen: None,
        })
    }

    /// The connected role, and how it gets what it needs.
    async fn grants_for(
        &mut self,
        purpose: Option<Purpose>,
    ) -> Result<(String, String), StorageError> {
        let role: String = self
            .ask(async |connection| {
                sqlx::query_scalar("select current_user::text")
                    .fetch_one(connection)
                    .await
            })
            .await?;
        let print = print_grants(&role, purpose.unwrap_or(Purpose::Serve));
        let fix = format!("as the owner of the tables, run what this prints: {print}");
        Ok((role, fix))
    }

    /// Functions with our names that a call may reach in place of ours: another one is taken if its types fit
    /// an unadorned literal better, or if it stands earlier on the search_path.
    async fn overloads(&mut self) -> Result<Vec<Finding>, StorageError> {
        let found: Vec<(String, bool)> = self
            .ask(async |connection| {
                sqlx::query_as(include_str!("overloads.sql"))
                    .bind(signatures())
                    .bind(CALLED_BY_HAND)
                    .fetch_all(connection)
                    .await
            })
            .await?;
        let finding = |(function, shadows): (String, bool)| {
            let (severity, finding) = if shadows {
                let finding = "stands before ours on the search_path: it is called in its place";
                (Severity::Blocking, finding)
            } else {
                let finding =
                    "is not ours but has its name: a call whose arguments fit it better reaches it";
                (Severity::Fault, finding)
            };
            let fix = format!("drop function {function}");
            Finding::new(severity, "functions", finding, fix).of(function)
        };
        Ok(found.into_iter().map(finding).collect())
    }
}

/// `token-billing migrate --print-grants ROLE`, as it is typed for this.
pub fn print_grants(role: &str, purpose: Purpose) -> String {
    let purpose = match purpose {
        Purpose::Serve => String::new(),
        other => format!(" --for {}", other.as_str()),
    };
    format!("token-billing migrate --print-grants {role}{purpose}")
}

/// The worst that there is to say of migrations. Another version's are no reason to stop: while one is being
/// rolled out, both run.
fn migrations(strange: &[StrangeMigration]) -> Option<Finding> {
    use StrangeMigration::{Altered, Newer, Pending, Unfinished, Unknown};
    let worst = [
        |one: &_| matches!(one, Pending(_)),
        |one: &_| matches!(one, Altered(_)),
        |one: &_| matches!(one, Unknown(_) | Newer(_)),
        |one: &_| matches!(one, Unfinished(_)),
    ];
    let is_of = worst.into_iter().find(|kind| strange.iter().any(kind))?;
    let those = strange.iter().filter(|one| is_of(one));
    let numbers: Vec<String> = those.map(ToString::to_string).collect();
    let (severity, what, fix) = match strange.iter().find(|one| is_of(one))? {
        Pending(_) => (Severity::Blocking, "not applied: ", "token-billing migrate"),
        Altered(_) => (
            Severity::Fault,
            "applied with another text than this program has: ",
            "run the version of token-billing that applied them; no migration may be edited once it is applied",
        ),
        Unknown(_) | Newer(_) => (
            Severity::Fault,
            "the database is newer than this program, which doesn't know ",
            "run the version of token-billing that applied them, or a newer one",
        ),
        Unfinished(_) => (
            Severity::Blocking,
            "begun and not finished: ",
            "look at what it left, delete its row from _sqlx_migrations, then: token-billing migrate",
        ),
    };
    let finding = format!("{what}{}", numbers.join(", "));
    Some(Finding::new(severity, "migrations", finding, fix))
}

fn functions(strange: &[StrangeFunction]) -> Option<Finding> {
    if strange.is_empty() {
        return None;
    }
    let finding: Vec<String> = strange.iter().map(ToString::to_string).collect();
    let mut files: Vec<&str> = strange.iter().map(|one| one.function.file).collect();
    files.dedup();
    let fix = format!(
        "token-billing migrate (makes them again as in migrations/functions/: {}.sql)",
        files.join(".sql, ")
    );
    let severity = if strange.iter().any(|one| one.missing) {
        Severity::Blocking
    } else {
        Severity::Fault
    };
    Some(Finding::new(severity, "functions", finding.join("; "), fix))
}
