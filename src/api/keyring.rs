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
    BearerKey, Dependency, LiveApiKey, OperationError, Operations, PortalTokenClaim, Scope,
};

/// A key that isn't known may be new: then they are read again, but not more often than this. Who sends it waits so long.
const AGAIN: Duration = Duration::from_millis(25);
/// While the database is away, keys that were known so long ago at most are good: events go on being accepted.
const KNOWN_IN_OUTAGE: Duration = Duration::from_mins(15);
/// Between two looks whether a key is still there, for whoever has an answer that does not end.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Its last use is noted to the minute.
const NOTED_FOR: time::Duration = time::Duration::minutes(1);

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
        Ok(self.used(key.filter(|_| is_right)))
    }

    /// Returns when there is no such key any more.
    pub(super) async fn revoked(&self, id: Uuid) {
        loop {
            tokio::time::sleep(self.ttl.max(LOOK_EVERY)).await;
            if let Ok(None) = self.of_id(id).await {
                return;
            }
        }
    }

    /// The key that has signed the token, if it may and the token is still good.
    pub(super) async fn of_portal(
        &self,
        claim: &PortalTokenClaim,
    ) -> Result<Option<Arc<LiveApiKey>>, OperationError> {
        let key = self.of_id(claim.key_id).await?;
        let now = OffsetDateTime::now_utc();
        let may = |key: &Arc<LiveApiKey>| {
            Scope::Operate.is_among(&key.key.scopes) && claim.is_genuine(key, now)
        };
        Ok(self.used(key.filter(may)))
    }

    async fn of_id(&self, id: Uuid) -> Result<Option<Arc<LiveApiKey>>, OperationError> {
        let asked_at = Instant::now();
        let is_good = |known: &Known| match known.keys.contains_key(&id) {
            true => known.read_at.elapsed() < self.ttl,
            false => known.read_at > asked_at,
        };
        let mut known = self.known();
        if !known.as_deref().is_some_and(is_good) {
            if let Some(known) = &known
                && !known.keys.contains_key(&id)
            {
                tokio::time::sleep_until((known.read_at + AGAIN).into()).await;
            }
            // One reads, the others wait for what it finds.
            let _reading = self.reading.lock().await;
            known = self.known();
            if !known.as_deref().is_some_and(is_good) {
                let is_kept = |known: &Arc<Known>| {
                    known.keys.contains_key(&id) && known.read_at.elapsed() < KNOWN_IN_OUTAGE
                };
                known = match self.read_unless_away().await {
                    Ok(read) => Some(read),
                    Err(error) => Some(known.filter(is_kept).ok_or(error)?),
                };
            }
        }
        Ok(known.and_then(|known| known.keys.get(&id).cloned()))
    }

    async fn read_unless_away(&self) -> Result<Arc<Known>, OperationError> {
        let mut trouble = self.operations.database_trouble();
        tokio::select! {
            biased;
            Ok(_) = trouble.wait_for(Option::is_some) => Err(OperationError::Unavailable {
                dependency: Dependency::Database,
                why: "the keys can't be read".to_owned(),
            }),
            read = self.read() => read,
        }
    }

    /// Notes that a key was used whose secret or signature was right.
    fn used(&self, key: Option<Arc<LiveApiKey>>) -> Option<Arc<LiveApiKey>> {
        if let (Some(key), Some(known)) = (&key, self.known()) {
            self.note_use(&known, key);
        }
        key
    }

    fn known(&self) -> Option<Arc<Known>> {
        let known = self.known.read();
        known.unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn read(&self) -> Result<Arc<Known>, OperationError> {
        // Before the look: a key that is added meanwhile may not be in it.
        let read_at = Instant::now();
        let keys = self.operations.live_api_keys().await?;
        let keys = keys.into_iter().map(|key| (key.key.id, Arc::new(key)));
        let known = Arc::new(Known {
            keys: keys.collect(),
            read_at,
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
