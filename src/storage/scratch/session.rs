//! One connection to a scratch database.

use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use super::{
    super::{
        StorageError,
        charging::{CHARGE, deduct_in},
        pool::Session,
    },
    Scratch,
};
use crate::domain::{CompletionEvent, Deduction};

/// A connection, whose server process is known.
pub struct ScratchSession {
    session: Session,
    /// Of the server process, on the server's machine.
    pub pid: i32,
    /// The scratch database's name, which no other has.
    pub database: String,
}

impl Scratch {
    /// A connection for several calls in a row.
    pub async fn session(&self) -> Result<ScratchSession, StorageError> {
        let mut session = self.storage.session().await?;
        let pid = session
            .call(async |connection| {
                sqlx::query_scalar("select pg_backend_pid()")
                    .fetch_one(connection)
                    .await
            })
            .await?;
        Ok(ScratchSession {
            session,
            pid,
            database: self.name.clone(),
        })
    }

    /// Locks the rows of these companies, until [`LockedCompanies::release`].
    pub async fn lock_companies(&self, ids: &[Uuid]) -> Result<LockedCompanies, StorageError> {
        let mut connection = self.connect().await?;
        sqlx::raw_sql("begin").execute(&mut connection).await?;
        sqlx::query(
            "select from company_subscriptions where company_id = any ($1) order by company_id for update",
        )
        .bind(ids)
        .execute(&mut connection)
        .await?;
        Ok(LockedCompanies(connection))
    }
}

impl ScratchSession {
    /// Charges as the worker does: one call, one transaction.
    pub async fn deduct(
        &mut self,
        events: &[&CompletionEvent],
    ) -> Result<Vec<Deduction>, StorageError> {
        let answers = deduct_in(&mut self.session, CHARGE, events, None).await?;
        Ok(answers.deductions)
    }

    /// Calls `bench_floor`, which has to be there, as [`deduct`](Self::deduct) calls `charge_events`.
    pub async fn floor(&mut self, events: &[&CompletionEvent]) -> Result<(), StorageError> {
        fn column<'e, T>(
            events: &[&'e CompletionEvent],
            of: impl Fn(&'e CompletionEvent) -> T,
        ) -> Vec<T> {
            events.iter().map(|event| of(event)).collect()
        }
        let query = sqlx::query("select bench_floor($1, $2, $3, $4, $5::text[]::jsonb[], $6, $7)")
            .bind(column(events, CompletionEvent::job_id))
            .bind(column(events, CompletionEvent::company_id))
            .bind(column(events, CompletionEvent::article_id))
            .bind(column(events, CompletionEvent::tokens))
            .bind(column(events, CompletionEvent::metadata))
            .bind(column(events, CompletionEvent::usage_type))
            .bind(None::<i32>);
        self.session
            .call(async |connection| query.execute(connection).await)
            .await?;
        Ok(())
    }
}

/// An open transaction that holds companies' rows. Dropped, it ends as well, but nobody waits for that.
#[derive(Debug)]
pub struct LockedCompanies(PgConnection);

impl LockedCompanies {
    /// Lets them go; returns when they are free.
    pub async fn release(mut self) -> Result<(), StorageError> {
        sqlx::raw_sql("rollback").execute(&mut self.0).await?;
        Ok(self.0.close().await?)
    }
}
