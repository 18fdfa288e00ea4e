//! Tokens held for jobs that are about to begin.

use std::time::Duration;

use uuid::Uuid;

use super::{OperationError, Operations, Preflight, no_company};
pub(crate) use crate::storage::Hold;
use crate::storage::{HoldAnswer, StorageError};

/// What came of asking for a hold.
#[derive(Debug)]
pub(crate) enum Held {
    /// The tokens are held from now on.
    Now(Hold),
    /// They were before.
    Before(Hold),
    /// The company can't pay that much.
    TooLittle(Preflight),
}

impl Operations {
    /// Holds tokens for a job; the estimate of the settings where no number is named. The same again gives the hold that
    /// is there.
    ///
    /// `visible`: whether the caller may know of the company. If not, he is answered as if there were none, after the
    /// same work.
    ///
    /// # Errors
    ///
    /// [`OperationError::Invalid`]: `tokens` or `expires_in`, in seconds, out of their range.
    /// [`OperationError::NotFound`]: no such company. [`OperationError::Conflict`]: `hold_differs`, `already_charged` or
    /// `already_compensated`.
    pub(crate) async fn hold(
        &self,
        job: Uuid,
        company: Uuid,
        visible: bool,
        tokens: Option<i64>,
        expires_in: Option<i64>,
    ) -> Result<Held, OperationError> {
        let tokens = self.tokens_or_estimate(tokens)?;
        let expires_after = self.expires_after(expires_in)?;
        // No company has it.
        let asked = if visible { company } else { Uuid::new_v4() };
        let answer = self.storage.hold_tokens(job, asked, tokens, expires_after);
        let code = match answer.await? {
            HoldAnswer::Held {
                hold,
                idempotent: false,
            } => return Ok(Held::Now(hold)),
            HoldAnswer::Held { hold, .. } => return Ok(Held::Before(hold)),
            HoldAnswer::InsufficientBalance {
                required,
                available,
            } => {
                return Ok(Held::TooLittle(Preflight {
                    company_id: company,
                    required,
                    available,
                }));
            }
            HoldAnswer::Refused(code) => code,
        };
        Err(match code.as_str() {
            "company_not_found" => no_company(company),
            "hold_differs" => OperationError::conflict(
                "hold_differs",
                format!("job {job} has an open hold of another company or amount"),
            ),
            "already_charged" => {
                OperationError::conflict("already_charged", format!("job {job} is charged already"))
            }
            "already_compensated" => OperationError::conflict(
                "already_compensated",
                format!("job {job} was charged and refunded, and is never charged again"),
            ),
            _ => {
                let function = "hold_tokens";
                let answer = code;
                StorageError::Unexpected { function, answer }.into()
            }
        })
    }

    /// Ends the hold of a job, if there is an open one; with a company, only if it is that one's. Done is done: the second
    /// time is no error.
    pub(crate) async fn release_hold(
        &self,
        job: Uuid,
        company: Option<Uuid>,
    ) -> Result<(), OperationError> {
        self.storage.release_hold(job, company).await?;
        Ok(())
    }

    fn expires_after(&self, seconds: Option<i64>) -> Result<Duration, OperationError> {
        let holds = &self.settings.holds;
        let Some(seconds) = seconds else {
            return Ok(holds.expires_after);
        };
        let longest = holds.max_expires_after;
        let asked = u64::try_from(seconds).ok().map(Duration::from_secs);
        let in_range = asked.filter(|asked| !asked.is_zero() && *asked <= longest);
        in_range.ok_or_else(|| {
            let longest = longest.as_secs();
            OperationError::invalid(
                "expires_in",
                format!("{seconds} is not in 1..={longest} seconds (holds.max_expires_after)"),
            )
        })
    }
}
