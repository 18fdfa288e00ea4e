//! Charging a batch of events.

use std::collections::HashMap;

use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::{Storage, StorageError, pool::Session};
use crate::domain::{Charge, CompletionEvent, Deduction, PendingMark, Reason, Receipt, Refusal};

#[derive(FromRow)]
struct ResultRow {
    idempotent: bool,
    error: Option<String>,
    error_message: Option<String>,
    deduction_record_id: Option<Uuid>,
    monthly_deducted: i64,
    purchased_deducted: i64,
    balance_before: Option<i64>,
    balance_after: Option<i64>,
    job_status_error: Option<String>,
}

/// The company and article of an event, its own or its job's.
enum Resolved<'e> {
    Chargeable(Charge<'e>),
    Answered(Deduction),
}

impl Storage {
    /// Charges each event once; one answer per event, in order. One transaction for all: an error means
    /// that nothing of this call happened (or, if the connection broke, that it may all have; asking
    /// again then finds the original results).
    pub async fn deduct(
        &self,
        events: &[&CompletionEvent],
    ) -> Result<Vec<Deduction>, StorageError> {
        let mut session = self.session().await?;
        let answers = deduct_in(&mut session, events).await;
        session.release();
        let is_written = |answer: &Deduction| matches!(answer, Deduction::Charged(_));
        if answers.as_ref().is_ok_and(|all| all.iter().any(is_written)) {
            self.wrote();
        }
        answers
    }

