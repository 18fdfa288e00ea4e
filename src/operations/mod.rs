//! What a person may ask for, once for every face: the command line, an HTTP API and a console only parse, authorise
//! and render.
//!
//! An operation takes typed arguments and gives a typed answer, which is also the JSON document that programs read.
//! What goes wrong is an [`OperationError`]: which field, which conflict, which dependency. None of them knows a
//! flag, a status code or a terminal.

mod api_keys;
mod audit;
mod balances;
pub mod dead_letters;
pub mod doctor;
mod events;
mod holds;
mod jobs;
mod ledger;
mod outcome;
mod portal_tokens;
mod reconcile;
pub mod replay;

use std::sync::{Arc, Mutex, OnceLock, Weak};

pub(crate) use api_keys::{ApiKey, ApiKeys, BearerKey, LiveApiKey, Scope};
pub(crate) use audit::{AuditProgress, AuditReport, CHAIN};
pub(crate) use events::{EventFile, EventPublisher, PublishReport, RefusedFile, paid_by};
pub(crate) use holds::{Held, Hold};
pub(crate) use jobs::{JobDeadLetter, JobHistory, JobKey, JobLife, JobReport, Moment};
pub(crate) use ledger::{Balance, CreditGrant, CreditRecord, Preflight, RefundRecord, no_company};
pub(crate) use outcome::{EventOutcome, Outcome};
pub(crate) use portal_tokens::{PortalToken, PortalTokenClaim};
pub(crate) use reconcile::Reconciliation;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::watch;

use crate::{
    broker::{BrokerError, PublishError, Publisher, Topology},
    config::{ConfigError, Settings, redacted_url},
    domain::RetrySchedule,
    storage::{Fault, Storage, StorageError, Trouble},
    telemetry::metrics::Metrics,
};

/// What helps where a table or a function isn't there.
pub(crate) const NOT_MIGRATED: &str = "is the database migrated? (token-billing migrate)";

/// All operations on one installation. Cheap to share; one for a process.
#[derive(Debug)]
pub struct Operations {
    settings: Settings,
    storage: Arc<Storage>,
    /// Opened by the first operation that publishes.
    publisher: OnceLock<Arc<Publisher>>,
    replays: replay::RunningReplays,
    balances: Arc<balances::Balances>,
    /// Of the process, where somebody collects them.
    metrics: Option<Arc<Metrics>>,
    /// Of new dead letters, while somebody watches.
    listener: Mutex<Weak<dead_letters::Listener>>,
}

/// Who asks, for the record in `operator_actions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor(String);

/// Why an operation was not done. Nothing was changed, unless the text says what was.
#[derive(Debug, Clone, Error)]
pub enum OperationError {
    /// There is nothing of that id.
    #[error("{0}")]
    NotFound(String),
    /// An argument that no operation can work with.
    #[error("{field}: {why}")]
    Invalid {
        /// As it is called in JSON.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// What is there forbids it.
    #[error("{why}")]
    Conflict {
        /// Stable, for programs: where an SQL function answered, its code.
        code: &'static str,
        why: String,
    },
    /// Something that is needed is away: the same again later.
    #[error("{why}")]
    Unavailable {
        dependency: Dependency,
        /// What it said.
        why: String,
    },
    /// Others were in the way, with a lock, say: the same again later.
    #[error("{0}")]
    Busy(String),
    /// What no caller can put right.
    #[error("{0}")]
    Internal(String),
}

/// What operations need besides this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dependency {
    Database,
    Broker,
}

impl Operations {
    /// After one successful look that the database is there.
    ///
    /// # Errors
    ///
    /// [`OperationError::Internal`] without `database.url`; [`OperationError::Unavailable`] with the reason.
    pub async fn open(settings: &Settings) -> Result<Self, OperationError> {
        let storage = Arc::new(open_storage(settings).await?);
        Ok(Self::sharing(settings, storage))
    }

    /// On connections that others use too, whether or not the database is there now.
    pub fn sharing(settings: &Settings, storage: Arc<Storage>) -> Self {
        Self {
            settings: settings.clone(),
            balances: balances::Balances::new(storage.clone()),
            storage,
            publisher: OnceLock::new(),
            listener: Mutex::default(),
            replays: replay::RunningReplays::default(),
            metrics: None,
        }
    }

