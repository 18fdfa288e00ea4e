//! Dead letters written off, and taken back. What is pending in the ledger is charged all the same.

use serde::Serialize;

use super::count;
use crate::operations::{Actor, OperationError, Operations};
use crate::storage::{Act, ActPlan, Selection, Signed};

/// A discard or a restore: what it would do, and what it has done.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Change {
    /// Which of the two.
    #[serde(rename = "action")]
    pub act: Act,
    /// It is only a plan.
    pub dry_run: bool,
    /// Its number in the history; null: nothing was done.
    pub action_id: Option<i64>,
    /// Dead letters changed.
    pub changed: i64,
    /// What it was going to be.
    #[serde(flatten)]
    pub plan: ActPlan,
    /// What it is done to: none that arrived after the plan.
    #[serde(skip)]
    selection: Selection,
}

impl Operations {
    /// What `act` would do now. What is named by its id and can't be had is told; without ids, it is done to what
    /// is in the right state. `all`: to every one, where nothing else says which.
    ///
    /// # Errors
    ///
    /// [`OperationError::Invalid`] for a selection that can't match, or that is none;
    /// [`OperationError::Conflict`] where nothing can be done to any of the ids.
    pub async fn plan_change(
        &self,
        act: Act,
        selection: &Selection,
        all: bool,
    ) -> Result<Change, OperationError> {
        check_extent(selection, all)?;
        let mut selection = self.meant(selection, &[act.from()], "only_reason").await?;
        let plan = self.storage.plan_act(act, &selection).await?;
        selection.up_to = plan.sums.up_to;
        let change = Change {
            act,
            dry_run: true,
            action_id: None,
            changed: 0,
            plan,
            selection,
        };
        if !change.selection.ids.is_empty() && change.plan.sums.dead_letters == 0 {
            let left_out = change.left_out().join(", ");
            return Err(OperationError::Conflict {
                code: "nothing_to_change",
                why: format!("nothing to {}: {left_out}", act.name()),
            });
        }
        Ok(change)
    }

    /// Does what was planned, as far as it can still be done.
    ///
    /// # Errors
    ///
    /// Where [`Change::changed`] says so, a part is done and recorded: the same again does the rest.
    pub async fn carry_out(
        &self,
        change: &mut Change,
        actor: &Actor,
        reason: Option<&str>,
    ) -> Result<(), OperationError> {
        change.dry_run = false;
        if change.plan.sums.dead_letters == 0 {
            return Ok(());
        }
        let signed = Signed {
            actor: actor.name(),
            reason,
        };
        let (act, selection) = (change.act, &change.selection);
        let changed = &mut change.changed;
        let acted = self
            .storage
            .act(act, selection, signed, |done| *changed = done);
        change.action_id = acted.await?.action_id;
        Ok(())
    }
}

impl Change {
    /// Ids that are nowhere. With filters beside them, nobody can tell these from what was filtered out.
    fn missing(&self) -> i64 {
        let mut ids = self.selection.ids.clone();
        ids.sort_unstable();
        ids.dedup();
        let sums = &self.plan.sums;
        let found = sums.dead_letters + sums.being_replayed + sums.in_other_state;
        (ids.len() as i64 - found).max(0)
    }

    /// What it is not done to, and why, each with how many there are.
    pub fn left_out(&self) -> Vec<String> {
        let sums = &self.plan.sums;
        let not_from = format!("not {}", self.act.from().as_str());
        [
            (sums.being_replayed, "just being replayed"),
            (sums.in_other_state, &not_from),
            (self.missing(), "not there"),
        ]
        .into_iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, why)| {
            let is = if number == 1 { "is" } else { "are" };
            format!("{} {is} {why}", count(number))
        })
        .collect()
    }
}

/// Nothing said must not come to mean everything. As for [`check_window`](super::check_window), before connecting too.
///
/// # Errors
///
/// [`OperationError::Invalid`]: neither the selection nor `all` says which are meant, or both do.
pub fn check_extent(selection: &Selection, all: bool) -> Result<(), OperationError> {
    let why = match (selection.is_unrestricted(), all) {
        (true, false) => "which dead letters? Name ids or filters, or set this for every one",
        (false, true) => "can't be used together with ids or filters",
        _ => return Ok(()),
    };
    Err(OperationError::invalid("all", why))
}
