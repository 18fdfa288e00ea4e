//! Arrivals as they come, by `last_arrival`: a notification only says "look now".

use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions};

use super::{DeadLetter, Selection};
use crate::storage::{Storage, StorageError};

const CHANNEL: &str = "token_billing_dead_letters";
/// A look without having been told: notifications are lost with a connection that dies without a word.
const LOOK_EVERY: Duration = Duration::from_secs(3);

impl Storage {
    /// The number of the last arrival.
    pub async fn last_arrival(&self) -> Result<i64, StorageError> {
        let query = sqlx::query_scalar("select coalesce(max(last_arrival), 0) from dead_letters");
        self.call(async |connection| query.fetch_one(connection).await)
            .await
    }

    /// At most so many of the selection that arrived after one and by another arrival: the first of them, or the
    /// `latest`, which comes first then.
    pub async fn arrivals(
        &self,
        selection: &Selection,
        (after, by): (i64, i64),
        latest: bool,
        limit: i64,
    ) -> Result<Vec<DeadLetter>, StorageError> {
        let mut query = DeadLetter::query();
        selection.restrict(&mut query);
        query.push(" and d.last_arrival > ").push_bind(after);
        query.push(" and d.last_arrival <= ").push_bind(by);
        query.push(" order by d.last_arrival");
        query.push(if latest { " desc limit " } else { " limit " });
        query.push_bind(limit);
        self.call(async |connection| query.build_query_as().fetch_all(connection).await)
            .await
    }

    /// Calls `arrived` when it listens and whenever something has arrived since, until its connection breaks.
    ///
    /// # Errors
    ///
    /// The database can't be asked. `Ok`: it may be asked again at once.
    pub async fn follow_arrivals(&self, mut arrived: impl FnMut()) -> Result<(), StorageError> {
        self.reach().await?;
        // A pool of its own: it holds its connection for good, and may be the only one that is allowed.
        let pool = PgPoolOptions::new().max_connections(1);
        let pool = pool.connect_lazy_with((*self.pool.connect_options()).clone());
        let listen = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.eager_reconnect(false);
            listener.listen(CHANNEL).await?;
            Ok(listener)
        };
        let mut listener = self.in_time(listen).await?;
        let mut seen = None;
        loop {
            // It listens first: what comes during the look is notified.
            let newest = self.last_arrival().await?;
            if seen.replace(newest) != Some(newest) {
                arrived();
            }
            match tokio::time::timeout(LOOK_EVERY, listener.try_recv()).await {
                // One look answers all that have come so far.
                Ok(Ok(Some(_))) => while listener.next_buffered().is_some() {},
                Ok(_) => return Ok(()),
                Err(_) => {}
            }
        }
    }
}
