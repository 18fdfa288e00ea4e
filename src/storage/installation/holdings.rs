//! What we have in a database, and that nobody else has a right on it who wasn't granted one.
//!
//! `alter default privileges … grant all on functions to anon` (many hosted databases have such lines) gives a
//! stranger every function that is created after it: to credit himself, say. So `migrate` takes such rights away
//! in the transaction that creates the object. What a person grants later stays.

use std::fmt;

use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection};

use super::functions::signatures;

/// Tables, views and sequences of ours.
pub const RELATIONS: [&str; 20] = [
    "_sqlx_migrations",
    "api_keys",
    "dead_letter_actions",
    "dead_letter_arrival_seq",
    "dead_letters",
    "dead_letters_id_seq",
    "dead_letters_with_charges",
    "operator_actions",
    "operator_actions_id_seq",
    "token_billing_locks",
    "token_billing_trial_ends",
    "token_billing_trials",
    "token_billing_version",
    "token_credits",
    "token_deduction_attempts",
    "token_deduction_attempts_id_seq",
    "token_deduction_records",
    "token_holds",
    "token_ledger_seq",
    "token_usage_logs",
];
/// The application's tables; ours where it had none.
const APPLICATIONS: [&str; 3] = ["article_jobs", "articles", "company_subscriptions"];

/// What others may do to these objects, as a REVOKE has it: they are new, so it can only come from the server's defaults.
const RIGHTS_OF_OTHERS: &str = include_str!("holdings.sql");

/// Rights that were taken away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Revoked {
    /// `execute`, or several: `insert, update`.
    pub privileges: String,
    /// `table` (views too), `sequence` or `function`.
    pub kind: String,
    /// Which, a function with the types of its arguments.
    pub object: String,
    /// Who had them, as it stands in SQL; `public` is everybody.
    pub role: String,
}

impl fmt::Display for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            privileges,
            kind,
            object,
            role,
        } = self;
        write!(f, "{privileges} on {kind} {object} from {role}")
    }
}

/// The names of what there was before a migration.
pub(in crate::storage) struct Holdings(Vec<&'static str>);

impl Holdings {
    /// What is there now.
    pub(in crate::storage) async fn read(connection: &mut PgConnection) -> sqlx::Result<Self> {
        let names = everything();
        let there: Vec<bool> = sqlx::query_scalar(
            "select case when u.name like '%(%' then to_regprocedure(u.name) is not null
                         else to_regclass(u.name) is not null end
             from unnest($1::text[]) with ordinality u (name, place) order by u.place",
        )
        .bind(&names)
        .fetch_all(connection)
        .await?;
        let there = names.into_iter().zip(there);
        Ok(Self(
            there
                .filter_map(|(name, there)| there.then_some(name))
                .collect(),
        ))
    }

    /// Takes from everybody but the owner all rights on what has come since. Returns what was taken.
    pub(in crate::storage) async fn take_rights(
        self,
        connection: &mut PgConnection,
    ) -> sqlx::Result<Vec<Revoked>> {
        let mut new = everything();
        new.retain(|name| !self.0.contains(name));
        let strange: Vec<Revoked> = sqlx::query_as(RIGHTS_OF_OTHERS)
            .bind(new)
            .fetch_all(&mut *connection)
            .await?;
        for right in &strange {
            sqlx::raw_sql(AssertSqlSafe(format!("revoke {right} cascade")))
                .execute(&mut *connection)
                .await?;
        }
        // Everybody may call a new function until it is said otherwise: that is no news.
        let news = |right: &Revoked| right.kind != "function" || right.role != "public";
        Ok(strange.into_iter().filter(news).collect())
    }
}

fn everything() -> Vec<&'static str> {
    let relations = RELATIONS.iter().chain(&APPLICATIONS).copied();
    relations.chain(signatures()).collect()
}
