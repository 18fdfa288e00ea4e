//! The keys that callers may have, known in this process for a short while.
//!
//! All of them are read at once, at most every [`AGAIN`]: so ten thousand requests with keys that there are not cost no
//! more queries than one.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use subtle::ConstantTimeEq as _;
use time::OffsetDateTime;
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::operations::{
    BearerKey, LiveApiKey, OperationError, Operations, PortalTokenClaim, Scope,
};

/// A key that isn't known may be new: then they are read again, but not more often than this.
const AGAIN: Duration = Duration::from_millis(200);
/// Its last use is noted to the minute.
const NOTED_FOR: time::Duration = time::Duration::minutes(1);

/// Of one process.
pub(super) struct Keyring {
    operations: Arc<Operations>,
    /// How long they are known, `http.keys_ttl`.
    ttl: Duration,
    known: RwLock<Option<Arc<Known>>>,
    reading: Mutex<()>,
}

struct Known {
    keys: HashMap<Uuid, Arc<LiveApiKey>>,
    read_at: Instant,
    /// Those whose use has been noted since, or just before.
    noted: std::sync::Mutex<Vec<Uuid>>,
}

impl Keyring {
    pub(super) fn new(operations: Arc<Operations>, ttl: Duration) -> Self {
        Self {
            operations,
            ttl,
            known: RwLock::default(),
            reading: Mutex::default(),
        }
    }

    /// The key, if there is such a one and the secret is its own.
    pub(super) async fn find(
        &self,
        bearer: &BearerKey,
    ) -> Result<Option<Arc<LiveApiKey>>, OperationError> {
        let key = self.of_id(bearer.id).await?;
        let hash = bearer.secret_sha256();
        // The same work where there is none.
        let known = key.as_ref().map_or(&[0; 32][..], |key| &key.secret_sha256);
        let is_right: bool = known.ct_eq(&hash).into();
        Ok(key.filter(|_| is_right))
    }

    /// The key that has signed the token, if it may and the token is still good.
    pub(super) async fn of_portal(
        &self,
        claim: &PortalTokenClaim,
    ) -> Result<Option<Arc<LiveApiKey>>, OperationError> {
        let key = self.of_id(claim.key_id).await?;
        let now = OffsetDateTime::now_utc();
        Ok(
            key.filter(|key| {
                Scope::Operate.is_among(&key.key.scopes) && claim.is_genuine(key, now)
            }),
        )
    }

    async fn of_id(&self, id: Uuid) -> Result<Option<Arc<LiveApiKey>>, OperationError> {
        let is_good = |known: &Known| {
            let is_there = known.keys.contains_key(&id);
            known.read_at.elapsed()
                < if is_there {
                    self.ttl
                } else {
                    AGAIN.min(self.ttl)
                }
        };
        let mut known = self.known();
        if !known.as_deref().is_some_and(is_good) {
            // One reads, the others wait for what it finds.
            let _reading = self.reading.lock().await;
            known = self.known();
            if !known.as_deref().is_some_and(is_good) {
                known = Some(self.read().await?);
            }
        }
        let Some(known) = known else { return Ok(None) };
        let key = known.keys.get(&id).cloned();
        if let Some(key) = &key {
            self.note_use(&known, key);
        }
        Ok(key)
    }

    fn known(&self) -> Option<Arc<Known>> {
        let known = self.known.read();
        known.unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn read(&self) -> Result<Arc<Known>, OperationError> {
        let keys = self.operations.live_api_keys().await?;
        let keys = keys.into_iter().map(|key| (key.key.id, Arc::new(key)));
        let known = Arc::new(Known {
            keys: keys.collect(),
            read_at: Instant::now(),
            noted: std::sync::Mutex::default(),
        });
        let mut slot = self.known.write().unwrap_or_else(PoisonError::into_inner);
        *slot = Some(known.clone());
        Ok(known)
    }

    /// Beside the call, which it must not delay.
    fn note_use(&self, known: &Known, key: &LiveApiKey) {
        let (id, last) = (key.key.id, key.key.last_used_at);
        if last.is_some_and(|last| OffsetDateTime::now_utc() - last < NOTED_FOR) {
            return;
        }
        let mut noted = known.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.contains(&id) {
            return;
        }
        noted.push(id);
        let operations = self.operations.clone();
        tokio::spawn(async move {
            if let Err(error) = operations.note_api_key_use(id).await {
                tracing::warn!(error.message = %error, "the use of a key was not noted");
            }
        });
    }
}
