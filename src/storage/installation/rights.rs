//! Whether the role that is connected has the rights it needs, and no more.

use std::fmt;

use super::{
    Inspection, Object, Purpose,
    functions::{signature, signatures},
    grants,
};
use crate::storage::StorageError;

/// Tables that nobody but the functions writes, except where a grant says so.
pub(super) const GUARDED: [&str; 15] = [
    "company_subscriptions",
    "token_deduction_records",
    "token_usage_logs",
    "token_credits",
    "token_holds",
    "token_deduction_attempts",
    "token_billing_locks",
    "token_billing_version",
    "token_billing_trial_ends",
    "token_billing_trials",
    "operator_actions",
    "dead_letters",
    "dead_letter_actions",
    "api_keys",
    "_sqlx_migrations",
];
/// The application's, whose rows we may not know who changes. But a trigger on them would run with our rights.
pub(super) const APPLICATIONS: [&str; 2] = ["article_jobs", "articles"];
/// Who moves them breaks the order of the ledger.
pub(super) const SEQUENCES: [&str; 2] = ["token_ledger_seq", "dead_letter_arrival_seq"];

/// A right that the role has and shouldn't.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Excess {
    /// It may do anything: `superuser`, or may make itself so.
    Attribute(&'static str),
    /// It owns these, or may become the role that does.
    Owns(Vec<String>),
    Right(String),
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attribute(attribute) => write!(f, "it is {attribute}"),
            Self::Owns(names) => write!(f, "it owns {}", names.join(", ")),
            Self::Right(right) => f.write_str(right),
        }
    }
}

impl Inspection {
    /// `usage on schema …` for each schema that has our tables and may not be used: what is in it can't be
    /// seen, as if it were not there.
    pub async fn hidden_schemas(&mut self) -> Result<Vec<String>, StorageError> {
        self.ask(async |connection| {
            sqlx::query_scalar(
                "select distinct 'usage on schema ' || n.nspname
                 from pg_class c join pg_namespace n on n.oid = c.relnamespace
                 where c.relname = 'token_deduction_records' and not has_schema_privilege(n.oid, 'usage')
                   and to_regclass('token_deduction_records') is null",
            )
            .fetch_all(connection)
            .await
        })
        .await
    }

    /// The rights that are missing for this, each as it would be granted.
    pub async fn missing_rights(&mut self, purpose: Purpose) -> Result<Vec<String>, StorageError> {
        let hidden = self.hidden_schemas().await?;
        if !hidden.is_empty() {
            return Ok(hidden);
        }
        let (mut privileges, mut objects, mut columns) = (Vec::new(), Vec::new(), Vec::new());
        let mut of = Vec::new();
        for grant in grants(purpose) {
            let (object, wanted) = match grant.object {
                Object::Function(name) => (signature(name), &[][..]),
                Object::Table(name, columns) => (name, columns),
            };
            let all = wanted.is_empty().then_some(None);
            for column in all.into_iter().chain(wanted.iter().copied().map(Some)) {
                privileges.push(grant.privilege);
                objects.push(object);
                columns.push(column);
                of.push(grant);
            }
        }
        let has: Vec<bool> = self
            .ask(async |connection| {
                sqlx::query_scalar(
                    "select coalesce(case
                         when n.privilege = 'execute' then has_function_privilege(to_regprocedure(n.object), n.privilege)
                         when n.col is null then has_table_privilege(to_regclass(n.object), n.privilege)
                         else (select has_column_privilege(a.attrelid, a.attnum, n.privilege) from pg_attribute a
                               where a.attrelid = to_regclass(n.object) and a.attname = n.col and not a.attisdropped)
                     end, false)
                     from unnest($1::text[], $2::text[], $3::text[]) with ordinality n (privilege, object, col, place)
                     order by n.place",
                )
                .bind(&privileges)
                .bind(&objects)
                .bind(&columns)
                .fetch_all(connection)
                .await
            })
            .await?;
        let missing = of.into_iter().zip(has).filter(|(_, has)| !has);
        let mut missing: Vec<String> = missing.map(|(grant, _)| grant.to_string()).collect();
        missing.dedup();
        Ok(missing)
    }

    /// What the role may do beyond that: to balances and the ledger, or by making itself somebody else. What it may
    /// read is not asked.
    pub async fn excessive_rights(
        &mut self,
        purpose: Purpose,
    ) -> Result<Vec<Excess>, StorageError> {
        let (superuser, creates_roles): (bool, bool) = self
            .ask(async |connection| {
                sqlx::query_as(
                    "select rolsuper, rolcreaterole from pg_roles where rolname = current_user",
                )
                .fetch_one(connection)
                .await
            })
            .await?;
        if superuser {
            return Ok(vec![Excess::Attribute("a superuser")]);
        }
        let mut excess = Vec::new();
        if creates_roles {
            excess.push(Excess::Attribute("allowed to create roles"));
        }
        let owned = self.owned().await?;
        if !owned.is_empty() {
            excess.push(Excess::Owns(owned));
            return Ok(excess);
        }
        for (privilege, table, column) in self.writes().await? {
            let allowed = grants(purpose).any(|grant| {
                grant.privilege == privilege
                    && matches!(grant.object, Object::Table(name, columns) if name == table
                        && (columns.is_empty() || column.as_deref().is_some_and(|one| columns.contains(&one))))
            });
            let right = Excess::Right(format!("{privilege} on {table}"));
            if !allowed && !excess.contains(&right) {
                excess.push(right);
            }
        }
        excess.extend(self.calls(purpose).await?);
        Ok(excess)
    }

    /// Relations of ours that it owns, itself or by way of another role.
    async fn owned(&mut self) -> Result<Vec<String>, StorageError> {
        let names = [&GUARDED[..], &APPLICATIONS, &SEQUENCES].concat();
        self.ask(async |connection| {
            sqlx::query_scalar(
                "select c.relname::text from unnest($1::text[]) with ordinality u (name, place)
                 join pg_class c on c.oid = to_regclass(u.name)
                 where pg_has_role(c.relowner, 'member') order by u.place",
            )
            .bind(&names)
            .fetch_all(connection)
            .await
        })
        .await
    }

    /// Every way to write past the functions: privilege, table or sequence, and column.
    async fn writes(&mut self) -> Result<Vec<(String, String, Option<String>)>, StorageError> {
        self.ask(async |connection| {
            sqlx::query_as(include_str!("writes.sql"))
                .bind(GUARDED.as_slice())
                .bind(APPLICATIONS.as_slice())
                .bind(SEQUENCES.as_slice())
                .fetch_all(connection)
                .await
        })
        .await
    }

    async fn calls(&mut self, purpose: Purpose) -> Result<Vec<Excess>, StorageError> {
        let callable: Vec<String> = self
            .ask(async |connection| {
                sqlx::query_scalar(
                    "select u.signature from unnest($1::text[]) with ordinality u (signature, place)
                     where has_function_privilege(to_regprocedure(u.signature), 'execute') order by u.place",
                )
                .bind(signatures())
                .fetch_all(connection)
                .await
            })
            .await?;
        let granted = |callable: &String| {
            grants(purpose).any(
                |grant| matches!(grant.object, Object::Function(name) if signature(name) == callable),
            )
        };
        let beyond = callable.into_iter().filter(|signature| !granted(signature));
        Ok(beyond
            .map(|signature| Excess::Right(format!("execute on function {signature}")))
            .collect())
    }
}
