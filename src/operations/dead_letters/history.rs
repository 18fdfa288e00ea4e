//! What people did by hand.

use serde::Serialize;

use super::names::no_such;
use crate::operations::{OperationError, Operations};
use crate::storage::{ActionFilter, PastAction};

/// What people do by operations.
const ACTIONS: [&str; 6] = ["replay", "edit", "discard", "restore", "credit", "refund"];

/// What people did, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct History {
    /// Each with who, why and which.
    pub actions: Vec<PastAction>,
}

impl Operations {
    /// The last so many actions of this kind.
    ///
    /// # Errors
    ///
    /// [`OperationError::Invalid`] for an action that is none.
    pub async fn history(
        &self,
        filter: &ActionFilter,
        limit: i64,
    ) -> Result<History, OperationError> {
        let actions = self.storage.operator_actions(filter, limit).await?;
        // A mistyped action must not answer that nothing was done; one that isn't ours may be recorded all the same.
        let foreign = filter
            .action
            .as_deref()
            .filter(|action| !ACTIONS.contains(action));
        if let Some(action) = foreign.filter(|_| actions.is_empty()) {
            let of_its_kind = ActionFilter {
                action: filter.action.clone(),
                ..ActionFilter::default()
            };
            if self
                .storage
                .operator_actions(&of_its_kind, 1)
                .await?
                .is_empty()
            {
                let known = ACTIONS.map(str::to_owned);
                return Err(OperationError::invalid(
                    "action",
                    no_such("action", action, &known),
                ));
            }
        }
        Ok(History { actions })
    }
}
