//! `dlq edit`: a body that can be charged in place of one that can't.

mod diff;
mod editor;

use anyhow::anyhow;
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, value_parser};
use uuid::Uuid;

use crate::cli::Ended;
use crate::cli::actor::ActorArgs;
use crate::cli::output::{self, Format, count, printable};
use crate::operations::{OperationError, Operations, dead_letters::EditReport};

#[derive(Debug, Args)]
#[command(
    about = "Give a dead letter a body that can be charged",
    long_about = "Give a dead letter a body that can be charged: fields by --set, or all of it in $VISUAL or \
        $EDITOR.\n\n\
        The new body is checked like any event before it is kept. The original stays beside it, byte for byte; a \
        replay sends the new one. Refused where it is not open, and once any job that it stands \
        or stood for was charged, refunded or not.\n\n\
        With --set the value is JSON if it is JSON, else text. It changes the event, or the data of a CloudEvents \
        envelope, and keeps every other byte.",
    after_help = "Examples:\n  \
        token-billing dlq edit 17 --set tokens=15000\n  \
        token-billing dlq edit 17 --set company_id=3f2b8c1e-0a4d-4d7e-9b0a-2f6c1d5e7a90 --reason 'ticket 4711'\n  \
        EDITOR=nano token-billing dlq edit 17"
)]
pub(super) struct EditArgs {
    /// Which dead letter
    #[arg(value_name = "ID", value_parser = value_parser!(i64).range(1..))]
    id: i64,

    /// Set a field of the event; repeat for several
    #[arg(long = "set", value_name = "FIELD=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,

    /// Why, for the record
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    reason: Option<String>,

    /// Only show what would change
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    actor: ActorArgs,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((field, value)) if !field.is_empty() => Ok((field.to_owned(), value.to_owned())),
        _ => Err("not FIELD=VALUE, such as tokens=15000".to_owned()),
    }
}

pub(super) async fn run(
    args: EditArgs,
    operations: &Operations,
    format: Format,
) -> anyhow::Result<Ended> {
    let draft = operations.draft(args.id).await?;
    if let Some(action) = draft.full.half_replayed_by() {
        output::note(&format!(
            "note: a replay (action {action}) had it in flight and broke off: it may have been sent as it is"
        ));
    }
    let revision = if args.set.is_empty() {
        editor::edit(args.id, &draft.text(), |saved| {
            draft.with_text(saved).map_err(why)
        })?
    } else {
        let revision = draft.with_fields(&args.set).map_err(|error| {
            anyhow!(
                "{}; nothing was changed. All of it, in $EDITOR: token-billing dlq edit {}",
                why(error),
                args.id
            )
        });
        Some(revision?)
    };
    let actor = args.actor.actor()?;
    let reason = args.reason.as_deref();
    let report = operations
        .edit(&draft, revision.as_ref(), &actor, reason, args.dry_run)
        .await?;
    format.print(&report, |report| for_people(report, draft.full.current()))?;
    Ok(Ended::Done)
}

/// Without the field: it is all one body here.
fn why(error: OperationError) -> String {
    match error {
        OperationError::Invalid { why, .. } => why,
        other => other.to_string(),
    }
}

fn for_people(report: &EditReport, before: &[u8]) -> String {
    let id = report.id;
    if !report.changed {
        return format!("dead letter {id}: nothing changed");
    }
    let mut lines = diff::changes(before, report.body.as_bytes());
    let known = |name: &str, id: Option<Uuid>| id.map(|id| format!("{name} {id}"));
    let event = [
        known("job", report.job_id),
        known("company", report.company_id),
        report
            .tokens
            .map(|tokens| count(tokens.unsigned_abs(), "token")),
    ];
    let event: Vec<String> = event.into_iter().flatten().collect();
    lines.push(String::new());
    lines.push(printable(&event.join(", ")));
    lines.push(match report.action_id {
        None => "dry run: nothing was changed".to_owned(),
        Some(action) => format!(
            "dead letter {id} is edited (action {action}); the original stays beside it\n\
             to send it: token-billing dlq replay {id}"
        ),
    });
    lines.join("\n")
}
