//! What became of a job.

use axum::{Json, extract::State};
use uuid::Uuid;

use super::{Api, extract::Path, gate::Caller, problem::Problem};
use crate::operations::{JobKey, JobReport};

/// What became of a job: charged, refused, pending …
#[utoipa::path(
    get,
    path = "/v1/jobs/{job_id}",
    tag = "jobs",
    params(("job_id" = Uuid, Path)),
    responses((status = 200, description = "Of a job that nobody knows too: `unknown`", body = JobReport))
)]
pub(super) async fn job(
    State(api): State<Api>,
    caller: Caller,
    Path(job): Path<Uuid>,
) -> Result<Json<JobReport>, Problem> {
    let job = JobKey::new(&job.to_string());
    Ok(Json(api.operations.job_state(job, caller.company).await?))
}
