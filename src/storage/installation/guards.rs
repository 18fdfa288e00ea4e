//! Whether the triggers are there that keep rows of the ledger from being removed or rewritten.

use super::{Finding, Inspection, Severity};
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

impl Inspection {
    /// The guards that are gone or turned off.
    pub(super) async fn guards(&mut self) -> Result<Vec<Finding>, StorageError> {
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
        let finding = |((table, trigger), enabled): ((&str, &str), Option<bool>)| {
            let (finding, fix) = match enabled {
                Some(true) => return None,
                Some(false) => (
                    format!("trigger {trigger} is turned off: rows can be removed or rewritten"),
                    format!("alter table {table} enable trigger {trigger}"),
                ),
                None => (
                    format!("trigger {trigger} is gone: rows can be removed or rewritten"),
                    format!(
                        "make it again as in the last of migrations/*.sql that has it: grep '{trigger}' migrations/*"
                    ),
                ),
            };
            Some(Finding::new(Severity::Fault, "guards", finding, fix).of(table))
        };
        let guards = GUARDS.into_iter().zip(enabled);
        Ok(guards.filter_map(finding).collect())
    }
}