    /// The function alone, for charges that are resolved.
    pub(super) async fn deduct_batch(
        &self,
        charges: &[Charge<'_>],
    ) -> Result<Vec<Deduction>, StorageError> {
        let mut session = self.session().await?;
        let answers = charge_in(&mut session, charges).await;
        session.release();
        answers
    }

    /// Records these charges as pending, in one transaction; one mark per event, in order. Takes no
    /// company lock: that lock may be just what could not be had.
    pub async fn mark_pending(
        &self,
        events: &[(&CompletionEvent, &str)],
    ) -> Result<Vec<PendingMark>, StorageError> {
        let asked: Vec<&CompletionEvent> = events.iter().map(|(event, _)| *event).collect();
        let resolved = self
            .call(async |connection| resolve_all(connection, &asked).await)
            .await?;
        let mut marks = vec![PendingMark::NoCompany; events.len()];
        let (mut places, mut charges, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        for (place, resolved) in resolved.into_iter().enumerate() {
            match resolved {
                Resolved::Chargeable(charge) => {
                    places.push(place);
                    charges.push(charge);
                    errors.push(events[place].1);
                }
                Resolved::Answered(Deduction::JobNotFound) => {}
                // No debt: the next try is answered with the refusal.
                Resolved::Answered(_) => marks[place] = PendingMark::Decided,
            }
        }
        let arrays = Arrays::of(&charges);
        let query = sqlx::query_as::<_, (String, bool)>(
            "select status, same_request
             from mark_deductions_pending($1, $2, $3, $4, $5::text[]::jsonb[], $6, $7, $8)",
        )
        .bind(&arrays.keys)
        .bind(&arrays.company_ids)
        .bind(&arrays.article_ids)
        .bind(&arrays.amounts)
        .bind(&arrays.metadata)
        .bind(&arrays.usage_types)
        .bind(&arrays.job_ids)
        .bind(&errors);
        let rows = self
            .call(async |connection| query.fetch_all(connection).await)
            .await?;
        if rows.len() != charges.len() {
            return Err(StorageError::Unexpected {
                function: "mark_deductions_pending",
                answer: format!("{} results for {} charges", rows.len(), charges.len()),
            });
        }
        for (place, (status, same_request)) in places.into_iter().zip(rows) {
            marks[place] = match (status.as_str(), same_request) {
                ("pending", true) => PendingMark::Pending,
                ("completed", true) => PendingMark::Charged,
                _ => PendingMark::Decided,
            };
        }
        Ok(marks)
    }
}

/// What [`Storage::deduct`] does, also within a transaction that is open in this session.
pub(super) async fn deduct_in(
    session: &mut Session,
    events: &[&CompletionEvent],
) -> Result<Vec<Deduction>, StorageError> {
    let resolved = session
        .call(async |connection| resolve_all(connection, events).await)
        .await?;
    let mut answers = charge_in(session, &chargeable(&resolved))
        .await?
        .into_iter();
    let answer = |resolved| match resolved {
        Resolved::Chargeable(_) => answers.next(),
        Resolved::Answered(deduction) => Some(deduction),
    };
    Ok(resolved.into_iter().filter_map(answer).collect())
}

async fn charge_in(
    session: &mut Session,
    charges: &[Charge<'_>],
) -> Result<Vec<Deduction>, StorageError> {
    if charges.is_empty() {
        return Ok(Vec::new());
    }
    let rows = session
        .call(async |connection| deduct_rows(connection, charges).await)
        .await?;
    if rows.len() == charges.len() {
        return rows.into_iter().map(deduction).collect();
    }
    let (rows, charges) = (rows.len(), charges.len());
    Err(unexpected(format!("{rows} results for {charges} charges")))
}

/// What is known of a job: its company, and perhaps its article.
type Jobs = HashMap<Uuid, (Uuid, Option<Uuid>)>;

/// Finds company and article where an event leaves them out, and compares where both name one. A job whose row is gone
/// is known by its record: charged again, it is answered with its first result.
async fn resolve_all<'e>(
    connection: &mut PgConnection,
    events: &[&'e CompletionEvent],
) -> sqlx::Result<Vec<Resolved<'e>>> {
    let ids: Vec<Uuid> = events.iter().map(|event| event.job_id()).collect();
    let jobs = known(
        "select id, company_id, article_id from article_jobs where id = any($1) and company_id is not null",
        &ids,
        connection,
    )
    .await?;
    let is_lost = |event: &&&CompletionEvent| {
        event.company_id().is_none() && !jobs.contains_key(&event.job_id())
    };
    let lost: Vec<Uuid> = events
        .iter()
        .filter(is_lost)
        .map(|event| event.job_id())
        .collect();
    let recorded = match lost.is_empty() {
        true => Jobs::new(),
        false => known(RECORDED, &lost, connection).await?,
    };
    let of = |event: &CompletionEvent| {
        let id = event.job_id();
        jobs.get(&id).or_else(|| recorded.get(&id)).copied()
    };
    Ok(events
        .iter()
        .map(|event| resolve(event, of(event)))
        .collect())
}

/// Each by its key, whatever a plan made on an empty table would rather do.
const RECORDED: &str = "select i.id, r.company_id, r.article_id
     from unnest($1) as i (id)
     cross join lateral (
         select r.company_id, r.article_id from token_deduction_records r
         where r.idempotency_key = i.id::text collate \"C\" offset 0
     ) r";

async fn known(
    query: &'static str,
    ids: &[Uuid],
    connection: &mut PgConnection,
) -> sqlx::Result<Jobs> {
    let rows = sqlx::query_as::<_, (Uuid, Uuid, Option<Uuid>)>(query)
        .bind(ids)
        .fetch_all(connection)
        .await?;
    Ok(rows
        .into_iter()
        .map(|(id, company_id, article_id)| (id, (company_id, article_id)))
        .collect())
}

fn chargeable<'e>(resolved: &[Resolved<'e>]) -> Vec<Charge<'e>> {
    let charge = |resolved: &Resolved<'e>| match resolved {
        Resolved::Chargeable(charge) => Some(*charge),
        Resolved::Answered(_) => None,
    };
    resolved.iter().filter_map(charge).collect()
}

