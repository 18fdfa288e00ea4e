//! Whether what a selection names is there at all: a filter that can't match anything is a typo, and must not
//! answer "nothing to do".

use crate::domain::Reason;
use crate::operations::{OperationError, Operations};
use crate::storage::{Selection, StorageError};

/// Reasons that the archivist gives where no worker did: what the broker notes, or nobody.
const OTHERS: [&str; 5] = ["delivery_limit", "expired", "maxlen", "rejected", "unknown"];

/// Reasons that are named in an error, at most: anybody may have put any word into the archive.
const MANY: usize = 30;

impl Operations {
    /// Holds a selection to reasons that are ours or in the archive, to a group that is in the archive, and to a
    /// company that the application or the archive knows.
    pub(super) async fn check_names(
        &self,
        selection: &Selection,
        reason_field: &'static str,
    ) -> Result<(), OperationError> {
        for reason in selection.reasons.iter().filter(|reason| !is_ours(reason)) {
            if self
                .none_has(|one| one.reasons = vec![reason.clone()])
                .await?
            {
                let why = no_such("reason", reason, &self.known_reasons().await?);
                return Err(OperationError::invalid(reason_field, why));
            }
        }
        if let Some(group) = &selection.group
            && self.none_has(|one| one.group = Some(group.clone())).await?
        {
            let why = format!("no dead letter is of group {group}");
            return Err(OperationError::invalid("group", why));
        }
        if let Some(company) = selection.company
            && self.none_has(|one| one.company = Some(company)).await?
            && self.storage.balances(&[company]).await?.is_empty()
        {
            let why =
                format!("{company} is not in company_subscriptions, and no dead letter is of it");
            return Err(OperationError::invalid("company", why));
        }
        Ok(())
    }

    async fn none_has(&self, this: impl FnOnce(&mut Selection)) -> Result<bool, StorageError> {
        let mut selection = Selection::default();
        this(&mut selection);
        let found = self.storage.dead_letters(&selection, None, 1).await?;
        Ok(found.is_empty())
    }

    /// Ours, and foreign ones that are in the archive.
    async fn known_reasons(&self) -> Result<Vec<String>, StorageError> {
        let mut known: Vec<String> = ours().map(str::to_owned).collect();
        let archived = self.storage.dead_letter_reasons(MANY).await?;
        known.extend(archived.into_iter().filter(|reason| !is_ours(reason)));
        known.truncate(MANY);
        Ok(known)
    }
}

fn is_ours(reason: &str) -> bool {
    ours().any(|known| known == reason)
}

fn ours() -> impl Iterator<Item = &'static str> {
    Reason::ALL.into_iter().map(Reason::as_str).chain(OTHERS)
}

/// What to say of a word that is none of `known`, with the nearest of them.
pub(super) fn no_such(what: &str, word: &str, known: &[String]) -> String {
    let near = known
        .iter()
        .map(|known| (strsim::levenshtein(word, known), known));
    let near = near
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, known)| *distance <= known.chars().count() / 3)
        .map(|(_, near)| format!("; did you mean {near}?"));
    let near = near.unwrap_or_default();
    format!(
        "there is no {what} {word}{near} (known: {})",
        known.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_suggested_and_a_far_one_is_not() {
        let known = ["malformed".to_owned(), "expired".to_owned()];
        let near = no_such("reason", "malfromed", &known);
        assert_eq!(
            near,
            "there is no reason malfromed; did you mean malformed? (known: malformed, expired)"
        );
        assert!(!no_such("reason", "late", &known).contains("did you mean"));
    }

    #[test]
    fn every_reason_of_ours_is_known() {
        assert_eq!(Reason::ALL.len(), Reason::RejectedByDatabase as usize + 1);
        for (at, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at);
            assert!(is_ours(reason.as_str()));
        }
    }
}
