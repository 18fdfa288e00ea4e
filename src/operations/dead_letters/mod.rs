//! Dead letters: looking at them, and what can be done to them without sending anything. Sending them again is
//! [`replay`](super::replay).

mod change;
mod edit;
mod history;
mod list;
mod names;
mod show;
mod stats;
mod watch;

pub use change::{Change, check_extent};
pub use edit::{Draft, EditReport, Revision};
pub use history::History;
pub use list::{DeadLetterGroups, DeadLetterPage};
pub use show::DeadLetterStory;
pub use stats::{Stats, Thresholds};
pub(super) use watch::Listener;
pub use watch::{Arrivals, MISSED, News};

use std::ops::RangeInclusive;

use super::{OperationError, Operations};
use crate::storage::{DeadLetterState, Selection};

/// How many dead letters, groups or actions are told at once.
pub const PAGE_LIMITS: RangeInclusive<i64> = 1..=10_000;
/// How many that arrived before a watch are told first.
pub const TAIL_LIMITS: RangeInclusive<i64> = 0..=10_000;

fn check_within(
    field: &'static str,
    number: i64,
    limits: &RangeInclusive<i64>,
) -> Result<(), OperationError> {
    if limits.contains(&number) {
        return Ok(());
    }
    let why = format!("{number} is not in {}..={}", limits.start(), limits.end());
    Err(OperationError::invalid(field, why))
}

/// Whether a selection can match anything at all. Every operation asks it; a caller may ask before it connects.
///
/// # Errors
///
/// [`OperationError::Invalid`].
pub fn check_window(selection: &Selection) -> Result<(), OperationError> {
    match (selection.since, selection.until) {
        (Some(since), Some(until)) if since >= until => {
            let why = "is not before until, so nothing can match";
            Err(OperationError::invalid("since", why))
        }
        _ => Ok(()),
    }
}

impl Operations {
    /// The dead letters that are meant: where neither a state nor an id says which, those in the `usual` states;
    /// what is named by its id is meant in any. Before anybody looks at them, what the ledger has charged
    /// meanwhile is marked as resolved.
    ///
    /// `reason_field` is what the caller calls [`Selection::reasons`]: where it has a reason of its own, why it is
    /// done, that of the dead letters has another name.
    ///
    /// # Errors
    ///
    /// [`OperationError::Invalid`]: nothing can match, or a name is a typo.
    pub(super) async fn meant(
        &self,
        selection: &Selection,
        usual: &[DeadLetterState],
        reason_field: &'static str,
    ) -> Result<Selection, OperationError> {
        check_window(selection)?;
        self.resolve_charged().await;
        self.check_names(selection, reason_field).await?;
        let mut meant = selection.clone();
        if meant.states.is_empty() && meant.ids.is_empty() {
            meant.states = usual.to_vec();
        }
        Ok(meant)
    }
}

/// `1 dead letter`, `2 dead letters`.
fn count(number: i64) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} dead letter{plural}")
}
