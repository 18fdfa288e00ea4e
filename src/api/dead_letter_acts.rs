//! What can be done to one dead letter by hand.

use axum::{Json, extract::State};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    Api,
    extract::{self, Path},
    gate::Caller,
    problem::{Problem, ProblemDocument},
};
use crate::{
    operations::{
        OperationError,
        dead_letters::{Change, EditReport},
    },
    storage::{Act, Selection},
};

/// Either fields of its event, or all of the body.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewBody {
    /// Fields of the event, each with its new value
    #[schema(value_type = Option<Object>)]
    set: Option<Map<String, Value>>,
    /// The whole body
    body: Option<String>,
    /// Why, for the record
    reason: Option<String>,
    /// Only check it
    #[serde(default)]
    dry_run: bool,
}

/// Gives a dead letter a body that can be charged
///
/// The original stays beside it; a replay sends the new one.
#[utoipa::path(
    post,
    path = "/v1/dead-letters/{id}/edit",
    tag = "dead letters",
    params(("id" = i64, Path)),
    request_body = NewBody,
    responses(
        (status = 200, description = "As `dlq edit`", body = EditReport),
        (status = 404, description = "No such dead letter", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "`not_open`, `being_replayed`, `edited_meanwhile` or `already_charged`: nothing was changed",
         body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn edit(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<i64>,
    extract::Json(asked): extract::Json<NewBody>,
) -> Result<Json<EditReport>, Problem> {
    let draft = api.operations.draft(id).await?;
    let revision = match (asked.set, asked.body) {
        (Some(set), None) if !set.is_empty() => {
            // As a person would type it: text that is JSON by accident stays text.
            let set = set
                .into_iter()
                .map(|(name, value)| (name, value.to_string()));
            draft.with_fields(&set.collect::<Vec<_>>())?
        }
        (None, Some(body)) => draft.with_text(body.as_bytes())?,
        _ => {
            let why = "either fields to set here, or a whole body";
            return Err(OperationError::invalid("set", why).into());
        }
    };
    let (actor, reason) = (caller.actor()?, asked.reason.as_deref());
    let report = api
        .operations
        .edit(&draft, Some(&revision), &actor, reason, asked.dry_run);
    Ok(Json(report.await?))
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Why {
    /// For the record
    reason: String,
    /// Only tell what would be done
    #[serde(default)]
    dry_run: bool,
}

/// Writes a dead letter off; a restore takes that back
#[utoipa::path(
    post,
    path = "/v1/dead-letters/{id}/discard",
    tag = "dead letters",
    params(("id" = i64, Path)),
    request_body = Why,
    responses(
        (status = 200, description = "As `dlq discard`", body = Change),
        (status = 409, description = "`nothing_to_change`: it is not open, just being replayed, or not there",
         body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn discard(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<i64>,
    extract::Json(why): extract::Json<Why>,
) -> Result<Json<Change>, Problem> {
    change(&api, Act::Discard, id, &caller, &why).await
}

/// Opens a discarded dead letter again
#[utoipa::path(
    post,
    path = "/v1/dead-letters/{id}/restore",
    tag = "dead letters",
    params(("id" = i64, Path)),
    request_body = Why,
    responses(
        (status = 200, description = "As `dlq restore`", body = Change),
        (status = 409, description = "`nothing_to_change`: it is not discarded, or not there",
         body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn restore(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<i64>,
    extract::Json(why): extract::Json<Why>,
) -> Result<Json<Change>, Problem> {
    change(&api, Act::Restore, id, &caller, &why).await
}

async fn change(
    api: &Api,
    act: Act,
    id: i64,
    caller: &Caller,
    why: &Why,
) -> Result<Json<Change>, Problem> {
    if why.reason.trim().is_empty() {
        return Err(OperationError::invalid("reason", "is empty").into());
    }
    let selection = Selection {
        ids: vec![id],
        ..Selection::default()
    };
    let mut change = api.operations.plan_change(act, &selection, false).await?;
    if !why.dry_run {
        let (actor, reason) = (caller.actor()?, Some(why.reason.as_str()));
        api.operations
            .carry_out(&mut change, &actor, reason)
            .await?;
    }
    Ok(Json(change))
}
