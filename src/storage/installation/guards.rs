//! Whether the triggers are there that keep rows of the ledger from being removed or rewritten.

use super::{
    Finding, Inspection, Severity,
    functions::{TRIGGERS, Trigger, enabled_triggers},
};
use crate::storage::StorageError;

impl Inspection {
    /// The guards that are gone or turned off.
    pub(super) async fn guards(&mut self) -> Result<Vec<Finding>, StorageError> {
        let enabled = self.ask(enabled_triggers).await?;
        let finding = |(trigger, enabled): (&Trigger, Option<bool>)| {
            let Trigger { name, table, file } = trigger;
            let (finding, fix) = match enabled {
                Some(true) => return None,
                Some(false) => (
                    format!("trigger {name} is turned off: rows can be removed or rewritten"),
                    format!("alter table {table} enable trigger {name}"),
                ),
                None => (
                    format!("trigger {name} is gone: rows can be removed or rewritten"),
                    format!(
                        "token-billing migrate (makes it again from migrations/functions/{file}.sql)"
                    ),
                ),
            };
            Some(Finding::new(Severity::Fault, "guards", finding, fix).of(*table))
        };
        Ok(TRIGGERS.iter().zip(enabled).filter_map(finding).collect())
    }
}
