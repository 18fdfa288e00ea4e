//! A body that can be charged in place of one that can't. The original stays beside it, byte for byte.

use serde::Serialize;
use uuid::Uuid;

use crate::config::Limits;
use crate::domain::{CompletionEvent, amend, layout};
use crate::operations::{Actor, OperationError, Operations};
use crate::storage::{
    ChargeState, ChargedJob, DeadLetterState, Edit, EditError, FullDeadLetter, Signed,
};

/// An open dead letter that may be edited, as far as could be seen when it was read.
#[derive(Debug)]
pub struct Draft {
    pub full: FullDeadLetter,
    limits: Limits,
}

/// A new body, which is an event.
#[derive(Debug)]
pub struct Revision {
    body: Vec<u8>,
    event: CompletionEvent,
}

/// What an edit did, or would do.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct EditReport {
    /// Of which dead letter.
    pub id: i64,
    /// Nothing is kept.
    pub dry_run: bool,
    /// Whether the body is (or would be) another one.
    pub changed: bool,
    /// Its number in the history; null: nothing was kept.
    pub action_id: Option<i64>,
    /// The job that is asked for, where it can be read, as the next three.
    pub job_id: Option<Uuid>,
    pub company_id: Option<Uuid>,
    pub article_id: Option<Uuid>,
    pub tokens: Option<i64>,
    /// What a replay sends.
    pub body: String,
}

impl Operations {
    /// Begins an edit.
    ///
    /// # Errors
    ///
    /// [`OperationError::NotFound`]; [`OperationError::Conflict`] for what would be refused at the end in any case,
    /// before a person has typed for nothing.
    pub async fn draft(&self, id: i64) -> Result<Draft, OperationError> {
        self.resolve_charged().await;
        let full = self.full_dead_letter(id).await?;
        let dead_letter = &full.dead_letter;
        if dead_letter.state != DeadLetterState::Open {
            let state = dead_letter.state;
            return Err(EditError::NotOpen { id, state }.into());
        }
        if let (Some(job_id), Some(amount), Some(company_id), Some(completed_at)) = (
            dead_letter.job_id,
            dead_letter.charged_tokens,
            dead_letter.charged_company_id,
            dead_letter.charged_at,
        ) {
            let job = ChargedJob {
                job_id: job_id.to_string(),
                refunded: dead_letter.charge_state == ChargeState::Compensated,
                amount,
                company_id,
                completed_at,
            };
            return Err(EditError::AlreadyCharged(job).into());
        }
        let limits = self.settings.limits.clone();
        Ok(Draft { full, limits })
    }

    /// Ends an edit: `None` is the body as it was. `dry_run`: nothing is kept.
    ///
    /// # Errors
    ///
    /// [`OperationError::Conflict`] where the dead letter isn't what it was when the draft was begun, or where tokens
    /// have moved for a job that it stands, stood or would stand for. Nothing was changed then.
    pub async fn edit(
        &self,
        draft: &Draft,
        revision: Option<&Revision>,
        actor: &Actor,
        reason: Option<&str>,
        dry_run: bool,
    ) -> Result<EditReport, OperationError> {
        let (seen, now) = (draft.full.current(), &draft.full.dead_letter);
        let revision = revision.filter(|revision| revision.body != seen);
        let event = revision.map(|revision| &revision.event);
        let body = revision.map_or(seen, |revision| &revision.body);
        let mut report = EditReport {
            id: now.id,
            dry_run,
            changed: revision.is_some(),
            action_id: None,
            job_id: event.map_or(now.job_id, |event| Some(event.job_id())),
            company_id: event.map_or(now.company_id, CompletionEvent::company_id),
            article_id: event.map_or(now.article_id, CompletionEvent::article_id),
            tokens: event.map_or(now.tokens, |event| Some(event.tokens())),
            body: String::from_utf8_lossy(body).into_owned(),
        };
        if let Some(event) = event.filter(|_| !dry_run) {
            let id = now.id;
            let edit = Edit {
                id,
                seen,
                body,
                event,
            };
            let actor = actor.name();
            let signed = Signed { actor, reason };
            report.action_id = Some(self.storage.edit_dead_letter(edit, signed).await?);
        }
        Ok(report)
    }
}

impl Draft {
    /// With fields of its event set, each to a value as a person types it.
    ///
    /// # Errors
    ///
    /// [`OperationError::Invalid`]: it has no fields, or wouldn't be an event.
    pub fn with_fields(&self, set: &[(String, String)]) -> Result<Revision, OperationError> {
        let body = amend(self.full.current(), self.full.content_type.as_deref(), set);
        self.revision(body.map_err(|error| OperationError::invalid("body", error.to_string()))?)
    }

    /// Its body as one reads and changes it: JSON with a line for each field.
    pub fn text(&self) -> Vec<u8> {
        self.laid_out()
            .map_or_else(|| self.full.current().to_vec(), String::into_bytes)
    }

    /// With what became of [`Draft::text`].
    ///
    /// # Errors
    ///
    /// [`OperationError::Invalid`]: it is not an event.
    pub fn with_text(&self, text: &[u8]) -> Result<Revision, OperationError> {
        let text = text.trim_ascii_end();
        // JSON that came in one line goes out in one line.
        let one_line =
            self.laid_out().is_some() && !self.full.current().trim_ascii().contains(&b'\n');
        let compacted = std::str::from_utf8(text).ok().and_then(layout::compacted);
        self.revision(match compacted {
            Some(compacted) if one_line => compacted.into_bytes(),
            _ => text.to_vec(),
        })
    }

    fn laid_out(&self) -> Option<String> {
        let text = std::str::from_utf8(self.full.current()).ok()?;
        layout::indented(text).map(|text| text + "\n")
    }

    fn revision(&self, body: Vec<u8>) -> Result<Revision, OperationError> {
        let content_type = self.full.content_type.as_deref();
        match CompletionEvent::parse(&body, content_type, &self.limits) {
            Ok(event) => Ok(Revision { body, event }),
            Err(error) => Err(OperationError::invalid(
                "body",
                format!("it is not an event: {error}"),
            )),
        }
    }
}

impl From<EditError> for OperationError {
    fn from(error: EditError) -> Self {
        let why = error.to_string();
        let code = match error {
            EditError::NotFound(_) => return Self::NotFound(why),
            EditError::Storage(error) => return error.into(),
            EditError::NotOpen { .. } => "not_open",
            EditError::BeingReplayed(_) => "being_replayed",
            EditError::EditedMeanwhile(_) => "edited_meanwhile",
            EditError::AlreadyCharged(_) => "already_charged",
        };
        Self::Conflict { code, why }
    }
}
