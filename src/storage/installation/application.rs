//! The application's three tables, as far as our functions read and write them.

use super::{Finding, Inspection, Look, Severity, grants::quoted};
use crate::storage::StorageError;

const CHECK: &str = "application_tables";

/// What a column is used as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Id,
    Tokens,
    Instant,
    /// At least so many characters.
    Text(i32),
}

/// A column that our functions use.
#[derive(Debug)]
struct Column {
    table: &'static str,
    name: &'static str,
    kind: Kind,
    /// Without it nothing can be charged.
    vital: bool,
    /// One row each.
    unique: bool,
}

impl Kind {
    fn sql_type(self) -> &'static str {
        match self {
            Self::Id => "uuid",
            Self::Tokens => "bigint",
            Self::Instant => "timestamptz",
            Self::Text(_) => "text",
        }
    }
}

impl Column {
    /// How bad it is to be without it.
    fn without(&self) -> Severity {
        if self.vital {
            Severity::Blocking
        } else {
            Severity::Fault
        }
    }
}

const fn column(table: &'static str, name: &'static str, kind: Kind, vital: bool) -> Column {
    Column {
        table,
        name,
        kind,
        vital,
        unique: false,
    }
}

const fn unique(table: &'static str, name: &'static str, vital: bool) -> Column {
    Column {
        unique: true,
        ..column(table, name, Kind::Id, vital)
    }
}

const COMPANIES: &str = "company_subscriptions";
const JOBS: &str = "article_jobs";
const ARTICLES: &str = "articles";
/// What a job's status may become.
const STATUSES: [&str; 3] = ["completed", "failed", "pending_token_deduction"];

/// A job that can't be told is counted and logged, and charged all the same: of jobs only what a charge reads
/// is vital.
const COLUMNS: [Column; 13] = [
    unique(COMPANIES, "company_id", true),
    column(COMPANIES, "monthly_token_quota", Kind::Tokens, false),
    column(COMPANIES, "monthly_quota_balance", Kind::Tokens, true),
    column(COMPANIES, "purchased_token_balance", Kind::Tokens, true),
    column(COMPANIES, "current_period_end", Kind::Instant, true),
    column(COMPANIES, "updated_at", Kind::Instant, true),
    unique(JOBS, "id", true),
    column(JOBS, "company_id", Kind::Id, true),
    column(JOBS, "article_id", Kind::Id, true),
    column(JOBS, "status", Kind::Text(23), false),
    // The longest of our own messages.
    column(JOBS, "error_message", Kind::Text(200), false),
    column(JOBS, "updated_at", Kind::Instant, false),
    unique(ARTICLES, "id", false),
];

/// What the catalog says of one.
#[derive(Debug, sqlx::FromRow)]
struct Found {
    /// `r`, `v`, …; `None`: no such table.
    relation: Option<String>,
    /// Of the column, a domain's being its base type; `None`: no such column.
    type_name: Option<String>,
    /// `pg_type.typcategory`.
    category: Option<String>,
    length: Option<i32>,
    labels: Option<Vec<String>>,
    nullable: bool,
    is_unique: bool,
    may_read: bool,
    /// Values of a job's status that a CHECK doesn't list.
    unlisted: Option<Vec<String>>,
    /// Rights on the table that the owner of our functions lacks.
    owner_lacks: Vec<String>,
    functions_owner: Option<String>,
}

/// $1 tables, $2 columns, $3 the statuses; in order.
const FIND: &str = include_str!("application.sql");

