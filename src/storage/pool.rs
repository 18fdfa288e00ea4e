//! Connections, migrations, and knowing whether the database is there.

use std::{
    str::FromStr as _,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use secrecy::ExposeSecret as _;
use sqlx::{
    Connection as _, PgConnection, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Finding, Purpose, StorageError, Trouble, session};
use crate::{config, reconnect::Reconnect};

#[derive(Debug)]
pub struct Storage {
    pub(super) pool: PgPool,
    connect_timeout: Duration,
    /// How long a statement may take before its connection is taken for dead.
    answer_timeout: Duration,
    pub(super) reconnect: config::Reconnect,
    /// What every session sets for itself.
    session_settings: Arc<str>,
    /// What the connected role is for.
    pub(super) purpose: Purpose,
    /// What was wrong by the last thing heard of the database: one log line a change.
    trouble: watch::Sender<Option<Trouble>>,
    seen: Arc<Mutex<Seen>>,
    /// What the last examination found that is no reason to stop.
    pub(super) tolerated: Mutex<Vec<Finding>>,
}

/// The server ends a statement at `database.statement_timeout` by itself; if nothing is heard this long
/// after, the way to it is gone without a word.
const ANSWER_GRACE: Duration = Duration::from_secs(5);

/// What a wait for the database found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// Cancelled before it was there.
    Cancelled,
    /// It was there at the first look.
    Present,
    /// It was away at first, and is there now.
    CameBack,
}

/// What is known of the server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// When the server that answered last was started: another one has been restarted or replaced.
    started_at: Option<OffsetDateTime>,
    /// Connections opened earlier are not used any more.
    trust_since: Instant,
    /// When the installation was found complete. `None`: not yet, or there was trouble since.
    pub(super) examined_at: Option<Instant>,
    /// When a failing statement was last reason to examine it again.
    pub(super) doubted_at: Option<Instant>,
    /// When a statement last found the disk full, until one has written something.
    full_at: Option<Instant>,
}

/// A look writes nothing, so it doesn't find that the disk is full. After this without another word of it, a look is
/// believed again: nobody may have anything to write.
const FULL_FOR: Duration = Duration::from_mins(1);

impl Storage {
    /// Prepares a pool; connects when first used, so that a process may start before its database.
    pub fn new(
        database: &config::Database,
        reconnect: &config::Reconnect,
    ) -> Result<Self, StorageError> {
        let options = PgConnectOptions::from_str(database.url.expose_secret())?
            .application_name("token-billing");
        let settings: Arc<str> = session::settings(database).into();
        let seen = Arc::new(Mutex::new(Seen {
            started_at: None,
            trust_since: Instant::now(),
            examined_at: None,
            doubted_at: None,
            full_at: None,
        }));
        let pool = PgPoolOptions::new()
            .max_connections(database.max_connections)
            .acquire_timeout(database.acquire_timeout)
            // Asking each time costs a round trip a batch. Instead, what is older than the last trouble
            // is thrown away unasked.
            .test_before_acquire(false)
            .before_acquire({
                let seen = seen.clone();
                move |_, connection| {
                    let trusted = connection.age <= look(&seen).trust_since.elapsed();
                    Box::pin(async move { Ok(trusted) })
                }
            })
            .after_connect({
                let settings = settings.clone();
                move |connection, _| {
                    let settings = settings.clone();
                    Box::pin(async move { session::prepare(connection, &settings).await })
                }
            })
            .connect_lazy_with(options);
        Ok(Self {
            pool,
            connect_timeout: database.connect_timeout,
            answer_timeout: database.statement_timeout + ANSWER_GRACE,
            reconnect: reconnect.clone(),
            session_settings: settings,
            purpose: Purpose::Serve,
            trouble: watch::Sender::new(None),
            seen,
            tolerated: Mutex::default(),
        })
    }

    /// The connected role is a person's, not that of `serve`: the rights that it must have are others.
    #[must_use]
    pub fn for_operators(self) -> Self {
        self.for_purpose(Purpose::Operator)
    }

    /// The connected role is for this.
    #[must_use]
    pub fn for_purpose(mut self, purpose: Purpose) -> Self {
        self.purpose = purpose;
        self
    }

    /// Connects once, within `database.connect_timeout`: the pool would go on trying and then say only
    /// that time was up, but a person who waits wants the reason.
    pub async fn reach(&self) -> Result<(), StorageError> {
        Ok(self.connect_once().await?.close().await?)
    }

    /// One look: reachable, writable, migrated, and ours to use? Returns when the server was started.
    /// On a connection of its own, so that it says what is true now.
    pub async fn probe(&self) -> Result<OffsetDateTime, StorageError> {
        let mut connection = self.connect_once().await?;
        let look = match self.purpose {
            Purpose::Serve => {
                "select pg_postmaster_start_time(), current_setting('transaction_read_only')::bool
                 from (select count(*) from charge_events('{}', '{}', '{}', '{}', '{}', '{}', null)) works"
            }
            Purpose::Operator | Purpose::Http => {
                "select pg_postmaster_start_time(), current_setting('transaction_read_only')::bool
                 from (select count(*) from try_events('{}', '{}', '{}', '{}', '{}', '{}', null)) works"
            }
        };
        let look = sqlx::query_as::<_, (OffsetDateTime, bool)>(look).fetch_one(&mut connection);
        let (started_at, read_only) = self.in_time(look).await?;
        connection.close().await?;
        if read_only {
            Err(StorageError::ReadOnly)
        } else {
            Ok(started_at)
        }
    }

