//! Keys for the HTTP API.

use serde::Serialize;
use sqlx::FromRow;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Storage, StorageError, bounded::Bounded};

/// A key, without what proves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
pub(crate) struct ApiKey {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    /// Of `read`, `publish`, `operate`.
    pub(crate) scopes: Vec<String>,
    /// The only company that it sees; `None`: all.
    pub(crate) company_id: Option<Uuid>,
    #[serde(with = "time::serde::rfc3339")]
    #[sqlx(try_from = "Bounded<OffsetDateTime>")]
    pub(crate) created_at: OffsetDateTime,
    /// To the minute.
    #[serde(with = "time::serde::rfc3339::option")]
    #[sqlx(try_from = "Bounded<Option<OffsetDateTime>>")]
    pub(crate) last_used_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    #[sqlx(try_from = "Bounded<Option<OffsetDateTime>>")]
    pub(crate) revoked_at: Option<OffsetDateTime>,
}

/// A key that may be used, with what proves it.
#[derive(FromRow)]
pub(crate) struct LiveApiKey {
    #[sqlx(flatten)]
    pub(crate) key: ApiKey,
    pub(crate) secret_sha256: Vec<u8>,
}

impl Storage {
    /// All keys, the oldest first.
    pub(crate) async fn api_keys(&self) -> Result<Vec<ApiKey>, StorageError> {
        let query = sqlx::query_as(
            "select id, name, scopes, company_id, created_at, last_used_at, revoked_at
             from api_keys order by created_at, id",
        );
        self.call(async |connection| query.fetch_all(connection).await)
            .await
    }

    /// Those that are not revoked.
    pub(crate) async fn live_api_keys(&self) -> Result<Vec<LiveApiKey>, StorageError> {
        let query = sqlx::query_as(
            "select id, name, scopes, company_id, created_at, last_used_at, revoked_at, secret_sha256
             from api_keys where revoked_at is null",
        );
        self.call(async |connection| query.fetch_all(connection).await)
            .await
    }

    pub(crate) async fn add_api_key(
        &self,
        key: &ApiKey,
        secret_sha256: &[u8],
        actor: &str,
    ) -> Result<(), StorageError> {
        let query = sqlx::query("select add_api_key($1, $2, $3, $4, $5, $6)")
            .bind(key.id)
            .bind(&key.name)
            .bind(secret_sha256)
            .bind(&key.scopes)
            .bind(key.company_id)
            .bind(actor);
        self.call(async |connection| query.execute(connection).await)
            .await?;
        Ok(())
    }

    /// Since when it is revoked; `None`: there is no such key.
    pub(crate) async fn revoke_api_key(
        &self,
        id: Uuid,
        actor: &str,
    ) -> Result<Option<OffsetDateTime>, StorageError> {
        let query = sqlx::query_scalar("select revoke_api_key($1, $2)")
            .bind(id)
            .bind(actor);
        self.call(async |connection| query.fetch_one(connection).await)
            .await
    }

    /// Notes that it was used, at most once a minute.
    pub(crate) async fn note_api_key_use(&self, id: Uuid) -> Result<(), StorageError> {
        let query = sqlx::query("select note_api_key_use($1)").bind(id);
        self.call(async |connection| query.execute(connection).await)
            .await?;
        Ok(())
    }
}
