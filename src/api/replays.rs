//! Replays: a plan first, then its run by the plan's id.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Json,
    extract::State,
    http::{HeaderName, StatusCode, header::LOCATION},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Api,
    dead_letters::Filter,
    extract::{self, Path},
    gate::Caller,
    problem::{Problem, ProblemDocument},
};
use crate::operations::{
    OperationError,
    replay::{ReplayOrder, ReplayPlan, ReplayProgress, ReplayReport, ReplaySelection},
};

/// Plans that a process keeps; the oldest makes room. Each has the ids of its dead letters.
const PLANS: usize = 20;
/// How long a plan can be run.
const PLAN_FOR: Duration = Duration::from_mins(10);

/// Plans of this process that may still be run.
#[derive(Default)]
pub(super) struct Plans(Mutex<HashMap<Uuid, Planned>>);

struct Planned {
    at: Instant,
    /// Whoever asked for it.
    key: Uuid,
    plan: ReplayPlan,
}

impl Plans {
    fn keep(&self, key: Uuid, plan: ReplayPlan) -> Uuid {
        let mut plans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        plans.retain(|_, planned| planned.at.elapsed() < PLAN_FOR);
        while plans.len() >= PLANS
            && let Some(oldest) = plans
                .iter()
                .min_by_key(|(_, planned)| planned.at)
                .map(|(id, _)| *id)
        {
            plans.remove(&oldest);
        }
        let (id, at) = (Uuid::new_v4(), Instant::now());
        plans.insert(id, Planned { at, key, plan });
        id
    }

    /// Each is run once, by whoever asked for it.
    fn take(&self, key: Uuid, id: Uuid) -> Option<ReplayPlan> {
        let mut plans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_good = |planned: &Planned| planned.key == key && planned.at.elapsed() < PLAN_FOR;
        plans.get(&id).filter(|planned| is_good(planned))?;
        plans.remove(&id).map(|planned| planned.plan)
    }
}

/// Without `plan_id` a plan is made of the open dead letters that are selected (`ids`, filters, or `all`); with it, that
/// plan is run.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewReplay {
    plan_id: Option<Uuid>,
    /// Of a plan: these
    #[serde(default)]
    ids: Vec<i64>,
    /// Of a plan: all of these
    #[serde(default, rename = "where")]
    filter: Filter,
    /// Of a plan: every open one
    #[serde(default)]
    all: bool,
    /// Of a run: dead letters a second
    #[schema(minimum = 1)]
    rate: Option<u32>,
    /// Of a run: send so many first, and the rest only if none of them fails
    #[schema(minimum = 1)]
    canary: Option<u32>,
    /// Of a run: why, for the record
    note: Option<String>,
}

impl NewReplay {
    /// Nothing that is asked for is left out in silence.
    fn check(&self) -> Result<(), OperationError> {
        let of_a_plan = [
            ("ids", !self.ids.is_empty()),
            ("where", self.filter != Filter::default()),
            ("all", self.all),
        ];
        let of_a_run = [
            ("rate", self.rate.is_some()),
            ("canary", self.canary.is_some()),
            ("note", self.note.is_some()),
        ];
        let (others, why) = match self.plan_id {
            Some(_) => (
                of_a_plan,
                "belongs to the making of a plan, and plan_id to its run",
            ),
            None => (
                of_a_run,
                "belongs to the run of a plan: give it with plan_id",
            ),
        };
        if let Some((name, _)) = others.into_iter().find(|(_, is_given)| *is_given) {
            return Err(OperationError::invalid(name, why));
        }
        for (name, number) in [("rate", self.rate), ("canary", self.canary)] {
            if number == Some(0) {
                return Err(OperationError::invalid(name, "is below 1"));
            }
        }
        Ok(())
    }
}

/// What came of the call.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Begun {
    Planned(Box<PlannedReplay>),
    Running(BegunReplay),
}

/// A plan that may be run.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PlannedReplay {
    plan_id: Uuid,
    /// Seconds.
    valid_for: u64,
    plan: ReplayPlan,
}

/// A replay that runs.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BegunReplay {
    action_id: i64,
}

/// Plans a replay of dead letters, or runs a plan
///
/// A plan is kept by the process that made it for ten minutes, and is run once, with the key that asked for it.
#[utoipa::path(
    post,
    path = "/v1/dead-letters/replay",
    tag = "dead letters",
    request_body = NewReplay,
    responses(
        (status = 200, description = "A plan, as `dlq replay --dry-run`, with its `plan_id`", body = PlannedReplay,
         headers(("Location" = String, description = "Where it is run"))),
        (status = 202, description = "It runs; `Location` tells how far it is", body = BegunReplay,
         headers(("Location" = String, description = "Of the replay"))),
        (status = 404, description = "`plan_not_found`, or an id of no dead letter", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "`already_compensated`: only of refunded jobs", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn replay(
    State(api): State<Api>,
    caller: Caller,
    extract::Json(asked): extract::Json<NewReplay>,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<Begun>), Problem> {
    let key = caller.key.key.id;
    asked.check()?;
    let Some(plan_id) = asked.plan_id else {
        asked.filter.check_no_page()?;
        let mut selection = asked.filter.selection()?;
        selection.ids = asked.ids;
        let selection = ReplaySelection::new(selection, asked.all)?;
        let plan = api.operations.plan_replay(selection).await?;
        let plan_id = api.plans.keep(key, plan.clone());
        let valid_for = PLAN_FOR.as_secs();
        let place = (LOCATION, api.path("/v1/dead-letters/replay"));
        let planned = PlannedReplay {
            plan_id,
            valid_for,
            plan,
        };
        let planned = Begun::Planned(planned.into());
        return Ok((StatusCode::OK, [place], Json(planned)));
    };
    let actor = caller.actor()?;
    let plan = api.plans.take(key, plan_id).ok_or_else(|| {
        let detail =
            "no such plan of this key in this process; it may be over ten minutes old, or run";
        Problem::new(StatusCode::NOT_FOUND, "plan_not_found", detail)
    })?;
    let order = ReplayOrder {
        actor,
        note: asked.note,
        rate: asked.rate,
        canary: asked.canary,
        wait: true,
    };
    let running = api.operations.replay(plan, order).await?;
    let action_id = running.action_id;
    let place = (LOCATION, api.path(&format!("/v1/replays/{action_id}")));
    Ok((
        StatusCode::ACCEPTED,
        [place],
        Json(Begun::Running(BegunReplay { action_id })),
    ))
}

/// How far a replay is, or how it ended.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Replay {
    action_id: i64,
    /// Of one that runs in this process.
    progress: Option<ReplayProgress>,
    /// Of one that is over.
    report: Option<ReplayReport>,
}

/// How far a replay is, or how it ended
///
/// Neither `progress` nor `report`: it runs in another process, or its process died.
#[utoipa::path(
    get,
    path = "/v1/replays/{id}",
    tag = "dead letters",
    params(("id" = i64, Path)),
    responses(
        (status = 200, description = "`progress` or `report`", body = Replay),
        (status = 404, description = "No such replay", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn show(
    State(api): State<Api>,
    Path(action_id): Path<i64>,
) -> Result<Json<Replay>, Problem> {
    let running = api.operations.running_replay(action_id);
    let progress = running.map(|running| running.progress.borrow().clone());
    let report = match &progress {
        Some(progress) => progress.report.clone(),
        None => api.operations.replay_report(action_id).await?,
    };
    Ok(Json(Replay {
        action_id,
        progress: progress.filter(|progress| progress.report.is_none()),
        report,
    }))
}
