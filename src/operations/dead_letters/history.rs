//! What people did by hand.

use serde::Serialize;

use super::{PAGE_LIMITS, check_within, names::no_such};
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
    /// [`OperationError::Invalid`] for an action that is none, or a limit beyond [`PAGE_LIMITS`].
    pub async fn history(
        &self,
        filter: &ActionFilter,
        limit: i64,
    ) -> Result<History, OperationError> {
        check_within("limit", limit, &PAGE_LIMITS)?;
        let actions = self.storage.operator_actions(filter, limit).await?;
        // A mistyped action must not answer that nothing was done; one that isn't ours may be recorded all the same.
        let of_its_kind = ActionFilter {
            action: filter.action.clone(),
            ..ActionFilter::default()
        };
        if let Some(action) = &filter.action
            && !ACTIONS.contains(&action.as_str())
            && actions.is_empty()
            && self
                .storage
                .operator_actions(&of_its_kind, 1)
                .await?
                .is_empty()
        {
            let why = no_such("action", action, &ACTIONS.map(str::to_owned));
            return Err(OperationError::invalid("action", why));
        }
        Ok(History { actions })
    }
}
