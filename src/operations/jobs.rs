//! One job: its key, how it stands, and what is known of its past.

use std::fmt;

use serde::Serialize;
use uuid::Uuid;

use super::{OperationError, Operations};
use crate::domain::RetrySchedule;
use crate::storage::{DeadLetterState, DeductionRecord, Hold};
pub(crate) use crate::storage::{JobDeadLetter, JobLife, Moment};

/// What a job is charged under. A UUID in any spelling is one key; other callers of the functions may use keys that
/// are no UUIDs, which are taken as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(transparent)]
pub(crate) struct JobKey(String);

/// The life of one job.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct JobHistory {
    pub(crate) job_id: JobKey,
    /// The pauses between tries, by the settings of now.
    pub(crate) retry_delays_ms: Vec<u64>,
    #[serde(flatten)]
    pub(crate) life: JobLife,
}

/// How a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum JobState {
    /// Nothing is known that would say. Its event may wait in a queue.
    Unknown,
    /// Tokens are held for it, and its event has not come yet.
    Held,
    /// A dead letter of it was sent again, and nothing has come of that yet.
    Queued,
    Charged,
    /// Not charged, and nobody tries again by himself.
    Refused,
    /// Not charged yet; the sweeper tries.
    Pending,
    /// Charged, and given back.
    Compensated,
}

/// How a job stands, and why; with the ledger's record, and with all that is known of its past.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Job)]
pub(crate) struct JobReport {
    pub(crate) state: JobState,
    /// Of one that is refused or pending: a code.
    pub(crate) reason: Option<String>,
    /// The same for a person.
    pub(crate) message: Option<String>,
    #[serde(flatten)]
    pub(crate) history: JobHistory,
}

impl Operations {
    /// How a job stands. With `company`: to whoever may only see that one, a job that is another's, or not only its, is
    /// unknown.
    pub(crate) async fn job_state(
        &self,
        job: JobKey,
        company: Option<Uuid>,
    ) -> Result<JobReport, OperationError> {
        let mut life = self.storage.job_life(job.as_str()).await?;
        if let Some(company) = company {
            let companies = self.storage.job_companies(job.as_str()).await?;
            if companies != [company] {
                life = JobLife::default();
            }
        }
        let (state, reason, message) = stands(&life);
        Ok(JobReport {
            state,
            reason,
            message,
            history: self.told(job, life),
        })
    }

    /// The life of a job, from whatever is known of it; nothing: [`OperationError::NotFound`].
    pub(crate) async fn job(&self, job: JobKey) -> Result<JobHistory, OperationError> {
        let life = self.storage.job_life(job.as_str()).await?;
        if life.timeline.is_empty() {
            return Err(OperationError::NotFound(format!(
                "nothing is known of job {job}: no job, no charge, no dead letter; its event may wait in a queue"
            )));
        }
        Ok(self.told(job, life))
    }

    fn told(&self, job: JobKey, life: JobLife) -> JobHistory {
        let schedule = RetrySchedule::new(&self.settings.retry);
        let delays = (0..).map_while(|attempt| schedule.delay(attempt));
        JobHistory {
            job_id: job,
            retry_delays_ms: delays
                .map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX))
                .collect(),
            life,
        }
    }
}

/// The state, and the reason of what isn't charged: from the record, and from the dead letters where there is none or
/// the last of them was sent again.
fn stands(life: &JobLife) -> (JobState, Option<String>, Option<String>) {
    let said = |record: &DeductionRecord| (record.error_code.clone(), record.error_message.clone());
    let last = life.dead_letters.last();
    match life
        .record
        .as_ref()
        .map(|record| (record.status.as_str(), record))
    {
        Some(("completed", _)) => (JobState::Charged, None, None),
        Some(("compensated", _)) => (JobState::Compensated, None, None),
        Some(("pending", record)) => {
            let (reason, message) = said(record);
            (JobState::Pending, reason, message)
        }
        _ if last.is_some_and(|last| last.state == DeadLetterState::Replayed) => {
            (JobState::Queued, None, None)
        }
        // Held for again since it was refused.
        Some(_) if life.hold.as_ref().is_some_and(Hold::counts) => (JobState::Held, None, None),
        Some((_, record)) => {
            let (reason, message) = said(record);
            (JobState::Refused, reason, message)
        }
        None => match last {
            Some(last) => {
                let (reason, message) = (last.reason.clone(), last.error.clone());
                (JobState::Refused, Some(reason), Some(message))
            }
            None if life.hold.as_ref().is_some_and(Hold::counts) => (JobState::Held, None, None),
            None => (JobState::Unknown, None, None),
        },
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
