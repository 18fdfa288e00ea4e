//! Replays of this process, for whoever starts, follows or stops one; and those that are over, from the record.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{ReplayProgress, ReplayReport};
use crate::operations::{OperationError, Operations};

/// A replay that goes on by itself, whoever follows it; dropping this doesn't stop it.
#[derive(Debug, Clone)]
pub struct RunningReplay {
    /// The operator's action.
    pub action_id: i64,
    /// How far it is; the last one has the report.
    pub progress: watch::Receiver<ReplayProgress>,
    /// Cancelled, it finishes the page in flight and ends.
    pub stop: CancellationToken,
}

impl RunningReplay {
    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// [`OperationError::Internal`]: it broke off. What it had sent is in the archive.
    pub async fn report(mut self) -> Result<ReplayReport, OperationError> {
        let ended = self.progress.wait_for(|progress| progress.report.is_some());
        let report = ended
            .await
            .ok()
            .and_then(|progress| progress.report.clone());
        report.ok_or_else(|| {
            let id = self.action_id;
            OperationError::Internal(format!("replay {id} broke off without a report"))
        })
    }

    /// Whoever runs it lets go of the other end when it is over.
    fn is_over(&self) -> bool {
        self.progress.has_changed().is_err()
    }
}

/// Those of one process, by the operator's action.
#[derive(Debug, Default)]
pub(in crate::operations) struct RunningReplays(Mutex<HashMap<i64, RunningReplay>>);

impl RunningReplays {
    pub(super) fn add(&self, running: RunningReplay) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, replay| !replay.is_over());
        all.insert(running.action_id, running);
    }

    fn all(&self) -> Vec<RunningReplay> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let running = all.values().filter(|replay| !replay.is_over());
        running.cloned().collect()
    }

    /// Stops them all, and waits until what they have in flight is finished.
    pub(in crate::operations) async fn stop(&self) {
        let running = self.all();
        running.iter().for_each(|replay| replay.stop.cancel());
        for replay in running {
            // One that broke off has ended as well.
            let _ = replay.report().await;
        }
    }
}

impl Operations {
    /// A replay that runs in this process.
    pub fn running_replay(&self, action_id: i64) -> Option<RunningReplay> {
        let mut running = self.replays.all().into_iter();
        running.find(|replay| replay.action_id == action_id)
    }

    /// All that run in this process.
    pub fn running_replays(&self) -> Vec<RunningReplay> {
        self.replays.all()
    }

    /// What a replay did, from the record, whoever ran it. `None`: it isn't over, or its process died before it was.
    ///
    /// # Errors
    ///
    /// [`OperationError::NotFound`]: no replay has that number.
    pub async fn replay_report(
        &self,
        action_id: i64,
    ) -> Result<Option<ReplayReport>, OperationError> {
        let Some(details) = self.storage.replay_details(action_id).await? else {
            let problem = format!("there is no replay {action_id}");
            return Err(OperationError::NotFound(problem));
        };
        let report = details.map(serde_json::from_value).transpose();
        report.map_err(|error| {
            OperationError::Internal(format!("the record of replay {action_id}: {error}"))
        })
    }
}
