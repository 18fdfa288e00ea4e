//! One dead letter with everything that is known about it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use sqlx::{FromRow, QueryBuilder, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{COLUMNS, DeadLetter, DeadLetterState};
use crate::storage::{Storage, StorageError, bounded::Bounded};

/// A dead letter, whole.
#[derive(Debug, Serialize, FromRow, utoipa::ToSchema)]
pub struct FullDeadLetter {
    /// What lists show of it.
    #[serde(flatten)]
    #[sqlx(flatten)]
    pub dead_letter: DeadLetter,
    /// Its error, with ids, numbers and quoted values folded.
    pub error_signature: String,
    /// When it came into the archive.
    #[serde(with = "time::serde::rfc3339")]
    #[sqlx(try_from = "Bounded<OffsetDateTime>")]
    pub archived_at: OffsetDateTime,
    /// When it came last.
    #[serde(with = "time::serde::rfc3339")]
    #[sqlx(try_from = "Bounded<OffsetDateTime>")]
    pub last_arrived_at: OffsetDateTime,
    /// When its job was found charged.
    #[serde(with = "time::serde::rfc3339::option")]
    #[sqlx(try_from = "Bounded<Option<OffsetDateTime>>")]
    pub resolved_at: Option<OffsetDateTime>,
    /// The operator action in whose hands it is, or was last.
    pub claimed_by: Option<i64>,
    /// Until when nobody else may take it.
    #[serde(with = "time::serde::rfc3339::option")]
    #[sqlx(try_from = "Bounded<Option<OffsetDateTime>>")]
    pub claimed_until: Option<OffsetDateTime>,
    /// The body as it came.
    #[schema(value_type = BodyForms)]
    pub body: Body,
    /// SHA-256 of that, in hexadecimal digits.
    pub body_sha256: String,
    /// The body that a replay would send instead.
    #[schema(value_type = Option<BodyForms>)]
    pub edited_body: Option<Body>,
    /// The AMQP properties of the first arrival, a JSON object.
    #[schema(value_type = Object)]
    pub properties: Json<Box<RawValue>>,
    /// The AMQP headers of the first arrival, a JSON object.
    #[schema(value_type = Object)]
    pub headers: Json<Box<RawValue>>,
    /// The `content-type` among the properties.
    #[serde(skip)]
    pub content_type: Option<String>,
}

/// What a message said. As JSON: `BodyForms`.
#[derive(Debug, sqlx::Type)]
#[sqlx(transparent)]
pub struct Body(pub Vec<u8>);

impl Serialize for Body {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = std::str::from_utf8(&self.0).ok();
        let base64 = text.is_none().then(|| STANDARD.encode(&self.0));
        BodyForms { text, base64 }.serialize(serializer)
    }
}

/// What a message said, whole, in the one of two ways that can hold it; the other one is null.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Body)]
struct BodyForms<'a> {
    text: Option<&'a str>,
    base64: Option<String>,
}

/// What the ledger says of a job.
#[derive(Debug, Clone, Serialize, FromRow, utoipa::ToSchema)]
pub struct DeductionRecord {
    pub id: Uuid,
    /// `pending`, `completed`, `failed` or `compensated`.
    pub status: String,
    /// Who paid, or would have.
    pub company_id: Uuid,
    pub article_id: Option<Uuid>,
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
    #[serde(with = "time::serde::rfc3339::option")]
    #[sqlx(try_from = "Bounded<Option<OffsetDateTime>>")]
    pub completed_at: Option<OffsetDateTime>,
}

impl FullDeadLetter {
    /// What a replay would send today.
    pub fn current(&self) -> &[u8] {
        &self.edited_body.as_ref().unwrap_or(&self.body).0
    }

    /// The replay that had it in flight and didn't mark it as sent: it may have been sent all the same.
    pub fn half_replayed_by(&self) -> Option<i64> {
        let is_open = self.dead_letter.state == DeadLetterState::Open;
        self.claimed_by.filter(|_| is_open)
    }
}

impl Storage {
    /// One dead letter, whole.
    pub async fn dead_letter(&self, id: i64) -> Result<Option<FullDeadLetter>, StorageError> {
        let mut query = QueryBuilder::new(format!(
            "select {COLUMNS}, d.error_signature, d.archived_at, d.last_arrived_at, d.resolved_at, d.claimed_by,
                    d.claimed_until, d.body, encode(d.body_sha256, 'hex') as body_sha256, d.edited_body,
                    d.properties, d.headers, d.properties ->> 'content_type' as content_type
             from dead_letters_with_charges d where d.id = "
        ));
        query.push_bind(id);
        self.call(async |connection| query.build_query_as().fetch_optional(connection).await)
            .await
    }

    /// The chain of replays that it stands in, itself included, oldest first: each is the failed replay of the
    /// one before.
    pub async fn dead_letter_chain(&self, id: i64) -> Result<Vec<DeadLetter>, StorageError> {
        let chain = sqlx::query_scalar(include_str!("chain.sql")).bind(id);
        let ids: Vec<i64> = self
            .call(async |connection| chain.fetch_all(connection).await)
            .await?;
        let mut query = DeadLetter::query();
        query.push(" and d.id = any(").push_bind(ids);
        query.push(") order by d.id");
        self.call(async |connection| query.build_query_as().fetch_all(connection).await)
            .await
    }

    /// The ledger's record of a job.
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
