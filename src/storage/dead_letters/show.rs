//! One letter with everything that is known about it.

use serde::Serialize;
use serde_json::value::RawValue;
use sqlx::{FromRow, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Letter, LetterState};
use crate::storage::{Storage, StorageError, bounded::Bounded};

/// Links of a chain and actions that are told of one letter, at most.
const MANY: i64 = 100;

/// A letter with its bodies and what surrounded it.
#[derive(Debug, FromRow)]
pub struct FullLetter {
    /// What lists show of it.
    #[sqlx(flatten)]
    pub letter: Letter,
    /// Its error, with ids, numbers and quoted values folded.
    pub error_signature: String,
    /// When it came into the archive.
    #[sqlx(try_from = "Bounded<OffsetDateTime>")]
    pub archived_at: OffsetDateTime,
    /// When it came last.
    #[sqlx(try_from = "Bounded<OffsetDateTime>")]
    pub last_arrived_at: OffsetDateTime,
    /// When its job was found charged.
    #[sqlx(try_from = "Bounded<Option<OffsetDateTime>>")]
    pub resolved_at: Option<OffsetDateTime>,
    /// The operator action that has it in hand, or had it last.
    pub claimed_by: Option<i64>,
    /// Until when nobody else may take it.
    #[sqlx(try_from = "Bounded<Option<OffsetDateTime>>")]
    pub claimed_until: Option<OffsetDateTime>,
    /// The body as it came.
    pub body: Vec<u8>,
    /// SHA-256 of that, in hexadecimal digits.
    pub body_sha256: String,
    /// The body that a replay would send instead.
    pub edited_body: Option<Vec<u8>>,
    /// The AMQP properties of the first arrival, a JSON object.
    pub properties: Json<Box<RawValue>>,
    /// The AMQP headers of the first arrival, a JSON object.
    pub headers: Json<Box<RawValue>>,
    /// The `content-type` among the properties.
    pub content_type: Option<String>,
}

/// A letter of the same chain: each is the failed replay of the one before.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct Link {
    /// Its id.
    pub id: i64,
    /// Where it stands.
    pub state: LetterState,
    /// Why it is dead.
    pub reason: String,
    /// The last failure.
    #[serde(with = "time::serde::rfc3339")]
    #[sqlx(try_from = "Bounded<OffsetDateTime>")]
    pub last_failed_at: OffsetDateTime,
    /// When it was last sent again.
    #[serde(with = "time::serde::rfc3339::option")]
    #[sqlx(try_from = "Bounded<Option<OffsetDateTime>>")]
    pub replayed_at: Option<OffsetDateTime>,
}

/// Something that a person did to a letter.
#[derive(Debug, Serialize, FromRow)]
pub struct LetterAction {
    /// The operator action.
    pub id: i64,
    /// When it came to this letter.
    #[serde(with = "time::serde::rfc3339")]
    #[sqlx(try_from = "Bounded<OffsetDateTime>")]
    pub at: OffsetDateTime,
    /// Who.
    pub actor: String,
    /// What: `replay`, `edit`, `discard`, …
    pub action: String,
    /// Why.
    pub reason: Option<String>,
    /// The rest, a JSON object.
    #[sqlx(try_from = "Json<Box<RawValue>>")]
    pub details: Details,
}

/// A JSON object as the database wrote it.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Details(Box<RawValue>);

impl Details {
    /// The JSON text.
    pub fn as_json(&self) -> &str {
        self.0.get()
    }
}

impl From<Json<Box<RawValue>>> for Details {
    fn from(Json(text): Json<Box<RawValue>>) -> Self {
        Self(text)
    }
}

/// What the books say of a job.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct DeductionRecord {
    /// Its id.
    pub id: Uuid,
    /// `pending`, `completed`, `failed` or `compensated`.
    pub status: String,
    /// Who paid, or would have.
    pub company_id: Uuid,
    /// The article.
    pub article_id: Option<Uuid>,
    /// Tokens.
    pub amount: i64,
    /// Of these, from the monthly quota.
    pub monthly_deducted: i64,
    /// Of these, from the purchased tokens.
    pub purchased_deducted: i64,
    /// What the company had in all before the charge.
    pub balance_before: Option<i64>,
    /// And after it.
    pub balance_after: Option<i64>,
    /// Why it is not charged: a code.
    pub error_code: Option<String>,
    /// The same for a person.
    pub error_message: Option<String>,
    /// Tries after the first one.
    pub retry_count: i32,
    /// The first try.
    #[serde(with = "time::serde::rfc3339")]
    #[sqlx(try_from = "Bounded<OffsetDateTime>")]
    pub created_at: OffsetDateTime,
    /// The charge.
    #[serde(with = "time::serde::rfc3339::option")]
    #[sqlx(try_from = "Bounded<Option<OffsetDateTime>>")]
    pub completed_at: Option<OffsetDateTime>,
}

impl Storage {
    /// One letter, whole.
    pub async fn dead_letter(&self, id: i64) -> Result<Option<FullLetter>, StorageError> {
        let query = sqlx::query_as(concat!(
            "select ",
            letter_columns!(),
            ", d.error_signature, d.archived_at, d.last_arrived_at, d.resolved_at, d.claimed_by,
             d.claimed_until, d.body, encode(d.body_sha256, 'hex') as body_sha256, d.edited_body,
             d.properties, d.headers,
             coalesce(d.properties ->> 'content_type', d.properties ->> 'content-type') as content_type
             from dead_letters_with_charges d where d.id = $1"
        ))
        .bind(id);
        self.call(async |connection| query.fetch_optional(connection).await)
            .await
    }

    /// The chain of replays that the letter stands in, itself included, oldest first.
    pub async fn dead_letter_chain(&self, id: i64) -> Result<Vec<Link>, StorageError> {
        let query = sqlx::query_as(
            "with recursive before as (
                 select d.id from dead_letters d where d.id = $1
                 union select d.id from before b join dead_letters d on d.failed_again_as = b.id
             ), after as (
                 select d.id, d.failed_again_as from dead_letters d where d.id = $1
                 union
                 select d.id, d.failed_again_as from after a join dead_letters d on d.id = a.failed_again_as
             )
             select d.id, d.state, d.reason, d.last_failed_at, d.replayed_at from dead_letters d
             where d.id in (select id from before union select id from after)
             order by d.id limit $2",
        )
        .bind(id)
        .bind(MANY);
        self.call(async |connection| query.fetch_all(connection).await)
            .await
    }

    /// What people did to the letter, the last first.
    pub async fn dead_letter_actions(&self, id: i64) -> Result<Vec<LetterAction>, StorageError> {
        let query = sqlx::query_as(
            "select o.id, a.at, o.actor, o.action, o.reason, o.details
             from dead_letter_actions a join operator_actions o on o.id = a.action_id
             where a.dead_letter_id = $1 order by a.at desc, o.id desc limit $2",
        )
        .bind(id)
        .bind(MANY);
        self.call(async |connection| query.fetch_all(connection).await)
            .await
    }

    /// The books' record of a job.
    pub async fn deduction_record(
        &self,
        key: &str,
    ) -> Result<Option<DeductionRecord>, StorageError> {
        let query = sqlx::query_as(
            "select id, status, company_id, article_id, amount, monthly_deducted, purchased_deducted,
                    balance_before, balance_after, error_code, error_message, retry_count, created_at,
                    completed_at
             from token_deduction_records where idempotency_key = $1",
        )
        .bind(key);
        self.call(async |connection| query.fetch_optional(connection).await)
            .await
    }
}
