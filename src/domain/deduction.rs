//! What is asked of the ledger and what it answers.

use super::Reason;

/// What the ledger did with one completion event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deduction {
    /// Charged by this call.
    Charged {
        /// `article_jobs` refused the new status with this error; the charge stands.
        job_status_error: Option<String>,
    },
    /// Charged earlier; nothing was changed.
    AlreadyCharged,
    /// Not charged, and asking again changes nothing until a person does something.
    Refused(Refusal),
    /// The event names no company and the job's row isn't there yet.
    JobNotFound,
    /// Somebody holds a row that the charge needs; nothing was done about this event.
    Locked(Locked),
}

/// Which row somebody holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locked {
    /// The company's, in `company_subscriptions`.
    Company,
    /// The job's, in `article_jobs`.
    Job,
}

/// Why a charge can't be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// One of those that the ledger gives.
    pub reason: Reason,
    /// The same for a person.
    pub message: String,
    /// `article_jobs` refused the status `failed` with this error.
    pub job_status_error: Option<String>,
}

/// What came of recording a charge as `pending`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PendingMark {
    /// The record is `pending` now.
    Pending,
    /// No company is known, so there is nothing to record.
    NoCompany,
    /// This very request was charged meanwhile.
    Charged,
    /// The key has another outcome, which the next try will answer with.
    Decided,
}
