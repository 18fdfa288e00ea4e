//! One dead letter with everything that is known about it.

use serde::Serialize;

use crate::operations::{OperationError, Operations, replay::Preview};
use crate::storage::{ActionFilter, DeadLetter, DeductionRecord, FullDeadLetter, PastAction};

/// Actions that are told of one dead letter, at most.
const ACTIONS: i64 = 100;

/// A dead letter and what surrounds it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct DeadLetterStory {
    #[serde(flatten)]
    pub full: FullDeadLetter,
    /// What the ledger has of its job.
    pub record: Option<DeductionRecord>,
    /// The replays that it stands in, itself included, oldest first: each is the failed replay of the one before.
    pub chain: Vec<DeadLetter>,
    /// What people did to it, the last first.
    pub actions: Vec<PastAction>,
    /// What a replay would do now.
    pub replay: Preview,
}

impl Operations {
    /// All that is known of it.
    ///
    /// # Errors
    ///
    /// [`OperationError::NotFound`].
    pub async fn dead_letter(&self, id: i64) -> Result<DeadLetterStory, OperationError> {
        self.resolve_charged().await;
        let full = self.full_dead_letter(id).await?;
        let record = match full.dead_letter.job_id {
            Some(job_id) => self.storage.deduction_record(&job_id.to_string()).await?,
            None => None,
        };
        let touched_it = ActionFilter {
            dead_letters: vec![id],
            ..ActionFilter::default()
        };
        Ok(DeadLetterStory {
            record,
            chain: self.storage.dead_letter_chain(id).await?,
            actions: self.storage.operator_actions(&touched_it, ACTIONS).await?,
            replay: self.preview(&full).await,
            full,
        })
    }

    /// Only itself.
    ///
    /// # Errors
    ///
    /// [`OperationError::NotFound`].
    pub async fn full_dead_letter(&self, id: i64) -> Result<FullDeadLetter, OperationError> {
        let found = self.storage.dead_letter(id).await?;
        found.ok_or_else(|| OperationError::NotFound(format!("there is no dead letter {id}")))
    }
}
