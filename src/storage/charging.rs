//! Charging a batch of events.

use std::time::Duration;

use sqlx::{FromRow, PgConnection};
use tracing::{Instrument as _, field::Empty, trace_span};
use uuid::Uuid;

use super::{Storage, StorageError, pool::Session};
use crate::{
    domain::{CompletionEvent, Deduction, Locked, PendingMark, Reason, Refusal},
    telemetry::traces,
};

/// Item and outcome of each event that was not simply charged; item 0: the error for which the batch was charged slowly.
pub(super) const CHARGE: &str = "select item, outcome, error_message, job_status_error
     from charge_events($1, $2, $3, $4, $5::text[]::jsonb[], $6, $7)
     union all
     select 0, 'fell_back', current_setting('token_billing.fell_back', true), null
     where current_setting('token_billing.fell_back', true) <> ''";
/// The same in a transaction that can't be committed.
pub(super) const TRY: &str = "select item, outcome, error_message, job_status_error
     from try_events($1, $2, $3, $4, $5::text[]::jsonb[], $6, $7)";

/// An event that was not simply charged.
#[derive(FromRow)]
struct Exception {
    item: i32,
    outcome: String,
    error_message: Option<String>,
    job_status_error: Option<String>,
}

/// What the ledger answered to a batch.
#[derive(Debug)]
pub struct Answers {
    /// One per event, in order.
    pub deductions: Vec<Deduction>,
    /// The error for which the batch couldn't be charged the fast way, if there was one: a trigger of the application's,
    /// say. It may be one event's fault, or everybody's.
    pub fell_back: Option<String>,
}

impl Storage {
    /// Charges each event once. One transaction for all: an error means
    /// that nothing of this call happened (or, if the connection broke, that it may all have; asking
    /// again then finds what happened).
    ///
    /// An event whose company or job somebody holds is answered [`Deduction::Locked`]. With `lock_wait`, each company is
    /// waited for at most so long instead, and then all of this call fails.
    pub async fn deduct(
        &self,
        events: &[&CompletionEvent],
        lock_wait: Option<Duration>,
    ) -> Result<Answers, StorageError> {
        let mut session = self.session().await?;
        let span = trace_span!(
            target: traces::TARGET,
            "charge_events",
            otel.kind = "client",
            otel.status_code = Empty,
            otel.status_description = Empty,
            db.system.name = "postgresql",
            db.operation.name = "charge_events",
            db.operation.batch.size = events.len(),
        );
        let charging = deduct_in(&mut session, CHARGE, events, lock_wait);
        let answers = charging.instrument(span.clone()).await;
        session.release();
        if let Err(error) = &answers {
            span.record("otel.status_code", "ERROR");
            span.record("otel.status_description", tracing::field::display(error));
        }
        let is_written = |answer: &Deduction| matches!(answer, Deduction::Charged { .. });
        let wrote = |all: &Answers| all.deductions.iter().any(is_written);
        if answers.as_ref().is_ok_and(wrote) {
            self.wrote();
        }
        answers
    }

    /// Records these charges as pending, in one transaction; one mark per event, in order. Takes no
    /// company lock: that lock may be just what could not be had.
    pub async fn mark_pending(
        &self,
        events: &[(&CompletionEvent, &str)],
    ) -> Result<Vec<PendingMark>, StorageError> {
        let (events, errors): (Vec<&CompletionEvent>, Vec<&str>) = events.iter().copied().unzip();
        let arrays = Arrays::of(&events);
        let query = sqlx::query_scalar(
            "select mark from mark_events_pending($1, $2, $3, $4, $5::text[]::jsonb[], $6, $7) order by item",
        )
        .bind(&arrays.job_ids)
        .bind(&arrays.company_ids)
        .bind(&arrays.article_ids)
        .bind(&arrays.amounts)
        .bind(&arrays.metadata)
        .bind(&arrays.usage_types)
        .bind(&errors);
        let marks: Vec<String> = self
            .call(async |connection| query.fetch_all(connection).await)
            .await?;
        let unexpected = |answer| StorageError::Unexpected {
            function: "mark_events_pending",
            answer,
        };
        if marks.len() != events.len() {
            let (marks, events) = (marks.len(), events.len());
            return Err(unexpected(format!("{marks} marks for {events} events")));
        }
        let mark = |mark: String| match mark.as_str() {
            "pending" => Ok(PendingMark::Pending),
            "charged" => Ok(PendingMark::Charged),
            "no_company" => Ok(PendingMark::NoCompany),
            "decided" => Ok(PendingMark::Decided),
            _ => Err(unexpected(mark)),
        };
        marks.into_iter().map(mark).collect()
    }
}