impl Inspection {
    pub(super) async fn application_tables(
        &mut self,
        look: Look,
    ) -> Result<Vec<Finding>, StorageError> {
        let tables = COLUMNS.each_ref().map(|column| column.table);
        let names = COLUMNS.each_ref().map(|column| column.name);
        let found: Vec<Found> = self
            .ask(async |connection| {
                sqlx::query_as(FIND)
                    .bind(&tables[..])
                    .bind(&names[..])
                    .bind(&STATUSES[..])
                    .fetch_all(connection)
                    .await
            })
            .await?;
        let mut findings = Vec::new();
        let mut last = "";
        for (column, found) in COLUMNS.iter().zip(&found) {
            if column.table == ARTICLES && !look.articles {
                continue;
            }
            let is_first = std::mem::replace(&mut last, column.table) != column.table;
            match &found.relation {
                Some(kind) if matches!(kind.as_str(), "r" | "p") => {}
                kind if is_first => findings.push(no_table(column, kind.as_deref())),
                _ => continue,
            }
            if is_first {
                findings.extend(owner_rights(column, found));
            }
            findings.extend(judge(column, found));
        }
        if look.rows {
            findings.extend(self.rows(&found).await);
        }
        Ok(findings)
    }

    /// NULL balances, and companies with more than one row. What can't be counted is said.
    async fn rows(&mut self, found: &[Found]) -> Vec<Finding> {
        let of = |name: &'static str| COLUMNS.iter().position(|column| column.name == name);
        let readable = |name: &'static str| {
            of(name)
                .and_then(|at| found.get(at))
                .filter(|one| one.may_read)
        };
        let (Some(id), Some(monthly), Some(purchased)) = (
            readable("company_id"),
            readable("monthly_quota_balance"),
            readable("purchased_token_balance"),
        ) else {
            return Vec::new();
        };
        let mut findings = Vec::new();
        for (wanted, sql, what, fix) in [
            (
                monthly.nullable || purchased.nullable,
                "select count(*) from company_subscriptions
                 where monthly_quota_balance is null or purchased_token_balance is null",
                "companies with a balance that is NULL, which counts as 0",
                "update company_subscriptions set monthly_quota_balance = coalesce(monthly_quota_balance, 0), \
                 purchased_token_balance = coalesce(purchased_token_balance, 0) where monthly_quota_balance is null \
                 or purchased_token_balance is null; alter table company_subscriptions \
                 alter monthly_quota_balance set not null, alter purchased_token_balance set not null",
            ),
            (
                !id.is_unique,
                "select count(*) from (select from company_subscriptions group by company_id having count(*) > 1) d",
                "companies with more than one row: they can't be charged or credited",
                "decide which row of each is right, and delete the others: select company_id from \
                 company_subscriptions group by 1 having count(*) > 1",
            ),
        ] {
            if !wanted {
                continue;
            }
            let counted: Result<i64, StorageError> = self
                .ask(async |connection| sqlx::query_scalar(sql).fetch_one(connection).await)
                .await;
            let finding = match counted {
                Ok(0) => continue,
                Ok(count) => Finding::new(Severity::Fault, CHECK, format!("{count} {what}"), fix),
                Err(error) => Finding {
                    fix: None,
                    ..Finding::new(
                        Severity::Note,
                        CHECK,
                        format!("not counted: {what}: {error}"),
                        "",
                    )
                },
            };
            findings.push(finding.of(COMPANIES));
        }
        findings
    }
}

fn no_table(column: &Column, kind: Option<&str>) -> Finding {
    let finding = match kind {
        None => "there is no such table",
        Some("v" | "m") => "is a view: rows can't be locked and found again in it",
        Some(_) => "is not a table of this database",
    };
    let fix = "make it a table, as migrations/0001_application_tables.sql does";
    Finding::new(column.without(), CHECK, finding, fix).of(column.table)
}

fn owner_rights(column: &Column, found: &Found) -> Option<Finding> {
    let owner = found.functions_owner.as_deref()?;
    if found.owner_lacks.is_empty() {
        return None;
    }
    let lacks = found.owner_lacks.join(", ");
    let severity = if column.table == COMPANIES {
        Severity::Blocking
    } else {
        Severity::Fault
    };
    let finding = format!("{owner}, as whom the functions run, lacks {lacks}");
    let fix = format!("grant {lacks} on {} to {}", column.table, quoted(owner));
    Some(Finding::new(severity, CHECK, finding, fix).of(column.table))
}

