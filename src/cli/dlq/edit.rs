//! `dlq edit`: a body that can be charged in place of one that can't.

mod diff;
mod editor;

use anyhow::bail;
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, value_parser};
use serde::Serialize;
use uuid::Uuid;

use super::open;
use crate::cli::Ended;
use crate::cli::actor::ActorArgs;
use crate::cli::output::{self, Format, count, printable};
use crate::config::{Limits, Settings};
use crate::domain::{AmendError, CompletionEvent, amend, layout};
use crate::storage::{Draft, Edit, EditError, LetterState, SettledJob, Signed};

#[derive(Debug, Args)]
#[command(
    about = "Give a letter a body that can be charged",
    long_about = "Give a dead letter a body that can be charged: fields by --set, or all of it in $VISUAL or \
        $EDITOR.\n\n\
        The new body is checked like any event before it is kept. The original stays beside it, byte for byte; a \
        replay sends the new one. Refused for letters that are not open, and once any job that the letter stands \
        or stood for was charged, refunded or not.\n\n\
        With --set the value is JSON if it is JSON, else text. It changes the event, or the data of a CloudEvents \
        envelope, and keeps every other byte.",
    after_help = "Examples:\n  \
        token-billing dlq edit 17 --set tokens=15000\n  \
        token-billing dlq edit 17 --set company_id=3f2b8c1e-0a4d-4d7e-9b0a-2f6c1d5e7a90 --reason 'ticket 4711'\n  \
        EDITOR=nano token-billing dlq edit 17"
)]
pub(super) struct EditArgs {
    /// Which letter
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

#[derive(Debug, Serialize)]
struct Report {
    id: i64,
    dry_run: bool,
    /// Whether the body is (or would be) another one.
    changed: bool,
    /// Its number in the history; null: nothing was kept.
    action_id: Option<i64>,
    job_id: Option<Uuid>,
    company_id: Option<Uuid>,
    article_id: Option<Uuid>,
    tokens: Option<i64>,
    /// What a replay sends.
    body: String,
    #[serde(skip)]
    changes: Vec<String>,
}

pub(super) async fn run(
    args: EditArgs,
    settings: &Settings,
    format: Format,
) -> anyhow::Result<Ended> {
    let storage = open(settings).await?;
    let Some(draft) = storage.draft(args.id).await? else {
        bail!(EditError::NotFound(args.id));
    };
    refuse_early(&draft)?;
    if let Some(action) = draft.half_replayed_by {
        output::note(&format!(
            "note: a replay (action {action}) had this letter in hand and broke off: it may have been sent as it is"
        ));
    }
    let changed = if args.set.is_empty() {
        in_editor(&draft, &settings.limits)?
    } else {
        by_fields(&draft, &args.set, &settings.limits)?
    };
    let mut report = Report::new(&draft, changed.as_ref(), args.dry_run);
    if let Some((body, event)) = changed.as_ref().filter(|_| report.changed && !args.dry_run) {
        let edit = Edit {
            id: args.id,
            seen: draft.current(),
            body,
            event,
        };
        let actor = args.actor.name();
        let signed = Signed {
            actor: &actor,
            reason: args.reason.as_deref(),
        };
        report.action_id = Some(storage.edit_dead_letter(edit, signed).await?);
    }
    storage.close().await;
    format.print(&report, for_people)?;
    Ok(Ended::Done)
}

/// What would be refused at the end in any case, before a person has typed for nothing.
fn refuse_early(draft: &Draft) -> Result<(), EditError> {
    let letter = &draft.letter;
    if letter.state != LetterState::Open {
        let (id, state) = (letter.id, letter.state);
        return Err(EditError::NotOpen { id, state });
    }
    if let (Some(job_id), Some(amount), Some(company_id), Some(completed_at)) = (
        letter.job_id,
        letter.charged_tokens,
        letter.charged_company_id,
        letter.charged_at,
    ) {
        return Err(EditError::Settled(SettledJob {
            job_id: job_id.to_string(),
            refunded: letter.money == crate::storage::Money::Compensated,
            amount,
            company_id,
            completed_at,
        }));
    }
    Ok(())
}

type Changed = (Vec<u8>, CompletionEvent);

fn by_fields(
    draft: &Draft,
    set: &[(String, String)],
    limits: &Limits,
) -> anyhow::Result<Option<Changed>> {
    let content_type = draft.content_type.as_deref();
    let body = amend(draft.current(), content_type, set).map_err(|error: AmendError| {
        anyhow::anyhow!(
            "{error}; edit it whole, in $EDITOR: token-billing dlq edit {}",
            draft.letter.id
        )
    })?;
    if body == draft.current() {
        return Ok(None);
    }
    match CompletionEvent::parse(&body, content_type, limits) {
        Ok(event) => Ok(Some((body, event))),
        Err(error) => bail!("it would still not be an event: {error}; nothing was changed"),
    }
}

fn in_editor(draft: &Draft, limits: &Limits) -> anyhow::Result<Option<Changed>> {
    let current = draft.current();
    let text = std::str::from_utf8(current).ok();
    let laid_out = text.and_then(layout::indented).map(|text| text + "\n");
    let shown = laid_out.as_deref().map_or(current, str::as_bytes);
    // JSON that came in one line goes out in one line.
    let one_line = laid_out.is_some() && !current.trim_ascii().contains(&b'\n');
    editor::edit(draft.letter.id, shown, |saved| {
        let saved = saved.trim_ascii_end();
        let compacted = std::str::from_utf8(saved).ok().and_then(layout::compacted);
        let body = match compacted {
            Some(compacted) if one_line => compacted.into_bytes(),
            _ => saved.to_vec(),
        };
        CompletionEvent::parse(&body, draft.content_type.as_deref(), limits)
            .map(|event| (body, event))
            .map_err(|error| format!("it is not an event: {error}"))
    })
}

impl Report {
    fn new(draft: &Draft, changed: Option<&Changed>, dry_run: bool) -> Self {
        let letter = &draft.letter;
        let changed = changed.filter(|(body, _)| body != draft.current());
        let event = changed.map(|(_, event)| event);
        let body = changed.map_or(draft.current(), |(body, _)| body);
        Self {
            id: letter.id,
            dry_run,
            changed: changed.is_some(),
            action_id: None,
            job_id: event.map_or(letter.job_id, |event| Some(event.job_id())),
            company_id: event.map_or(letter.company_id, CompletionEvent::company_id),
            article_id: event.map_or(letter.article_id, CompletionEvent::article_id),
            tokens: event.map_or(letter.tokens, |event| Some(event.tokens())),
            body: String::from_utf8_lossy(body).into_owned(),
            changes: diff::changes(draft.current(), body),
        }
    }
}

fn for_people(report: &Report) -> String {
    let id = report.id;
    if !report.changed {
        return format!("dead letter {id}: nothing changed");
    }
    let mut lines = report.changes.clone();
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
