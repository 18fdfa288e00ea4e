//! Publishing completion events.

use std::io::Cursor;

use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use serde::Serialize;
use tokio::sync::watch;
use utoipa::ToSchema;

use super::{
    Api,
    extract::{Received, media_type, unsupported},
    gate::Caller,
    problem::{Problem, ProblemDocument},
};
use crate::{
    domain::CompletionEvent,
    operations::{Dependency, EventFile, OperationError, PublishReport, RefusedFile, paid_by},
    telemetry::{requests, traces},
};

pub(super) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// What the broker has confirmed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Accepted {
    /// Events.
    accepted: u64,
}

/// A completion event.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only documents what is read")]
pub(super) struct Event {
    /// The finished job, a UUID: it is charged once, whatever happens
    job_id: uuid::Uuid,
    #[schema(minimum = 1)]
    tokens: i64,
    /// Who pays; looked up by the job if absent
    company_id: Option<uuid::Uuid>,
    /// Looked up by the job if absent
    article_id: Option<uuid::Uuid>,
    usage_type: Option<String>,
    #[schema(format = DateTime)]
    occurred_at: Option<String>,
    /// Kept with the charge
    #[schema(value_type = Option<Object>)]
    metadata: Option<()>,
}

/// Publishes one event, or many
///
/// One object (`application/json`, or a CloudEvents envelope as `application/cloudevents+json`), or one a line
/// (`application/x-ndjson`). All are checked before the first is sent, and 202 means that the broker has confirmed each.
/// After any other answer but 422 some may have been accepted all the same: send them again, no job is charged twice.
#[utoipa::path(
    post,
    path = "/v1/events",
    tag = "events",
    request_body(content(
        (Event = "application/json"),
        (Event = "application/cloudevents+json"),
        (String = "application/x-ndjson"),
    )),
    params(("Idempotency-Key" = Option<String>, Header, description = "Of one event: its job_id")),
    responses(
        (status = 202, description = "All are in the queue, on disk", body = Accepted),
        (status = 422, description = "Nothing was sent; `errors` has the first 20: `line`, `field` and `detail`",
         body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn publish(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    Received(body): Received,
) -> Result<(StatusCode, Json<Accepted>), Problem> {
    if let Some(reason) = &*api.events.alarm().borrow() {
        // Waiting for the end of it would only hold up whoever comes next.
        tracing::warn!(error.message = %reason, "events were not accepted: the broker has an alarm");
        return Err(Problem::unavailable(Dependency::Broker));
    }
    // A broken one is not worth a lost charge.
    let trace = traces::current().or_else(|| requests::trace(&headers));
    let trace = trace.as_ref();
    let report = match media_type(&headers).as_str() {
        "application/x-ndjson" => {
            if headers.contains_key(IDEMPOTENCY_KEY) {
                return Err(wrong_key("many events have no key in common: leave it out"));
            }
            let file = checked(&api, &caller, body).await?;
            let (progress, _) = watch::channel(0);
            api.events.file(file, trace, progress).await
        }
        media_type @ ("application/json" | "application/cloudevents+json") => {
            let event = CompletionEvent::parse(&body, Some(media_type), &api.settings.limits)
                .map_err(|error| error.to_string())
                .and_then(|event| paid_by(caller.company, &event).map(|()| event))
                .map_err(|error| refused(&[(1, error)], 1))?;
            check_key(&headers, event.job_id())?;
            api.events.event(&event, trace).await
        }
        other => {
            let expected = "application/json, application/cloudevents+json or application/x-ndjson";
            return Err(unsupported(other, expected));
        }
    };
    match report.error {
        None => {
            let accepted = report.published;
            Ok((StatusCode::ACCEPTED, Json(Accepted { accepted })))
        }
        Some(_) => Err(unconfirmed(&report)),
    }
}

async fn checked(
    api: &Api,
    caller: &Caller,
    body: Bytes,
) -> Result<EventFile<Cursor<Bytes>>, Problem> {
    let (payer, limits) = (caller.company, api.settings.limits.clone());
    // Megabytes to parse.
    let check = move || EventFile::check("the body".to_owned(), Cursor::new(body), payer, &limits);
    let checked = tokio::task::spawn_blocking(check).await;
    let internal = |error: String| Problem::from(OperationError::Internal(error));
    let checked = checked.map_err(|error| internal(error.to_string()))?;
    let checked = checked.map_err(|error| internal(error.to_string()))?;
    let file = checked.map_err(
        |RefusedFile {
             first,
             refused: all,
             ..
         }| refused(&first, all),
    )?;
    if file.events == 0 {
        return Err(refused(
            &[(1, "body: there is no event in it".to_owned())],
            1,
        ));
    }
    Ok(file)
}

fn refused(first: &[(u64, String)], all: u64) -> Problem {
    let errors = first.iter().map(|(line, problem)| {
        let (field, detail) = problem.split_once(": ").unwrap_or(("body", problem));
        serde_json::json!({ "line": line, "field": field, "detail": detail })
    });
    let errors: Vec<_> = errors.collect();
    let (line, problem) = &first[0];
    let detail = format!("line {line}: {problem}; nothing was sent");
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_events", detail)
        .with("refused", all)
        .with("errors", errors)
}

/// Why is in the log: the broker's words name its host.
fn unconfirmed(report: &PublishReport) -> Problem {
    let why = report.error.as_deref().unwrap_or_default();
    tracing::warn!(error.message = %why, "events were not accepted");
    Problem::unavailable(Dependency::Broker)
        .with("confirmed", report.published)
        .with("events", report.events)
}

/// The job is the key: another one is a mistake.
pub(super) fn check_key(headers: &HeaderMap, job: uuid::Uuid) -> Result<(), Problem> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(());
    };
    let key = key.to_str().ok().map(|key| key.trim().trim_matches('"'));
    let key = key.and_then(|key| uuid::Uuid::try_parse(key).ok());
    if key == Some(job) {
        return Ok(());
    }
    Err(wrong_key("is not the job_id, which is the key"))
}

pub(super) fn wrong_key(why: &str) -> Problem {
    Problem::invalid(StatusCode::UNPROCESSABLE_ENTITY, "Idempotency-Key", why)
}
