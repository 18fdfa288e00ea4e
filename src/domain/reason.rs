//! Why a message is dead.

use serde::{Deserialize, Serialize};

/// Why a message is a dead letter: the `reason` header. Those that the charging function gives are its error
/// codes as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The body is no completion event by its form.
    Malformed,
    /// `tokens` is below 1 or above the limit.
    AmountOutOfRange,
    /// The body or its metadata has too many bytes.
    PayloadTooLarge,
    /// The company has fewer tokens than the article costs.
    InsufficientBalance,
    /// No such company in `company_subscriptions`.
    CompanyNotFound,
    /// The job was charged for another company or amount.
    IdempotencyKeyReused,
    /// The charge was refunded.
    AlreadyCompensated,
    /// The event and the job's row name different companies.
    CompanyMismatch,
    /// No company in the event, and no row of the job after all retries.
    JobNotFound,
    /// All retries failed; the charge is pending.
    RetriesExhausted,
    /// The database refuses this very event with an error that isn't temporary.
    RejectedByDatabase,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Malformed,
        Self::AmountOutOfRange,
        Self::PayloadTooLarge,
        Self::InsufficientBalance,
        Self::CompanyNotFound,
        Self::IdempotencyKeyReused,
        Self::AlreadyCompensated,
        Self::CompanyMismatch,
        Self::JobNotFound,
        Self::RetriesExhausted,
        Self::RejectedByDatabase,
    ];

    /// The value of the `reason` header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::AmountOutOfRange => "amount_out_of_range",
            Self::PayloadTooLarge => "payload_too_large",
            Self::InsufficientBalance => "insufficient_balance",
            Self::CompanyNotFound => "company_not_found",
            Self::IdempotencyKeyReused => "idempotency_key_reused",
            Self::AlreadyCompensated => "already_compensated",
            Self::CompanyMismatch => "company_mismatch",
            Self::JobNotFound => "job_not_found",
            Self::RetriesExhausted => "retries_exhausted",
            Self::RejectedByDatabase => "rejected_by_database",
        }
    }

    /// The reason of that text; `None` for somebody else's, or the broker's.
    pub fn parse(text: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|reason| reason.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_one_text_in_headers_and_in_json() {
        assert_eq!(Reason::ALL.len(), Reason::RejectedByDatabase as usize + 1);
        for (at, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at);
            assert_eq!(Reason::parse(reason.as_str()), Some(reason));
            assert_eq!(serde_json::json!(reason), reason.as_str());
        }
        assert_eq!(Reason::parse("delivery_limit"), None);
    }
}
