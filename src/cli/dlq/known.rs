//! Whether what a selection names is there at all: a filter that can't match anything is a typo, and must not
//! answer "nothing to do".

use std::fmt::Write as _;

use super::select::SelectArgs;
use crate::cli::UsageError;
use crate::cli::output::printable;
use crate::domain::Reason;
use crate::storage::{Storage, StorageError};

/// Reasons that the archivist gives where no worker did: what the broker notes, or nobody.
const OTHERS: [&str; 5] = ["delivery_limit", "expired", "maxlen", "rejected", "unknown"];

/// Reasons that are named in an error, at most: anybody may have put any word into the archive.
const MANY: usize = 30;

/// Holds a selection to reasons that are ours or in the archive, to a group that is in the archive, and to a
/// company that the application or the archive knows. `reason_flag` is what the command calls that filter.
///
/// # Errors
///
/// A [`UsageError`] that names the flag, or the database's.
pub(super) async fn check(
    select: &SelectArgs,
    reason_flag: &str,
    storage: &Storage,
) -> anyhow::Result<()> {
    let foreign: Vec<&str> = select.reasons().filter(|reason| !is_ours(reason)).collect();
    let unknown = storage
        .unknown_names(&foreign, select.group(), select.company())
        .await?;
    if let Some(reason) = unknown.reasons.first() {
        let known = known(storage).await?;
        return Err(UsageError(no_such(reason_flag, "reason", reason, &known)).into());
    }
    if let (true, Some(group)) = (unknown.group, select.group()) {
        let problem =
            format!("--group: no dead letter is of group {group}; see token-billing dlq groups");
        return Err(UsageError(problem).into());
    }
    if let (true, Some(company)) = (unknown.company, select.company()) {
        let problem = format!(
            "--company: {company} is not in company_subscriptions, and no dead letter is of it"
        );
        return Err(UsageError(problem).into());
    }
    Ok(())
}

fn is_ours(reason: &str) -> bool {
    ours().any(|known| known == reason)
}

fn ours() -> impl Iterator<Item = &'static str> {
    Reason::ALL.into_iter().map(Reason::as_str).chain(OTHERS)
}

/// Ours, and foreign ones that are in the archive.
async fn known(storage: &Storage) -> Result<Vec<String>, StorageError> {
    let mut known: Vec<String> = ours().map(str::to_owned).collect();
    let archived = storage.dead_letter_reasons(MANY).await?;
    known.extend(archived.into_iter().filter(|reason| !is_ours(reason)));
    known.truncate(MANY);
    Ok(known)
}

/// What to say of a word that is none of `known`, with the nearest of them.
pub(super) fn no_such(flag: &str, what: &str, word: &str, known: &[String]) -> String {
    let mut text = format!("{flag}: there is no {what} {}", printable(word));
    let near = known.iter().map(|known| (distance(word, known), known));
    if let Some((_, near)) = near
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, known)| *distance <= known.chars().count() / 3)
    {
        let _ = write!(text, "; did you mean {}?", printable(near));
    }
    let known: Vec<String> = known.iter().map(|known| printable(known)).collect();
    let _ = write!(text, " (known: {})", known.join(", "));
    text
}

/// Characters to add, drop or change until one word is the other.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (done, from) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], done + 1);
        for (at, to) in other.chars().enumerate() {
            let changed = diagonal + usize::from(from != to);
            diagonal = row[at + 1];
            row[at + 1] = changed.min(diagonal + 1).min(row[at] + 1);
        }
    }
    row[row.len() - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distance_counts_the_keys_to_press() {
        for (one, other, keys) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("abc", "abc", 0),
            ("kitten", "sitting", 3),
            ("insufficent_balance", "insufficient_balance", 1),
        ] {
            assert_eq!(distance(one, other), keys, "{one} {other}");
        }
    }

    #[test]
    fn the_nearest_word_is_suggested_and_a_far_one_is_not() {
        let known = ["malformed".to_owned(), "expired".to_owned()];
        let near = no_such("--reason", "reason", "malfromed", &known);
        assert_eq!(
            near,
            "--reason: there is no reason malfromed; did you mean malformed? (known: malformed, expired)"
        );
        assert!(!no_such("--reason", "reason", "late", &known).contains("did you mean"));
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
