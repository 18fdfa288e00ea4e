//! One job: its key, how it stands, and what is known of its past.

use std::fmt;

use serde::Serialize;
use uuid::Uuid;

use super::{OperationError, Operations};
use crate::domain::RetrySchedule;
pub(crate) use crate::storage::{JobDeadLetter, JobLife, Moment};

/// What a job is charged under. A UUID in any spelling is one key; other callers of the functions may use keys that
/// are no UUIDs, which are taken as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct JobKey(String);

/// The life of one job.
#[derive(Debug, Serialize)]
pub(crate) struct JobHistory {
    pub(crate) job_id: JobKey,
    /// The pauses between tries, by the settings of now.
    pub(crate) retry_delays_ms: Vec<u64>,
    #[serde(flatten)]
    pub(crate) life: JobLife,
}

impl Operations {
    /// The life of a job, from whatever is known of it; nothing: [`OperationError::NotFound`].
    pub(crate) async fn job(&self, job: JobKey) -> Result<JobHistory, OperationError> {
        let life = self.storage.job_life(job.as_str()).await?;
        if life.timeline.is_empty() {
            return Err(OperationError::NotFound(format!(
                "nothing is known of job {job}: no job, no charge, no dead letter; its event may wait in a queue"
            )));
        }
        let schedule = RetrySchedule::new(&self.settings.retry);
        let delays = (0..).map_while(|attempt| schedule.delay(attempt));
        Ok(JobHistory {
            job_id: job,
            retry_delays_ms: delays
                .map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX))
                .collect(),
            life,
        })
    }
}

impl JobKey {
    /// Of what a person or a program calls it.
    pub(crate) fn new(text: &str) -> Self {
        let id = Uuid::try_parse(text.trim());
        Self(id.map_or_else(|_| text.to_owned(), |id| id.hyphenated().to_string()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_in_any_spelling_is_one_key_and_another_key_is_left_alone() {
        const JOB: &str = "8b0c1c1e-6f5e-4a43-9d0a-3f4c2f1d7a10";
        for spelling in [
            JOB,
            &JOB.to_uppercase(),
            &JOB.replace('-', ""),
            &format!(" {{{JOB}}}\n"),
        ] {
            assert_eq!(JobKey::new(spelling).as_str(), JOB);
        }
        assert_eq!(JobKey::new(" Order 7").as_str(), " Order 7");
    }
}