fn judge(column: &Column, found: &Found) -> Vec<Finding> {
    let (table, name) = (column.table, column.name);
    let say = |severity, (finding, fix): (String, String)| {
        Finding::new(severity, CHECK, finding, fix).of(format!("{table}.{name}"))
    };
    let Some(type_name) = found.type_name.as_deref() else {
        let default = match column.kind {
            Kind::Tokens => " not null default 0",
            Kind::Instant if name == "updated_at" => " not null default now()",
            _ => "",
        };
        let sql_type = column.kind.sql_type();
        let fix = format!("alter table {table} add column {name} {sql_type}{default}");
        let finding = "there is no such column".to_owned();
        return vec![say(column.without(), (finding, fix))];
    };
    let mut findings = Vec::new();
    findings
        .extend(wrong_type(column, found, type_name).map(|(severity, said)| say(severity, said)));
    if name == "status" {
        findings.extend(statuses(found, type_name).map(|said| say(Severity::Fault, said)));
    }
    if column.unique && !found.is_unique {
        let finding =
            "has no unique index: a row could be there twice, and each look reads the whole table";
        let fix = format!("create unique index concurrently on {table} ({name})");
        findings.push(say(Severity::Fault, (finding.to_owned(), fix)));
    }
    findings
}

/// What is wrong with a column's type: how bad, what, and the fix.
fn wrong_type(
    column: &Column,
    found: &Found,
    type_name: &str,
) -> Option<(Severity, (String, String))> {
    let (table, name, sql_type) = (column.table, column.name, column.kind.sql_type());
    let is_of = |category| found.category.as_deref() == Some(category);
    let (severity, why) = match (column.kind, type_name) {
        (Kind::Id, "uuid")
        | (Kind::Tokens, "bigint")
        | (Kind::Instant, "timestamp with time zone") => return None,
        (Kind::Id, _) if table == ARTICLES => {
            let why = "whether an article exists can't be told: stale charges stay pending";
            let finding = format!("is {type_name}, not uuid: {why}");
            let fix = "set sweeper.article_exists_query to a query of your own";
            return Some((Severity::Fault, (finding, fix.to_owned())));
        }
        (Kind::Tokens, "integer" | "smallint" | "numeric") => (
            Severity::Fault,
            "large or fractional balances don't fit".to_owned(),
        ),
        (Kind::Instant, "timestamp without time zone" | "date") => {
            let why = "which instant it means depends on the session's time zone";
            (Severity::Fault, why.to_owned())
        }
        (Kind::Text(least), _) if is_of("S") => {
            let length = found.length.filter(|&length| length < least)?;
            let why =
                format!("{length} characters are too few, and such updates of the job are refused");
            (Severity::Fault, why)
        }
        (Kind::Text(_), _) if name == "status" && is_of("E") => return None,
        _ => (column.without(), "it can't be used".to_owned()),
    };
    let finding = format!("is {type_name}, not {sql_type}: {why}");
    let fix = format!("alter table {table} alter column {name} type {sql_type}");
    Some((severity, (finding, fix)))
}

/// Values that a job's status can't take.
fn statuses(found: &Found, type_name: &str) -> Option<(String, String)> {
    let (lacking, fix): (Vec<String>, _) = match (&found.labels, &found.unlisted) {
        (Some(labels), _) => {
            let lacking = STATUSES
                .iter()
                .filter(|one| !labels.iter().any(|label| label == *one));
            let lacking: Vec<String> = lacking.map(ToString::to_string).collect();
            let add = |status: &String| format!("alter type {type_name} add value '{status}'");
            let fix = lacking.iter().map(add).collect::<Vec<_>>().join("; ");
            (lacking, fix)
        }
        (None, Some(unlisted)) => {
            let fix = "add them to the CHECK constraint on article_jobs.status".to_owned();
            (unlisted.clone(), fix)
        }
        (None, None) => return None,
    };
    (!lacking.is_empty()).then(|| {
        let finding = format!(
            "can't become {}: such updates of the job are refused, its charge stands",
            lacking.join(", ")
        );
        (finding, fix)
    })
}
