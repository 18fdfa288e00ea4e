//! What is asked of the books and what they answer.

use serde::Serialize;
use uuid::Uuid;

use super::CompletionEvent;

/// What the books did with one completion event.
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
    /// And after it.
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
    /// Which of the known causes.
    pub cause: RefusalCause,
    /// The same for a person.
    pub message: String,
}

/// The causes of a [`Refusal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalCause {
    /// The company has fewer tokens than the article costs.
    InsufficientBalance,
    /// No such company in `company_subscriptions`.
    CompanyNotFound,
    /// The key was charged for another company or another amount.
    IdempotencyKeyReused,
    /// The charge was refunded.
    AlreadyCompensated,
    /// The event and the job's row name different companies.
    CompanyMismatch,
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
