//! Parked dead letters: open ones of a company that failed for want of tokens, and what its balance now pays for.

use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use super::{Forecast, ReplayOrder, ReplayPlan, RunningReplay};
use crate::{
    domain::Reason,
    operations::{Actor, OperationError, Operations},
    storage::{DeadLetterState, Selection},
};

/// As of now, by the ledger.
#[derive(Debug, Default, Serialize)]
pub struct Parked {
    /// Open ones of this company with the reason `insufficient_balance`.
    pub parked_dead_letters: u64,
    /// Of these: what the balance suffices for, oldest first.
    pub parked_payable: u64,
    /// The tokens of those.
    pub parked_payable_tokens: i64,
    /// Of these: not tried, since the company is busy or they are too many.
    #[serde(skip)]
    pub not_computed: u64,
    #[serde(skip)]
    company: Uuid,
    #[serde(skip)]
    payable: Vec<i64>,
}

impl Operations {
    /// What of a company's parked dead letters its balance now pays for.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn parked(&self, company: Uuid) -> Result<Parked, OperationError> {
        self.resolve_charged().await;
        let selection = Selection {
            company: Some(company),
            reasons: vec![Reason::InsufficientBalance.as_str().to_owned()],
            states: vec![DeadLetterState::Open],
            ..Selection::default()
        };
        let ReplayPlan { total, payable, .. } = self.forecast(selection).await?;
        Ok(Parked {
            parked_dead_letters: total.dead_letters,
            parked_payable: total.charged,
            parked_payable_tokens: total.charged_tokens,
            not_computed: total.not_computed,
            company,
            payable,
        })
    }

    /// Sends again exactly what the balance suffices for, oldest first; `None`: nothing.
    ///
    /// # Errors
    ///
    /// It couldn't begin.
    pub async fn replay_parked(
        self: &Arc<Self>,
        parked: &Parked,
        actor: Actor,
    ) -> Result<Option<RunningReplay>, OperationError> {
        if parked.payable.is_empty() {
            return Ok(None);
        }
        let plan = ReplayPlan {
            total: Forecast {
                dead_letters: parked.parked_payable,
                ..Forecast::default()
            },
            selection: Selection {
                ids: parked.payable.clone(),
                states: vec![DeadLetterState::Open],
                up_to: parked.payable.last().copied(),
                ..Selection::default()
            },
            subject: format!("parked dead letters of company {}", parked.company),
            ..ReplayPlan::default()
        };
        let order = ReplayOrder {
            actor,
            note: None,
            rate: None,
            canary: None,
            wait: true,
        };
        self.replay(plan, order).await.map(Some)
    }
}
