//! Whether the triggers are there that keep rows of the ledger from being removed or rewritten.

use super::Inspection;
use crate::storage::StorageError;

/// Table and trigger.
const GUARDS: [(&str, &str); 20] = [
    ("dead_letter_actions", "no_delete"),
    ("dead_letter_actions", "no_truncate"),
    ("dead_letter_actions", "no_update"),
    ("dead_letters", "no_delete"),
    ("dead_letters", "no_truncate"),
    ("operator_actions", "no_delete"),
    ("operator_actions", "no_truncate"),
    ("operator_actions", "no_update"),
    ("token_billing_locks", "no_delete"),
    ("token_billing_locks", "no_truncate"),
    ("token_credits", "no_delete"),
    ("token_credits", "no_truncate"),
    ("token_deduction_attempts", "no_delete"),
    ("token_deduction_attempts", "no_truncate"),
    ("token_deduction_records", "keep_attempt_inserted"),
    ("token_deduction_records", "keep_attempt_updated"),
    ("token_deduction_records", "no_delete"),
    ("token_deduction_records", "no_truncate"),
    ("token_usage_logs", "no_delete"),
    ("token_usage_logs", "no_truncate"),
];

/// A guard that guards nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingGuard {
    /// The table that it should guard.
    pub table: &'static str,
    /// Its name.
    pub trigger: &'static str,
    /// It is there, and turned off.
    pub disabled: bool,
}

impl Inspection {
    /// The guards that are gone or turned off.
    pub async fn missing_guards(&mut self) -> Result<Vec<MissingGuard>, StorageError> {
        let (tables, triggers): (Vec<&str>, Vec<&str>) = GUARDS.into_iter().unzip();
        let enabled: Vec<Option<bool>> = self
            .ask(async |connection| {
                sqlx::query_scalar(
                    "select t.tgenabled in ('O', 'A')
                     from unnest($1::text[], $2::text[]) with ordinality u (relation, name, place)
                     left join pg_trigger t on t.tgrelid = to_regclass(u.relation) and t.tgname = u.name
                     order by u.place",
                )
                .bind(&tables)
                .bind(&triggers)
                .fetch_all(connection)
                .await
            })
            .await?;
        let missing = GUARDS.into_iter().zip(enabled);
        Ok(missing
            .filter(|(_, enabled)| *enabled != Some(true))
            .map(|((table, trigger), enabled)| MissingGuard {
                table,
                trigger,
                disabled: enabled.is_some(),
            })
            .collect())
    }
}
