//! While the database as a whole is away, a call waits and is made again: nobody's attempt is used up by that.

use super::Worker;
use crate::{
    consuming::{Hold, Requeue},
    reconnect::Reconnect,
    storage::{Fault, StorageError, Waited},
};

impl Worker {
    /// Calls once, and again as long as it is the database as a whole that fails. The error that remains is
    /// about what was asked.
    pub(super) async fn outlast<T, F>(
        &self,
        hold: &Hold,
        call: impl Fn() -> F,
    ) -> Result<Result<T, StorageError>, Requeue>
    where
        F: Future<Output = Result<T, StorageError>>,
    {
        let mut outage = Outage {
            worker: self,
            server: self.storage.server_started_at(),
            reconnect: Reconnect::new(&self.settings.reconnect),
            unexplained: 0,
        };
        loop {
            match call().await {
                Err(error) if outage.explains(&error, hold).await? => hold.check()?,
                answer => return Ok(answer),
            }
        }
    }
}

/// What is known over several tries of one call.
struct Outage<'w> {
    worker: &'w Worker,
    server: Option<time::OffsetDateTime>,
    reconnect: Reconnect,
    /// Connections that broke while the database was there all the time.
    unexplained: u32,
}

impl Outage<'_> {
    /// `true`: the database was away, is back now, and the call should be repeated.
    async fn explains(&mut self, error: &StorageError, hold: &Hold) -> Result<bool, Requeue> {
        let storage = &self.worker.storage;
        if !hold.during(storage.hits_everybody(error)).await? {
            return Ok(false);
        }
        let disconnected = error.fault() == Fault::Disconnected;
        if disconnected {
            storage.distrust_connections();
            tracing::warn!(error.message = %error, "connection lost, or of no use any more");
        } else if error.fault() == Fault::Unavailable {
            storage.distrust_connections();
            storage.heard(Some(error));
            // Whatever the next look says: it may be able to look and still not to work.
            if !hold.during(self.reconnect.wait(&hold.stop)).await? {
                return Err(Requeue);
            }
        }
        let waited = hold
            .during(storage.wait_until_available(&hold.stop))
            .await?;
        let server = storage.server_started_at();
        let restarted = std::mem::replace(&mut self.server, server) != server;
        // It was seen away, or the server that answers now is another process than before.
        if !disconnected || waited == Waited::CameBack || restarted {
            return Ok(true);
        }
        // A first cut may be bad luck; a second one is about what we sent.
        self.unexplained += 1;
        Ok(self.unexplained < 2)
    }
}
