//! Arrivals as they come.
//!
//! A notification only says "look now". What is new is asked of the table, by `last_arrival`: whatever was
//! missed while the connection was away is found at the next look.

use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio_util::sync::CancellationToken;

use super::{Letter, Selection};
use crate::reconnect::Reconnect;
use crate::storage::{Storage, StorageError};

const CHANNEL: &str = "token_billing_dead_letters";
/// A look without having been told: notifications are lost with a connection that dies without a word.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// Letters of one look.
const PAGE: i64 = 500;

/// Letters in the order of their arrivals, each again when it arrives again.
#[derive(Debug)]
pub struct Arrivals<'s> {
    storage: &'s Storage,
    selection: Selection,
    /// The last arrival that was looked at.
    seen: i64,
    /// The last look found all there was.
    caught_up: bool,
    listener: Option<PgListener>,
    reconnect: Reconnect,
    cancelled: CancellationToken,
}

/// What [`Arrivals::next`] has to tell.
#[derive(Debug)]
pub enum News {
    /// These arrived, in this order. Several arrivals of one letter since the last look are one.
    Arrived(Vec<Letter>),
    /// The database can't be asked; it is tried again.
    Away(StorageError),
    /// Cancelled.
    Over,
}

impl Storage {
    /// Arrivals from now on, and the last `tail` letters that arrived before, oldest first.
    pub async fn watch_dead_letters(
        &self,
        selection: Selection,
        tail: i64,
        cancelled: CancellationToken,
    ) -> Result<(Vec<Letter>, Arrivals<'_>), StorageError> {
        let seen = self.last_arrival().await?;
        // One that arrives again just now is missing here, and is the first news.
        let query = sqlx::query_as(concat!(
            "select ",
            letter_columns!(),
            " from dead_letters_with_charges d where ",
            selected!(),
            " and d.last_arrival <= $11 order by d.last_arrival desc limit $12"
        ));
        let query = selection.bind(query).bind(seen).bind(tail);
        let mut letters: Vec<Letter> = self
            .call(async |connection| query.fetch_all(connection).await)
            .await?;
        letters.reverse();
        let reconnect = Reconnect::new(&self.reconnect);
        let arrivals = Arrivals {
            storage: self,
            selection,
            seen,
            caught_up: false,
            listener: None,
            reconnect,
            cancelled,
        };
        Ok((letters, arrivals))
    }

    async fn last_arrival(&self) -> Result<i64, StorageError> {
        let query = sqlx::query_scalar("select coalesce(max(last_arrival), 0) from dead_letters");
        self.call(async |connection| query.fetch_one(connection).await)
            .await
    }

    async fn listen(&self) -> Result<PgListener, StorageError> {
        // For the reason, if it can't be reached: a pool only says that time was up.
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
        self.in_time(listen).await
    }
}

impl Arrivals<'_> {
    /// Waits for arrivals, or for something else to tell.
    pub async fn next(&mut self) -> News {
        loop {
            if std::mem::take(&mut self.caught_up) {
                self.wait().await;
            }
            if self.cancelled.is_cancelled() {
                return News::Over;
            }
            match self.look().await {
                Ok(letters) if letters.is_empty() => {}
                Ok(letters) => return News::Arrived(letters),
                Err(error) => {
                    self.listener = None;
                    self.storage.distrust_connections();
                    return if self.reconnect.wait(&self.cancelled).await {
                        News::Away(error)
                    } else {
                        News::Over
                    };
                }
            }
        }
    }

    /// What came since the last look. Listens first: what comes during the look is notified.
    async fn look(&mut self) -> Result<Vec<Letter>, StorageError> {
        if self.listener.is_none() {
            self.listener = Some(self.storage.listen().await?);
        }
        // Between the two statements a letter may arrive again: then it is found next time.
        let newest = self.storage.last_arrival().await?;
        // Less than before: a standby took over that hadn't received everything.
        self.seen = self.seen.min(newest);
        let query = sqlx::query_as(concat!(
            "select ",
            letter_columns!(),
            " from dead_letters_with_charges d where ",
            selected!(),
            " and d.last_arrival > $11 and d.last_arrival <= $12 order by d.last_arrival limit $13"
        ));
        let query = self.selection.bind(query).bind(self.seen);
        let query = query.bind(newest).bind(PAGE);
        let letters: Vec<Letter> = self
            .storage
            .call(async |connection| query.fetch_all(connection).await)
            .await?;
        self.reconnect.reset();
        self.caught_up = (letters.len() as i64) < PAGE;
        self.seen = match letters.last() {
            Some(last) if !self.caught_up => last.last_arrival,
            // What doesn't match needn't be looked at again.
            _ => newest,
        };
        Ok(letters)
    }

    /// Until there may be something new.
    async fn wait(&mut self) {
        let told = async {
            let Some(listener) = self.listener.as_mut() else {
                return true;
            };
            let told = listener.try_recv().await;
            // One look answers all that have come so far.
            while listener.next_buffered().is_some() {}
            matches!(told, Ok(Some(_)))
        };
        tokio::select! {
            intact = told => if !intact { self.listener = None },
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = self.cancelled.cancelled() => {}
        }
    }
}
