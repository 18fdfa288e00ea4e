//! Keys for the HTTP API: made, listed, revoked, and known from what a caller sends.

use std::fmt::{self, Write as _};

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Actor, OperationError, Operations};
pub(crate) use crate::storage::{ApiKey, LiveApiKey};

/// Characters of a name.
const NAME_MAX: usize = 100;
/// Bytes of a secret.
const SECRET_BYTES: usize = 32;

/// What a key allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Scope {
    /// Looking: balances, preflight, jobs, dead letters, the audit
    Read,
    /// Publishing events; holding tokens and releasing them
    Publish,
    /// What changes something by hand: credits (of its own company too), refunds, replays, portal tokens
    Operate,
}

/// A key as its holder sends it: `tb_<id>_<secret>`.
pub(crate) struct BearerKey {
    pub(crate) id: Uuid,
    secret: String,
}

/// A new key. Nothing shows the token a second time.
#[derive(Debug, Serialize)]
pub(crate) struct NewApiKey {
    #[serde(flatten)]
    pub(crate) key: ApiKey,
    /// `tb_<id>_<secret>`.
    #[serde(serialize_with = "exposed")]
    pub(crate) token: SecretString,
}

#[derive(Debug, Serialize)]
pub(crate) struct ApiKeys {
    pub(crate) keys: Vec<ApiKey>,
}

/// What came of revoking.
#[derive(Debug, Serialize)]
pub(crate) struct RevokedApiKey {
    pub(crate) id: Uuid,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) revoked_at: OffsetDateTime,
}

impl Operations {
    /// Makes a key.
    ///
    /// # Errors
    ///
    /// [`OperationError::Invalid`]: a name that is empty, too long or not printable, or no scope.
    pub(crate) async fn add_api_key(
        &self,
        name: &str,
        scopes: &[Scope],
        company: Option<Uuid>,
        actor: &Actor,
    ) -> Result<NewApiKey, OperationError> {
        let name = name.trim();
        if name.is_empty() || name.chars().count() > NAME_MAX || name.chars().any(char::is_control)
        {
            let why =
                format!("is not 1 to {NAME_MAX} characters, none of them a control character");
            return Err(OperationError::invalid("name", why));
        }
        let mut scopes: Vec<String> = scopes
            .iter()
            .map(|scope| scope.as_str().to_owned())
            .collect();
        scopes.sort_unstable();
        scopes.dedup();
        if scopes.is_empty() {
            return Err(OperationError::invalid("scope", "is missing"));
        }
        let secret = random_secret()?;
        let key = ApiKey {
            id: Uuid::new_v4(),
            name: name.to_owned(),
            scopes,
            company_id: company,
            created_at: OffsetDateTime::now_utc(),
            last_used_at: None,
            revoked_at: None,
        };
        let token = format!("tb_{}_{secret}", key.id.simple());
        let hash = Sha256::digest(secret.as_bytes());
        self.storage.add_api_key(&key, &hash, actor.name()).await?;
        Ok(NewApiKey {
            key,
            token: token.into(),
        })
    }

    /// All keys, revoked ones too, the oldest first.
    pub(crate) async fn api_keys(&self) -> Result<ApiKeys, OperationError> {
        let keys = self.storage.api_keys().await?;
        Ok(ApiKeys { keys })
    }

    /// Whether there is a key that may be used.
    pub(crate) async fn has_api_key(&self) -> Result<bool, OperationError> {
        Ok(!self.storage.live_api_keys().await?.is_empty())
    }

    /// Those that may be used, with what proves them.
    pub(crate) async fn live_api_keys(&self) -> Result<Vec<LiveApiKey>, OperationError> {
        Ok(self.storage.live_api_keys().await?)
    }

    pub(crate) async fn note_api_key_use(&self, id: Uuid) -> Result<(), OperationError> {
        Ok(self.storage.note_api_key_use(id).await?)
    }

    /// Revokes a key; of one that is revoked already it says since when.
    ///
    /// # Errors
    ///
    /// [`OperationError::NotFound`].
    pub(crate) async fn revoke_api_key(
        &self,
        id: Uuid,
        actor: &Actor,
    ) -> Result<RevokedApiKey, OperationError> {
        let revoked = self.storage.revoke_api_key(id, actor.name()).await?;
        let none = || OperationError::NotFound(format!("there is no key {id}"));
        let revoked_at = revoked.ok_or_else(none)?;
        Ok(RevokedApiKey { id, revoked_at })
    }
}

impl Scope {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Publish => "publish",
            Self::Operate => "operate",
        }
    }

    pub(crate) fn is_among(self, scopes: &[String]) -> bool {
        scopes.iter().any(|scope| scope == self.as_str())
    }
}

impl BearerKey {
    /// `None`: it can't be a key of ours, whatever the database has.
    pub(crate) fn parse(token: &str) -> Option<Self> {
        let (id, secret) = token.strip_prefix("tb_")?.split_once('_')?;
        let is_hex = |text: &str, len| {
            text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        let is_one = is_hex(id, 32) && is_hex(secret, 2 * SECRET_BYTES);
        let id = Uuid::try_parse(id).ok().filter(|_| is_one)?;
        Some(Self {
            id,
            secret: secret.to_owned(),
        })
    }

    /// What the database has of it, if it is genuine.
    pub(crate) fn secret_sha256(&self) -> [u8; 32] {
        Sha256::digest(self.secret.as_bytes()).into()
    }
}

impl fmt::Debug for BearerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {}", self.id)
    }
}

fn random_secret() -> Result<String, OperationError> {
    let mut bytes = [0; SECRET_BYTES];
    getrandom::fill(&mut bytes)
        .map_err(|error| OperationError::Internal(format!("no random bytes: {error}")))?;
    Ok(hex(&bytes))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn exposed<S: Serializer>(token: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(token.expose_secret())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_looks_like_a_key_is_taken_for_one() {
        let (id, secret) = ("0123456789abcdef0123456789abcdef", "a".repeat(64));
        let token = format!("tb_{id}_{secret}");
        let key = BearerKey::parse(&token).expect("a key");
        assert_eq!(key.id.simple().to_string(), id);
        assert!(!format!("{key:?}").contains(&secret));
        for token in [
            String::new(),
            "tb_".to_owned(),
            format!("tb_{id}"),
            format!("tb_{id}_"),
            format!("tb_{id}_{secret}a"),
            format!("tb_{id}_{}", secret.to_uppercase()),
            format!("tb_{id}_{}", "ü".repeat(32)),
            format!("xx_{id}_{secret}"),
        ] {
            assert!(BearerKey::parse(&token).is_none(), "{token}");
        }
    }
}
