//! What a credit could pay for now: open letters of the company that failed for want of tokens.

use serde::Serialize;
use uuid::Uuid;

use crate::cli::dlq::sending;
use crate::cli::output::{count, thousands};
use crate::config::Settings;
use crate::domain::Reason;
use crate::operations::replay::{self, Order, Report};
use crate::storage::{LetterState, Selection, Storage, StorageError};

/// As of now, by the books.
#[derive(Debug, Default, Serialize)]
pub(super) struct Parked {
    /// Open letters of this company with the reason `insufficient_balance`.
    parked_letters: u64,
    /// Of these: what the balance suffices for, oldest first.
    parked_payable: u64,
    /// The tokens of those.
    parked_payable_tokens: i64,
    #[serde(skip)]
    payable: Vec<i64>,
    #[serde(skip)]
    not_computed: u64,
}

impl Parked {
    pub(super) async fn of(
        company: Uuid,
        storage: &Storage,
        settings: &Settings,
    ) -> Result<Self, StorageError> {
        let selection = Selection {
            company: Some(company),
            reasons: vec![Reason::InsufficientBalance.as_str().to_owned()],
            states: vec![LetterState::Open],
            ..Selection::default()
        };
        storage.settle_dead_letters().await?;
        let plan = replay::plan(storage, &selection, &settings.limits, &settings.replay).await?;
        Ok(Self {
            parked_letters: plan.total.letters,
            parked_payable: plan.total.charged,
            parked_payable_tokens: plan.total.charged_tokens,
            payable: plan.payable,
            not_computed: plan.total.not_computed,
        })
    }

    /// `None`: there is nothing to say.
    pub(super) fn in_words(&self, replayed: bool) -> Option<String> {
        if self.parked_letters == 0 {
            return None;
        }
        let letters = count(self.parked_letters, "parked letter");
        let mut text = format!(
            "of {letters} of this company, the balance pays for {} ({})",
            thousands(self.parked_payable),
            count(self.parked_payable_tokens.unsigned_abs(), "token")
        );
        if self.not_computed > 0 {
            let more = thousands(self.not_computed);
            text.push_str(&format!(
                "; {more} not computed (busy, or beyond replay.plan_max)"
            ));
        }
        if self.parked_payable > 0 && !replayed {
            text.push_str(": the same command with --replay-parked sends them again");
        }
        Some(text)
    }

    /// Sends again exactly what the balance suffices for. `None`: nothing.
    pub(super) async fn replay(
        &self,
        actor: &str,
        company: Uuid,
        storage: &Storage,
        settings: &Settings,
    ) -> anyhow::Result<Option<Report>> {
        let Some(newest) = self.payable.last() else {
            return Ok(None);
        };
        let selection = Selection {
            ids: self.payable.clone(),
            states: vec![LetterState::Open],
            up_to: Some(*newest),
            ..Selection::default()
        };
        let order = Order {
            selection: &selection,
            actor,
            subject: &format!("parked letters of company {company}"),
            note: None,
            rate: None,
            canary: None,
            wait: true,
            expected_failures: &[],
        };
        sending::replay(settings, storage, &order, self.parked_payable)
            .await
            .map(Some)
    }
}
