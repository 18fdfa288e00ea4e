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

pub use change::Change;
pub(super) use change::check_extent;
pub use edit::{Draft, EditReport, Revision};
pub use history::History;
pub use list::{DeadLetterGroups, DeadLetterPage};
pub use show::DeadLetterStory;
pub use stats::{Stats, Thresholds};
pub(super) use watch::Listener;
pub use watch::{Arrivals, News};

use super::{OperationError, Operations};
use crate::storage::{DeadLetterState, Selection};

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
        let (since, until) = (selection.since, selection.until);
        if since
            .zip(until)
            .is_some_and(|(since, until)| since >= until)
        {
            let why = "is not before until, so nothing can match";
            return Err(OperationError::invalid("since", why));
        }
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