    pub(super) async fn connect_once(&self) -> Result<PgConnection, StorageError> {
        let options = self.pool.connect_options();
        self.in_time(async {
            let mut connection = PgConnection::connect_with(&options).await?;
            session::prepare(&mut connection, &self.session_settings).await?;
            Ok(connection)
        })
        .await
    }

    pub(super) async fn in_time<T>(
        &self,
        answer: impl Future<Output = sqlx::Result<T>>,
    ) -> Result<T, StorageError> {
        let answer = tokio::time::timeout(self.connect_timeout, answer).await;
        Ok(answer.map_err(|_| StorageError::NoAnswer)??)
    }

    /// One call on a connection of the pool. A connection that doesn't answer, or whose call is given up,
    /// is closed: back in the pool it would be waited for again.
    pub(super) async fn call<T>(
        &self,
        statement: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
    ) -> Result<T, StorageError> {
        let mut session = self.session().await?;
        let answer = session.call(statement).await;
        session.release();
        answer
    }

    /// A connection of the pool for several calls in a row.
    pub(super) async fn session(&self) -> Result<Session, StorageError> {
        Ok(Session {
            leased: Leased(Some(self.pool.acquire().await?)),
            answer_timeout: self.answer_timeout,
        })
    }

    /// Waits, however long, until the database can work. Says once that it is away, or what is missing, and
    /// once that it is back, whoever asks.
    pub async fn wait_until_available(&self, cancelled: &CancellationToken) -> Waited {
        let mut reconnect = Reconnect::new(&self.reconnect);
        let mut waited = Waited::Present;
        loop {
            let probed = tokio::select! {
                probed = self.examine() => probed,
                () = cancelled.cancelled() => return Waited::Cancelled,
            };
            match probed {
                Ok(started_at) => {
                    if self.seen().full_at.is_none_or(|at| at.elapsed() > FULL_FOR) {
                        self.heard(None);
                    }
                    self.note(|seen| seen.started_at = Some(started_at));
                    return waited;
                }
                Err(error) => {
                    if matches!(error, StorageError::Unprepared(_)) {
                        // What it was opened with may be part of what is fixed.
                        self.distrust_connections();
                    }
                    self.heard(Some(&error));
                }
            }
            self.free_idle_connections();
            waited = Waited::CameBack;
            if !reconnect.wait(cancelled).await {
                return Waited::Cancelled;
            }
        }
    }

    /// Where connections are few, those that lie idle here may be just the ones that the look and the work are
    /// refused for. Let go without a word: the server may not be there to hear it.
    fn free_idle_connections(&self) {
        while let Some(idle) = self.pool.try_acquire() {
            drop(idle.detach());
        }
    }

    /// When the server was started that answered last. If it differs from what it was before a call,
    /// the server went down during that call.
    pub fn server_started_at(&self) -> Option<OffsetDateTime> {
        self.seen().started_at
    }

    /// One connection broke: those opened before now may be just as broken.
    pub fn distrust_connections(&self) {
        self.note(|seen| {
            seen.trust_since = Instant::now();
            // It may be another server that answers next.
            seen.examined_at = None;
        });
    }

    pub(super) fn note(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn seen(&self) -> Seen {
        look(&self.seen)
    }

    /// Something was written: whatever was full is not.
    pub(super) fn wrote(&self) {
        if self.seen().full_at.is_some() {
            self.heard(None);
        }
    }

    /// Notes what was heard of the database, and logs if that is news.
    pub fn heard(&self, error: Option<&StorageError>) {
        let trouble = error.map(StorageError::trouble);
        self.note(|seen| match error {
            Some(error) if error.is_disk_full() => {
                (seen.examined_at, seen.full_at) = (None, Some(Instant::now()));
            }
            Some(_) => seen.examined_at = None,
            None => seen.full_at = None,
        });
        let changed = self
            .trouble
            .send_if_modified(|known| std::mem::replace(known, trouble.clone()) != trouble);
        match (changed, trouble, error) {
            (true, Some(Trouble::Unprepared(_)), Some(error)) => {
                tracing::error!(error.message = %error, "database not ready for use: work pauses");
            }
            (true, _, Some(error)) => {
                tracing::error!(error.message = %error, "database unavailable: work pauses");
            }
            (true, ..) => tracing::info!("database available: work goes on"),
            _ => {}
        }
    }

    /// What was wrong by the last thing heard of the database. Changes can be awaited.
    pub fn trouble(&self) -> watch::Receiver<Option<Trouble>> {
        self.trouble.subscribe()
    }

    /// Closes all connections.
    pub async fn close(&self) {
        // A connection that hangs must not keep a stopping process alive.
        let _ = tokio::time::timeout(Duration::from_secs(5), self.pool.close()).await;
    }
}

/// A connection in use. Dropped with it still inside, it is closed.
struct Leased(Option<PoolConnection<Postgres>>);

impl Drop for Leased {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}

/// One connection for several calls. Dropped without [`Session::release`] it is closed, and the server
/// rolls back what was open on it.
pub(super) struct Session {
    leased: Leased,
    answer_timeout: Duration,
}

impl Session {
    pub(super) async fn call<T>(
        &mut self,
        statement: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
    ) -> Result<T, StorageError> {
        let Some(connection) = self.leased.0.as_mut() else {
            return Err(StorageError::NoAnswer);
        };
        let Ok(answer) = tokio::time::timeout(self.answer_timeout, statement(connection)).await
        else {
            self.leased = Leased(None);
            return Err(StorageError::NoAnswer);
        };
        Ok(answer?)
    }

    /// Back to the pool, unless it gave no answer.
    pub(super) fn release(mut self) {
        drop(self.leased.0.take());
    }
}

fn look(seen: &Mutex<Seen>) -> Seen {
    *seen.lock().unwrap_or_else(PoisonError::into_inner)
}
