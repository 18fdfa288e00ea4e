//! The body that a replay sends instead of the original one.

use sqlx::{Acquire as _, PgConnection};
use thiserror::Error;
use time::OffsetDateTime;
use uuid::Uuid;

use super::LetterState;
use super::acts::{Signed, lock, record, touched};
use crate::domain::CompletionEvent;
use crate::storage::{Storage, StorageError, bounded::Bounded};

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
    /// Money has moved for one of the jobs.
    #[error("{0}")]
    Settled(SettledJob),
    /// The database.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A job for which money has moved.
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
    /// Gives a letter a new body beside its original one; the id of the action. Refused if money has
    /// moved for any job that it stands or stood for: what was charged stays what it is.
    pub async fn edit_dead_letter(
        &self,
        edit: Edit<'_>,
        signed: Signed<'_>,
    ) -> Result<i64, EditError> {
        self.call(async |connection| edit_in_transaction(connection, edit, signed).await)
            .await?
    }
}

async fn edit_in_transaction(
    connection: &mut PgConnection,
    edit: Edit<'_>,
    signed: Signed<'_>,
) -> sqlx::Result<Result<i64, EditError>> {
    let mut transaction = connection.begin().await?;
    lock(&mut transaction).await?;
    let id = edit.id;
    let found: Option<(LetterState, bool, bool, Option<Uuid>)> = sqlx::query_as(
        "select state, coalesce(claimed_until > clock_timestamp(), false), coalesce(edited_body, body) = $2, job_id
         from dead_letters where id = $1",
    )
    .bind(id)
    .bind(edit.seen)
    .fetch_optional(&mut *transaction)
    .await?;
    let refusal = match found {
        None => Some(EditError::NotFound(id)),
        Some((state, ..)) if state != LetterState::Open => Some(EditError::NotOpen { id, state }),
        Some((_, true, ..)) => Some(EditError::BeingReplayed(id)),
        Some((_, _, false, _)) => Some(EditError::EditedMeanwhile(id)),
        Some(_) => None,
    };
    if let Some(refusal) = refusal {
        return Ok(Err(refusal));
    }
    let job_before = found.and_then(|(.., job_id)| job_id);
    let job_after = edit.event.job_id();
    if let Some(settled) = settled(&mut transaction, id, job_before, job_after).await? {
        return Ok(Err(EditError::Settled(settled)));
    }

    // Of several edits the bodies and jobs in between are kept here only.
    let body = String::from_utf8_lossy(edit.body);
    let details = serde_json::json!({ "job_before": job_before, "body": body }).to_string();
    let action_id = record(&mut transaction, signed, "edit", &id.to_string(), &details).await?;
    // Back to the original: then it is not an edited one any more.
    sqlx::query(
        "update dead_letters d
         set edited_body = nullif($2, d.body), job_id = $3, article_id = $5, tokens = $6,
             company_id = coalesce($4, (select j.company_id from article_jobs j where j.id = $3))
         where d.id = $1",
    )
    .bind(id)
    .bind(edit.body)
    .bind(job_after)
    .bind(edit.event.company_id())
    .bind(edit.event.article_id())
    .bind(edit.event.tokens())
    .execute(&mut *transaction)
    .await?;
    touched(&mut transaction, action_id, &[id]).await?;
    transaction.commit().await?;
    Ok(Ok(action_id))
}

/// Of the jobs that the letter has ever stood for, and of the one that it is to stand for, one for which
/// money has moved.
async fn settled(
    connection: &mut PgConnection,
    id: i64,
    job_before: Option<Uuid>,
    job_after: Uuid,
) -> sqlx::Result<Option<SettledJob>> {
    let keys: Vec<String> = job_before
        .into_iter()
        .chain([job_after])
        .map(|job| job.hyphenated().to_string())
        .collect();
    sqlx::query_as(
        "select r.idempotency_key as job_id, r.status = 'compensated' as refunded, r.amount, r.company_id, r.completed_at
         from token_deduction_records r
         where r.idempotency_key = any ($1 || array(
                   select a.details ->> 'job_before'
                   from dead_letter_actions t join operator_actions a on a.id = t.action_id
                   where t.dead_letter_id = $2 and a.action = 'edit'
               ))
           and r.status in ('completed', 'compensated')
         order by r.ledger_seq limit 1",
    )
    .bind(keys)
    .bind(id)
    .fetch_optional(connection)
    .await
}
