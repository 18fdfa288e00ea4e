//! What became of a job.

use axum::{Json, extract::State};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Api, extract::Path, gate::Caller, problem::Problem};
use crate::operations::{Hold, JobKey, JobReport, JobState};

/// How the job stands; with the ledger's record, and with all that is known of its past, as `show` has it.
#[derive(ToSchema)]
#[schema(as = Job)]
#[expect(dead_code, reason = "only documents what is sent")]
pub(super) struct JobDocument {
    job_id: String,
    state: JobState,
    /// Of one that is refused or pending: a code
    reason: Option<String>,
    /// The same for a person
    message: Option<String>,
    /// The pauses between tries
    retry_delays_ms: Vec<u64>,
    /// What the ledger has of it
    #[schema(value_type = Option<Object>)]
    record: Option<()>,
    /// The last tokens held for it
    hold: Option<Hold>,
    /// The application's row
    #[schema(value_type = Option<Object>)]
    job: Option<()>,
    #[schema(value_type = Vec<Object>)]
    dead_letters: Vec<()>,
    /// What happened, the oldest first
    #[schema(value_type = Vec<Object>)]
    timeline: Vec<()>,
}

/// What became of a job: charged, refused, pending …
#[utoipa::path(
    get,
    path = "/v1/jobs/{job_id}",
    tag = "jobs",
    params(("job_id" = Uuid, Path)),
    responses((status = 200, description = "Of a job that nobody knows too: `unknown`", body = JobDocument))
)]
pub(super) async fn job(
    State(api): State<Api>,
    caller: Caller,
    Path(job): Path<Uuid>,
) -> Result<Json<JobReport>, Problem> {
    let job = JobKey::new(&job.to_string());
    Ok(Json(api.operations.job_state(job, caller.company).await?))
}