/// What [`Storage::deduct`] does with this query, also within a transaction that is open in this session.
pub(super) async fn deduct_in(
    session: &mut Session,
    sql: &'static str,
    events: &[&CompletionEvent],
    lock_wait: Option<Duration>,
) -> Result<Answers, StorageError> {
    let mut fell_back = None;
    let mut deductions = vec![
        Deduction::Charged {
            job_status_error: None
        };
        events.len()
    ];
    if events.is_empty() {
        return Ok(Answers {
            deductions,
            fell_back,
        });
    }
    let exceptions = session
        .call(async |connection| exceptions(connection, sql, events, lock_wait).await)
        .await?;
    for exception in exceptions {
        // Of no event.
        if exception.item == 0 {
            fell_back = exception.error_message;
            continue;
        }
        let place = usize::try_from(exception.item - 1).ok();
        let Some(answer) = place.and_then(|place| deductions.get_mut(place)) else {
            return Err(unexpected(format!("item {}", exception.item)));
        };
        *answer = deduction(exception)?;
    }
    Ok(Answers {
        deductions,
        fell_back,
    })
}

async fn exceptions(
    connection: &mut PgConnection,
    sql: &'static str,
    events: &[&CompletionEvent],
    lock_wait: Option<Duration>,
) -> sqlx::Result<Vec<Exception>> {
    let arrays = Arrays::of(events);
    let lock_wait_ms = lock_wait.map(|wait| i32::try_from(wait.as_millis()).unwrap_or(i32::MAX));
    sqlx::query_as(sql)
        .bind(&arrays.job_ids)
        .bind(&arrays.company_ids)
        .bind(&arrays.article_ids)
        .bind(&arrays.amounts)
        .bind(&arrays.metadata)
        .bind(&arrays.usage_types)
        .bind(lock_wait_ms)
        .fetch_all(connection)
        .await
}

fn deduction(exception: Exception) -> Result<Deduction, StorageError> {
    let Exception {
        outcome,
        error_message,
        job_status_error,
        ..
    } = exception;
    Ok(match outcome.as_str() {
        "charged" => Deduction::Charged { job_status_error },
        "charged_before" => Deduction::AlreadyCharged,
        "job_not_found" => Deduction::JobNotFound,
        "company_locked" => Deduction::Locked(Locked::Company),
        "job_locked" => Deduction::Locked(Locked::Job),
        _ => {
            let Some(reason) = Reason::parse(&outcome) else {
                return Err(unexpected(outcome));
            };
            if let Some(error) = &job_status_error {
                tracing::warn!(
                    error.message = error,
                    "article_jobs refused the status `failed`"
                );
            }
            Deduction::Refused(Refusal {
                reason,
                message: error_message.unwrap_or(outcome),
                job_status_error,
            })
        }
    })
}

fn unexpected(answer: String) -> StorageError {
    StorageError::Unexpected {
        function: "charge_events",
        answer,
    }
}

/// The parallel arrays of one call. Built together, so that they can't differ in length: UNNEST would
/// fill a short one with NULLs.
struct Arrays<'e> {
    job_ids: Vec<Uuid>,
    company_ids: Vec<Option<Uuid>>,
    article_ids: Vec<Option<Uuid>>,
    amounts: Vec<i64>,
    metadata: Vec<&'e str>,
    usage_types: Vec<&'e str>,
}

impl<'e> Arrays<'e> {
    fn of(events: &[&'e CompletionEvent]) -> Self {
        fn column<'e, T>(
            events: &[&'e CompletionEvent],
            of: impl Fn(&'e CompletionEvent) -> T,
        ) -> Vec<T> {
            events.iter().map(|event| of(event)).collect()
        }
        Self {
            job_ids: column(events, CompletionEvent::job_id),
            company_ids: column(events, CompletionEvent::company_id),
            article_ids: column(events, CompletionEvent::article_id),
            amounts: column(events, CompletionEvent::tokens),
            metadata: column(events, CompletionEvent::metadata),
            usage_types: column(events, CompletionEvent::usage_type),
        }
    }
}
