//! Looking at dead letters.

use axum::{Json, extract::State, http::StatusCode};
use serde::Deserialize;
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{
    Api,
    extract::{Path, Query, moment},
    problem::{Problem, ProblemDocument},
};
use crate::{
    operations::{
        OperationError,
        dead_letters::{DeadLetterGroups, DeadLetterPage, DeadLetterStory, Stats, Thresholds},
    },
    storage::{DeadLetterState, Selection},
};

/// Dead letters or groups that are told at once, unless the caller wants another number.
const PAGE: i64 = 50;

/// Which are meant. What is absent doesn't restrict.
#[derive(Debug, Default, PartialEq, Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Filter {
    /// `open` (unless said otherwise), `replayed`, `resolved` or `discarded`; several with commas
    pub(super) state: Option<String>,
    /// Of one group, by its id
    group: Option<String>,
    /// Why they are dead; several with commas
    reason: Option<String>,
    company_id: Option<Uuid>,
    job_id: Option<Uuid>,
    /// Last failed at or after
    #[serde(deserialize_with = "moment")]
    since: Option<OffsetDateTime>,
    /// Last failed before
    #[serde(deserialize_with = "moment")]
    until: Option<OffsetDateTime>,
    /// With this text in the error or in the body
    text: Option<String>,
    /// How many at most [default: 50]
    #[param(minimum = 1, maximum = 10000)]
    limit: Option<i64>,
    /// `next_before` of the page before
    before: Option<i64>,
}

impl Filter {
    pub(super) fn selection(&self) -> Result<Selection, OperationError> {
        let list = |text: &Option<String>| -> Vec<String> {
            let parts = text.iter().flat_map(|text| text.split(','));
            parts.map(|part| part.trim().to_owned()).collect()
        };
        let states = list(&self.state).into_iter().map(|name| state(&name));
        Ok(Selection {
            group: self.group.clone(),
            reasons: list(&self.reason),
            company: self.company_id,
            job: self.job_id,
            since: self.since,
            until: self.until,
            states: states.collect::<Result<_, _>>()?,
            text: self.text.clone(),
            ..Selection::default()
        })
    }

    /// Where all that are selected are meant.
    pub(super) fn check_no_page(&self) -> Result<(), OperationError> {
        let parts = [("limit", self.limit), ("before", self.before)];
        match parts.iter().find(|(_, part)| part.is_some()) {
            Some((name, _)) => Err(OperationError::invalid(name, "there are no pages here")),
            None => Ok(()),
        }
    }

    fn limit(&self) -> i64 {
        self.limit.unwrap_or(PAGE)
    }
}

fn state(name: &str) -> Result<DeadLetterState, OperationError> {
    let states = [
        DeadLetterState::Open,
        DeadLetterState::Replayed,
        DeadLetterState::Resolved,
        DeadLetterState::Discarded,
    ];
    let named = states.into_iter().find(|state| state.as_str() == name);
    named.ok_or_else(|| {
        let why = format!("{name:?} is not open, replayed, resolved or discarded");
        OperationError::invalid("state", why)
    })
}

/// Dead letters, the newest first
#[utoipa::path(
    get,
    path = "/v1/dead-letters",
    tag = "dead letters",
    params(Filter),
    responses(
        (status = 200, description = "As `dlq list`", body = DeadLetterPage),
    )
)]
pub(super) async fn list(
    State(api): State<Api>,
    Query(filter): Query<Filter>,
) -> Result<Json<DeadLetterPage>, Problem> {
    let (selection, limit) = (filter.selection()?, filter.limit());
    let page = api
        .operations
        .list_dead_letters(&selection, filter.before, limit);
    Ok(Json(page.await?))
}

/// Dead letters by their cause, the largest group first
#[utoipa::path(
    get,
    path = "/v1/dead-letters/groups",
    tag = "dead letters",
    params(Filter),
    responses(
        (status = 200, description = "As `dlq groups`", body = DeadLetterGroups),
    )
)]
pub(super) async fn groups(
    State(api): State<Api>,
    Query(filter): Query<Filter>,
) -> Result<Json<DeadLetterGroups>, Problem> {
    if filter.before.is_some() {
        let why = "groups have no pages";
        return Err(Problem::invalid(
            StatusCode::UNPROCESSABLE_ENTITY,
            "before",
            why,
        ));
    }
    let (selection, limit) = (filter.selection()?, filter.limit());
    let groups = api.operations.group_dead_letters(&selection, limit);
    Ok(Json(groups.await?))
}

/// How many are open, how old, and how fast they come
#[utoipa::path(
    get,
    path = "/v1/dead-letters/stats",
    tag = "dead letters",
    responses((status = 200, description = "As `dlq stats`", body = Stats))
)]
pub(super) async fn stats(State(api): State<Api>) -> Result<Json<Stats>, Problem> {
    let stats = api.operations.dead_letter_stats(Thresholds::default());
    Ok(Json(stats.await?))
}

/// One dead letter with everything that is known about it
#[utoipa::path(
    get,
    path = "/v1/dead-letters/{id}",
    tag = "dead letters",
    params(("id" = i64, Path)),
    responses(
        (status = 200, description = "As `dlq show`", body = DeadLetterStory),
        (status = 404, description = "No such dead letter", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn show(
    State(api): State<Api>,
    Path(id): Path<i64>,
) -> Result<Json<DeadLetterStory>, Problem> {
    Ok(Json(api.operations.dead_letter(id).await?))
}
