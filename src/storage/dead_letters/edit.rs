//! The body that a replay sends instead of the original one.

use sqlx::{FromRow as _, Row as _, postgres::PgRow};
use thiserror::Error;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{DeadLetterState, acts::Signed};
use crate::domain::CompletionEvent;
use crate::storage::{Storage, StorageError, bounded::Bounded};

/// A new body for a dead letter.
#[derive(Debug, Clone, Copy)]
pub struct Edit<'a> {
    pub id: i64,
    /// What the editor began with.
    pub seen: &'a [u8],
    /// The new body.
    pub body: &'a [u8],
    /// The event that it is.
    pub event: &'a CompletionEvent,
}

/// Why a dead letter keeps its body.
#[derive(Debug, Error)]
pub enum EditError {
    /// There is no such dead letter.
    #[error("there is no dead letter {0}")]
    NotFound(i64),
    /// Only open dead letters can be edited.
    #[error("dead letter {id} is {}, and only an open one can be edited", .state.as_str())]
    NotOpen {
        id: i64,
        /// What it is.
        state: DeadLetterState,
    },
    /// A replay is about to send it.
    #[error("dead letter {0} is just being replayed; nothing was changed")]
    BeingReplayed(i64),
    /// Another edit came in between.
    #[error("dead letter {0} was edited by somebody else meanwhile; nothing was changed")]
    EditedMeanwhile(i64),
    /// Tokens have moved for one of the jobs.
    #[error("{0}")]
    AlreadyCharged(ChargedJob),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A job for which tokens have moved.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct ChargedJob {
    pub job_id: String,
    /// And given back since.
    pub refunded: bool,
    pub amount: i64,
    pub company_id: Uuid,
    #[sqlx(try_from = "Bounded<OffsetDateTime>")]
    pub completed_at: OffsetDateTime,
}

impl std::fmt::Display for ChargedJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            job_id,
            amount,
            company_id,
            ..
        } = self;
        let at = self.completed_at.truncate_to_second();
        let at = at
            .format(&time::format_description::well_known::Rfc3339)
            .unwrap_or_else(|_| at.to_string());
        let refunded = if self.refunded {
            " and refunded since"
        } else {
            ""
        };
        write!(
            f,
            "job {job_id} was charged {amount} tokens of company {company_id} at {at}{refunded}: an event that \
             was charged can't be made another one; nothing was changed"
        )
    }
}

impl Storage {
    /// Gives a dead letter a new body beside its original one; the id of the action. Refused if tokens have
    /// moved for any job that it stands or stood for: what was charged stays what it is.
    pub async fn edit_dead_letter(
        &self,
        edit: Edit<'_>,
        signed: Signed<'_>,
    ) -> Result<i64, EditError> {
        let event = edit.event;
        let query =
            sqlx::query("select * from edit_dead_letter($1, $2, $3, $4, $5, $6, $7, $8, $9)")
                .bind(edit.id)
                .bind(edit.seen)
                .bind(edit.body)
                .bind(event.job_id())
                .bind(event.company_id())
                .bind(event.article_id())
                .bind(event.tokens())
                .bind(signed.actor)
                .bind(signed.reason);
        let row = self
            .call(async |connection| query.fetch_one(connection).await)
            .await?;
        answer(edit.id, &row).map_err(StorageError::from)?
    }
}

fn answer(id: i64, row: &PgRow) -> sqlx::Result<Result<i64, EditError>> {
    Ok(Err(match row.try_get("error")? {
        None => return Ok(Ok(row.try_get("action_id")?)),
        Some("not_found") => EditError::NotFound(id),
        Some("not_open") => EditError::NotOpen {
            id,
            state: row.try_get("state")?,
        },
        Some("being_replayed") => EditError::BeingReplayed(id),
        Some("edited_meanwhile") => EditError::EditedMeanwhile(id),
        Some("job_charged") => EditError::AlreadyCharged(ChargedJob::from_row(row)?),
        Some(other) => EditError::Storage(StorageError::Unexpected {
            function: "edit_dead_letter",
            answer: other.to_owned(),
        }),
    }))
}