    /// The same, and what replays and audits do is counted.
    #[must_use]
    pub fn counted(self, metrics: Arc<Metrics>) -> Self {
        let metrics = Some(metrics);
        Self { metrics, ..self }
    }

    /// Stops the replays that run, as soon as what they have in flight is finished, and gives the connections back.
    pub async fn close(&self) {
        self.stop().await;
        self.storage.close().await;
    }

    /// As [`close`](Self::close), where others still use the database.
    pub async fn stop(&self) {
        self.replays.stop().await;
        if let Some(publisher) = self.publisher.get() {
            publisher.close().await;
        }
    }

    /// What is wrong with the database by the last thing heard of it.
    pub(crate) fn database_trouble(&self) -> watch::Receiver<Option<Trouble>> {
        self.storage.trouble()
    }

    /// Marks dead letters as resolved whose jobs have been charged by another way. Nobody who looks is stopped if it
    /// can't be done: what the ledger says of a job is read live in any case.
    async fn resolve_charged(&self) {
        if let Err(error) = self.storage.resolve_dead_letters().await {
            tracing::warn!(error.message = %error, "charged dead letters are not marked as resolved");
        }
    }

    /// The way to the exchange; connects when something is published.
    fn publisher(&self) -> Result<&Arc<Publisher>, OperationError> {
        let broker = self.settings.require_broker()?;
        let schedule = RetrySchedule::new(&self.settings.retry);
        let make = || Arc::new(Publisher::plain(broker, &Topology::new(broker, &schedule)));
        Ok(self.publisher.get_or_init(make))
    }
}

/// The database, after one successful look that it is there. Says which database it was otherwise.
pub(crate) async fn open_storage(settings: &Settings) -> Result<Storage, OperationError> {
    let database = settings.require_database()?;
    let away = |error: StorageError| OperationError::Unavailable {
        dependency: Dependency::Database,
        why: format!("database {}: {error}", redacted_url(&database.url)),
    };
    let storage = Storage::new(database, &settings.reconnect).map_err(away)?;
    let storage = storage.for_operators();
    storage.reach().await.map_err(away)?;
    Ok(storage)
}

impl Actor {
    /// Of that name.
    ///
    /// # Errors
    ///
    /// [`OperationError::Invalid`] where it is empty.
    pub fn new(name: &str) -> Result<Self, OperationError> {
        match name.trim() {
            "" => Err(OperationError::invalid("actor", "is empty")),
            _ => Ok(Self(name.to_owned())),
        }
    }

    /// As it stands in the record.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl OperationError {
    /// `field` as it is called in JSON.
    pub fn invalid(field: &'static str, why: impl Into<String>) -> Self {
        let why = why.into();
        Self::Invalid { field, why }
    }

    /// `code` for programs; where an SQL function answered, its own.
    pub fn conflict(code: &'static str, why: impl Into<String>) -> Self {
        let why = why.into();
        Self::Conflict { code, why }
    }
}

impl From<StorageError> for OperationError {
    fn from(error: StorageError) -> Self {
        let dependency = Dependency::Database;
        let why = error.to_string();
        match error.fault() {
            _ if error.is_not_migrated() => Self::Unavailable {
                dependency,
                why: format!("{why}; {NOT_MIGRATED}"),
            },
            Fault::Rejected => Self::Internal(why),
            Fault::Busy => Self::Busy(why),
            _ => Self::Unavailable { dependency, why },
        }
    }
}

impl From<BrokerError> for OperationError {
    fn from(error: BrokerError) -> Self {
        Self::Unavailable {
            dependency: Dependency::Broker,
            why: error.to_string(),
        }
    }
}

impl From<PublishError> for OperationError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Broker(error) => error.into(),
            refused => Self::Unavailable {
                dependency: Dependency::Broker,
                why: refused.to_string(),
            },
        }
    }
}

impl From<ConfigError> for OperationError {
    fn from(error: ConfigError) -> Self {
        Self::Internal(error.to_string())
    }
}

/// What takes long can be spawned, and followed from elsewhere, as by an HTTP handler. That it compiles is the test.
#[cfg(test)]
const _: fn(&'static Operations, &'static EventPublisher, EventFile<std::fs::File>) =
    |operations, events, file| {
        fn spawned(_: impl Future + Send + 'static) {}
        spawned(operations.audit(Default::default()));
        spawned(operations.reconcile(None, false));
        spawned(events.file(file, None, Default::default()));
    };
