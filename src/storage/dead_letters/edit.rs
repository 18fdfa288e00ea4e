//! The body that a replay sends instead of the original one.

use sqlx::{FromRow as _, Row as _, postgres::PgRow};
use thiserror::Error;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Letter, LetterState, acts::Signed};
use crate::domain::CompletionEvent;
use crate::storage::{Storage, StorageError, bounded::Bounded};

/// A letter with all that an editor needs.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Draft {
    /// The letter.
    #[sqlx(flatten)]
    pub letter: Letter,
    /// As it was published.
    pub body: Vec<u8>,
    /// What an earlier edit made of it.
    pub edited_body: Option<Vec<u8>>,
    /// The content type under which it was published, and goes out again.
    pub content_type: Option<String>,
    /// The replay that claimed it last and didn't mark it as sent: it may have been sent all the same.
    pub half_replayed_by: Option<i64>,
}

impl Draft {
    /// What a replay would send today.
    pub fn current(&self) -> &[u8] {
        self.edited_body.as_deref().unwrap_or(&self.body)
    }
}

/// A new body for a letter.
#[derive(Debug, Clone, Copy)]
pub struct Edit<'a> {
    /// Which letter.
    pub id: i64,
    /// What the editor began with.
    pub seen: &'a [u8],
    /// The new body.
    pub body: &'a [u8],
    /// The event that it is.
    pub event: &'a CompletionEvent,
}

/// Why a letter keeps its body.
#[derive(Debug, Error)]
pub enum EditError {
    /// There is no such letter.
    #[error("there is no dead letter {0}")]
    NotFound(i64),
    /// Only open letters can be edited.
    #[error("dead letter {id} is {}, and only an open one can be edited", .state.as_str())]
    NotOpen {
        /// Which letter.
        id: i64,
        /// What it is.
        state: LetterState,
    },
    /// A replay is about to send it.
    #[error("dead letter {0} is just being replayed; nothing was changed")]
    BeingReplayed(i64),
    /// Another edit came in between.
    #[error("dead letter {0} was edited by somebody else meanwhile; nothing was changed")]
    EditedMeanwhile(i64),
    /// Tokens have moved for one of the jobs.
    #[error("{0}")]
    Settled(SettledJob),
    /// The database.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A job for which tokens have moved.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct SettledJob {
    /// The job.
    pub job_id: String,
    /// And given back since.
    pub refunded: bool,
    /// Tokens.
    pub amount: i64,
    /// Who paid.
    pub company_id: Uuid,
    /// When.
    #[sqlx(try_from = "Bounded<OffsetDateTime>")]
    pub completed_at: OffsetDateTime,
}

impl std::fmt::Display for SettledJob {
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
    /// A letter for editing; `None`: there is no such letter.
    pub async fn draft(&self, id: i64) -> Result<Option<Draft>, StorageError> {
        let query = sqlx::query_as(concat!(
            "select ",
            letter_columns!(),
            ", d.body, d.edited_body, d.properties ->> 'content_type' as content_type,
             case d.state when 'open' then d.claimed_by end as half_replayed_by
             from dead_letters_with_charges d where d.id = $1"
        ))
        .bind(id);
        self.call(async |connection| query.fetch_optional(connection).await)
            .await
    }

    /// Gives a letter a new body beside its original one; the id of the action. Refused if tokens have
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
        Some("job_charged") => EditError::Settled(SettledJob::from_row(row)?),
        Some(other) => EditError::Storage(StorageError::Unexpected {
            function: "edit_dead_letter",
            answer: other.to_owned(),
        }),
    }))
}