async fn deduct_rows(
    connection: &mut PgConnection,
    charges: &[Charge<'_>],
) -> sqlx::Result<Vec<ResultRow>> {
    let arrays = Arrays::of(charges);
    sqlx::query_as(
        "select idempotent, error, error_message, deduction_record_id, monthly_deducted,
                purchased_deducted, balance_before, balance_after, job_status_error
         from deduct_tokens_batch($1, $2, $3, $4, $5::text[]::jsonb[], $6, $7)",
    )
    .bind(&arrays.keys)
    .bind(&arrays.company_ids)
    .bind(&arrays.article_ids)
    .bind(&arrays.amounts)
    .bind(&arrays.metadata)
    .bind(&arrays.usage_types)
    .bind(&arrays.job_ids)
    .fetch_all(connection)
    .await
}

fn resolve(event: &CompletionEvent, job: Option<(Uuid, Option<Uuid>)>) -> Resolved<'_> {
    let article_id = event
        .article_id()
        .or(job.and_then(|(_, article_id)| article_id));
    match (event.company_id(), job) {
        (Some(company_id), Some((jobs_company_id, _))) if company_id != jobs_company_id => {
            Resolved::Answered(Deduction::Refused(Refusal {
                reason: Reason::CompanyMismatch,
                message: format!(
                    "company_id: the event names {company_id}, article_jobs names {jobs_company_id}"
                ),
            }))
        }
        (Some(company_id), _) | (None, Some((company_id, _))) => Resolved::Chargeable(Charge {
            event,
            company_id,
            article_id,
        }),
        (None, None) => Resolved::Answered(Deduction::JobNotFound),
    }
}

fn deduction(row: ResultRow) -> Result<Deduction, StorageError> {
    let Some(error) = row.error else {
        let (Some(deduction_record_id), Some(balance_before), Some(balance_after)) = (
            row.deduction_record_id,
            row.balance_before,
            row.balance_after,
        ) else {
            return Err(unexpected("a charge without its figures".into()));
        };
        let receipt = Receipt {
            deduction_record_id,
            balance_before,
            balance_after,
            monthly_deducted: row.monthly_deducted,
            purchased_deducted: row.purchased_deducted,
            job_status_error: row.job_status_error,
        };
        return Ok(if row.idempotent {
            Deduction::AlreadyCharged(receipt)
        } else {
            Deduction::Charged(receipt)
        });
    };
    let Some(reason) = Reason::parse(&error) else {
        return Err(unexpected(error));
    };
    if let Some(refusal) = row.job_status_error {
        tracing::warn!(
            error.message = refusal,
            "article_jobs refused the status `failed`"
        );
    }
    Ok(Deduction::Refused(Refusal {
        reason,
        message: row.error_message.unwrap_or(error),
    }))
}

fn unexpected(answer: String) -> StorageError {
    StorageError::Unexpected {
        function: "deduct_tokens_batch",
        answer,
    }
}

/// The parallel arrays of one call. Built together, so that they can't differ in length: UNNEST would
/// fill a short one with NULLs.
struct Arrays<'e> {
    keys: Vec<String>,
    company_ids: Vec<Uuid>,
    article_ids: Vec<Option<Uuid>>,
    amounts: Vec<i64>,
    metadata: Vec<&'e str>,
    usage_types: Vec<&'e str>,
    job_ids: Vec<Uuid>,
}

impl<'e> Arrays<'e> {
    fn of(charges: &[Charge<'e>]) -> Self {
        fn column<'e, T>(charges: &[Charge<'e>], of: impl Fn(&Charge<'e>) -> T) -> Vec<T> {
            charges.iter().map(of).collect()
        }
        Self {
            keys: column(charges, |one| one.event.job_id().to_string()),
            company_ids: column(charges, |one| one.company_id),
            article_ids: column(charges, |one| one.article_id),
            amounts: column(charges, |one| one.event.tokens()),
            metadata: column(charges, |one| one.event.metadata()),
            usage_types: column(charges, |one| one.event.usage_type()),
            job_ids: column(charges, |one| one.event.job_id()),
        }
    }
}
