//! What is asked of the ledger and what it answers.

use serde::Serialize;
use uuid::Uuid;

use super::{CompletionEvent, Reason};

/// What the ledger did with one completion event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deduction {
    /// Charged by this call.
    Charged(Receipt),
    /// Charged earlier; the receipt has the original figures.
    AlreadyCharged(Receipt),
    /// Not charged, and asking again changes nothing until a person does something.
    Refused(Refusal),
    /// The event names no company and the job's row isn't there yet.
    JobNotFound,
}

/// The figures of a charge, in tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// The id of the record in `token_deduction_records`.
    pub deduction_record_id: Uuid,
    /// What the company had to spend before the charge.
    pub balance_before: i64,
    /// What it had after the charge.
    pub balance_after: i64,
    /// The share that the monthly quota paid.
    pub monthly_deducted: i64,
    /// The share that purchased tokens paid.
    pub purchased_deducted: i64,
    /// `article_jobs` refused the new status with this error; the charge stands.
    pub job_status_error: Option<String>,
}

/// Why a charge can't be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// One of those that the ledger gives.
    pub reason: Reason,
    /// The same for a person.
    pub message: String,
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

/// One article to be charged: an event of which the company is known.
#[derive(Debug, Clone, Copy)]
pub struct Charge<'e> {
    /// The event that asks for it.
    pub event: &'e CompletionEvent,
    /// From the event, or from the job's row.
    pub company_id: Uuid,
    /// From the event, or from the job's row.
    pub article_id: Option<Uuid>,
}
