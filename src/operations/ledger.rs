//! What a company has, and what is given to it or back.

use uuid::Uuid;

use super::{OperationError, Operations};
pub use crate::storage::Balance;

impl Operations {
    /// What the company can pay from now, in tokens.
    ///
    /// # Errors
    ///
    /// [`OperationError::NotFound`]: no such company.
    pub async fn balance(&self, company: Uuid) -> Result<Balance, OperationError> {
        let balance = self.storage.balance(company).await?;
        balance.ok_or_else(|| {
            OperationError::NotFound(format!("company {company} is not in company_subscriptions"))
        })
    }
}
