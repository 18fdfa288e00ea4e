//! Dead letters, a page at a time, and by their cause.

use serde::Serialize;

use super::{PAGE_LIMITS, check_within};
use crate::operations::{OperationError, Operations};
use crate::storage::{DeadLetter, DeadLetterGroup, DeadLetterState, Selection};

/// Some of the dead letters that were asked for, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct DeadLetterPage {
    pub dead_letters: Vec<DeadLetter>,
    /// How many more there are, older than these.
    pub more: i64,
    /// Where the next page begins, if there are more.
    pub next_before: Option<i64>,
    /// The states that were looked for; empty: any.
    #[serde(skip)]
    pub states: Vec<DeadLetterState>,
}

/// Dead letters by their cause, the largest group first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct DeadLetterGroups {
    pub groups: Vec<DeadLetterGroup>,
    /// How many more groups there are, smaller than these.
    pub more: i64,
}

impl Operations {
    /// One page: open ones, or whatever is selected. `before` is [`DeadLetterPage::next_before`] of the last one.
    ///
    /// # Errors
    ///
    /// [`OperationError::Invalid`] for a selection that can't match, or a limit beyond [`PAGE_LIMITS`].
    pub async fn list_dead_letters(
        &self,
        selection: &Selection,
        before: Option<i64>,
        limit: i64,
    ) -> Result<DeadLetterPage, OperationError> {
        check_within("limit", limit, &PAGE_LIMITS)?;
        let selection = self
            .meant(selection, &[DeadLetterState::Open], "reason")
            .await?;
        let dead_letters = self.storage.dead_letters(&selection, before, limit).await?;
        let last = dead_letters.last().map(|dead_letter| dead_letter.id);
        let more = match last.filter(|_| dead_letters.len() as i64 == limit) {
            None => 0,
            Some(last) => {
                let mut older = selection.clone();
                older.up_to = Some(last - 1);
                self.storage.count_dead_letters(&older).await?
            }
        };
        Ok(DeadLetterPage {
            dead_letters,
            more,
            next_before: last.filter(|_| more > 0),
            states: selection.states,
        })
    }

    /// By cause: the open ones, or whatever is selected.
    ///
    /// # Errors
    ///
    /// [`OperationError::Invalid`] for a selection that can't match, or a limit beyond [`PAGE_LIMITS`].
    pub async fn group_dead_letters(
        &self,
        selection: &Selection,
        limit: i64,
    ) -> Result<DeadLetterGroups, OperationError> {
        check_within("limit", limit, &PAGE_LIMITS)?;
        let selection = self
            .meant(selection, &[DeadLetterState::Open], "reason")
            .await?;
        let groups = self.storage.dead_letter_groups(&selection, limit).await?;
        let all = groups.first().map_or(0, |group| group.of_groups);
        let more = all - groups.len() as i64;
        Ok(DeadLetterGroups { groups, more })
    }
}
