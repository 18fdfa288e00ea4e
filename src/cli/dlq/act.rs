//! `dlq discard` and `dlq restore`: letters written off, and taken back.

use anyhow::bail;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde::Serialize;

use super::{known, open, select::SelectArgs};
use crate::cli::actor::ActorArgs;
use crate::cli::output::{self, Format, Table, at_right, count, number, text};
use crate::cli::{Ended, UsageError, ask};
use crate::config::Settings;
use crate::storage::{Act, ActPlan, Acted, Selection, Signed, Storage};

/// The filter by the letters' own reasons has another name here, because `--reason` is why it is done.
#[derive(Debug, Args)]
#[command(
    about = "Write letters off; restore takes it back",
    long_about = "Write letters off: nobody will charge what they ask for.\n\n\
        Nothing is deleted. A discarded letter keeps its body, who discarded it and why are recorded (dlq \
        history), and dlq restore takes it back. Letters that are just being replayed, and those that are not \
        open, are left out. The books are not touched: what is pending there is still charged by the sweeper.\n\n\
        --reason is why you do it. To select letters by their own reason use --only-reason.",
    after_help = "Examples:\n  \
        token-billing dlq discard 17 18 --reason 'test traffic'\n  \
        token-billing dlq discard --group 1f3a09bc --reason 'ticket 4711' --dry-run\n  \
        token-billing dlq discard --only-reason malformed --since 2h --reason 'broken publisher' --yes",
    mut_arg("reasons", |arg| arg.long("only-reason")),
    mut_arg("states", |arg| arg.hide(true))
)]
pub(super) struct DiscardArgs {
    /// Why, for the record
    #[arg(long = "reason", value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    why: String,

    #[command(flatten)]
    how: How,

    #[command(flatten)]
    select: SelectArgs,
}

#[derive(Debug, Args)]
#[command(
    about = "Take back letters that were discarded",
    long_about = "Take letters back that were discarded: they are open again.\n\n\
        If the same event has failed again meanwhile, both letters are there. --reason is why you do it; to \
        select letters by their own reason use --only-reason.",
    after_help = "Examples:\n  \
        token-billing dlq restore 17 18\n  \
        token-billing dlq restore --group 1f3a09bc --reason 'was no test traffic'",
    mut_arg("reasons", |arg| arg.long("only-reason")),
    mut_arg("states", |arg| arg.hide(true))
)]
pub(super) struct RestoreArgs {
    /// Why, for the record
    #[arg(long = "reason", value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    why: Option<String>,

    #[command(flatten)]
    how: How,

    #[command(flatten)]
    select: SelectArgs,
}

#[derive(Debug, Args)]
struct How {
    /// Every letter there is, where nothing else says which
    #[arg(long)]
    all: bool,

    /// Do not ask
    #[arg(long, short)]
    yes: bool,

    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    actor: ActorArgs,
}

#[derive(Debug, Serialize)]
struct Report {
    action: &'static str,
    dry_run: bool,
    /// Its number in the history; null: nothing was done.
    action_id: Option<i64>,
    /// Letters changed.
    changed: i64,
    /// What it was going to be.
    #[serde(flatten)]
    plan: ActPlan,
    #[serde(skip)]
    missing: i64,
}

pub(super) async fn discard(
    args: DiscardArgs,
    settings: &Settings,
    format: Format,
) -> anyhow::Result<Ended> {
    run(
        Act::Discard,
        Some(args.why),
        args.how,
        &args.select,
        settings,
        format,
    )
    .await
}

pub(super) async fn restore(
    args: RestoreArgs,
    settings: &Settings,
    format: Format,
) -> anyhow::Result<Ended> {
    run(
        Act::Restore,
        args.why,
        args.how,
        &args.select,
        settings,
        format,
    )
    .await
}

async fn run(
    act: Act,
    why: Option<String>,
    how: How,
    select: &SelectArgs,
    settings: &Settings,
    format: Format,
) -> anyhow::Result<Ended> {
    // Ids are looked at whatever their state, so that what is left out can be told.
    let states = if select.has_ids() {
        vec![]
    } else {
        vec![act.from()]
    };
    let mut selection = select.selection(&states)?;
    check_extent(act, &how, select)?;
    let storage = open(settings).await?;
    known::check(select, "--only-reason", &storage).await?;
    let plan = storage.plan_act(act, &selection).await?;
    selection.up_to = plan.sums.up_to;
    let mut report = Report {
        action: act.name(),
        dry_run: how.dry_run,
        action_id: None,
        changed: 0,
        missing: missing(&selection, &plan),
        plan,
    };
    let signed = (how.actor.name(), why);
    if !how.dry_run && report.plan.sums.dead_letters > 0 {
        if !how.yes {
            output::note(&plan_text(act, &report));
            let question = format!(
                "{} {}?",
                capital(act.name()),
                letters(report.plan.sums.dead_letters)
            );
            if !ask::confirm(&question, false)? {
                bail!("not confirmed; nothing was changed");
            }
        }
        let acted = carry_out(&storage, act, &selection, (&signed.0, signed.1.as_deref())).await?;
        (report.action_id, report.changed) = (acted.action_id, acted.dead_letters);
    }
    storage.close().await;
    if select.has_ids() && report.plan.sums.dead_letters == 0 {
        bail!(
            "nothing to {}: {}",
            act.name(),
            left_out(act, &report).join(", ")
        );
    }
    format.print(&report, |report| for_people(act, report, how.yes))?;
    Ok(Ended::Done)
}

/// Nothing typed must not come to mean everything.
fn check_extent(act: Act, how: &How, select: &SelectArgs) -> Result<(), UsageError> {
    let name = act.name();
    if select.is_unrestricted() && !how.all {
        let problem = format!("which letters? name ids or filters, or --all to {name} every one");
        return Err(UsageError(problem));
    }
    if how.all && !select.is_unrestricted() {
        let problem = "--all: can't be used together with ids or filters".to_owned();
        return Err(UsageError(problem));
    }
    if !how.yes && !how.dry_run && !ask::is_possible() {
        let problem = format!("no terminal to ask on: say --yes to {name}, or --dry-run to look");
        return Err(UsageError(problem));
    }
    Ok(())
}

async fn carry_out(
    storage: &Storage,
    act: Act,
    selection: &Selection,
    (actor, reason): (&str, Option<&str>),
) -> anyhow::Result<Acted> {
    let signed = Signed { actor, reason };
    let mut so_far = 0;
    let acted = storage
        .act(act, selection, signed, |done| so_far = done)
        .await;
    match acted {
        Ok(acted) => Ok(acted),
        Err(error) if so_far > 0 => Err(anyhow::Error::new(error).context(format!(
            "stopped after {}; run it again for the rest",
            letters(so_far)
        ))),
        Err(error) => Err(error.into()),
    }
}

fn missing(selection: &Selection, plan: &ActPlan) -> i64 {
    let mut ids = selection.ids.clone();
    ids.sort_unstable();
    ids.dedup();
    // With filters beside the ids nobody can tell what is missing from what was filtered out.
    let sums = &plan.sums;
    let found = sums.dead_letters + sums.being_replayed + sums.in_other_state;
    (ids.len() as i64 - found).max(0)
}

fn for_people(act: Act, report: &Report, with_plan: bool) -> String {
    if report.plan.sums.dead_letters == 0 {
        let mut lines = vec![format!("nothing to {}", act.name())];
        lines.extend(left_out(act, report));
        return lines.join("\n");
    }
    let mut parts = Vec::new();
    if report.dry_run || with_plan {
        parts.push(plan_text(act, report));
    }
    if report.dry_run {
        parts.push("dry run: nothing was changed".to_owned());
        return parts.join("\n");
    }
    let done = letters(report.changed);
    parts.push(match (act, report.action_id) {
        (_, None) => "nothing was changed: the letters were dealt with meanwhile".to_owned(),
        (Act::Discard, Some(id)) => format!(
            "discarded {done} (action {id}); token-billing dlq restore, with the same letters, takes it back"
        ),
        (Act::Restore, Some(id)) => format!("restored {done} (action {id}); they are open again"),
    });
    parts.join("\n")
}

fn plan_text(act: Act, report: &Report) -> String {
    let sums = &report.plan.sums;
    let mut lines = vec![format!(
        "{} of {}, asking for {}",
        letters(sums.dead_letters),
        match sums.companies {
            0 => "no known company".to_owned(),
            1 => "1 company".to_owned(),
            many => format!("{} companies", output::thousands(many)),
        },
        count(sums.tokens.unsigned_abs(), "token"),
    )];
    let mut say = |number: i64, what: &str| {
        if number > 0 {
            lines.push(format!("  {} {what}", output::thousands(number)));
        }
    };
    say(
        sums.without_tokens,
        "with tokens that can't be read, not counted",
    );
    if act == Act::Discard {
        say(
            sums.charged,
            "of a job that was charged: no money is lost by discarding",
        );
        say(
            sums.pending,
            "of a job that is pending: discarding does not stop the sweeper from charging it",
        );
        say(sums.compensated, "of a job that was charged and refunded");
    }
    lines.extend(
        left_out(act, report)
            .iter()
            .map(|line| format!("  left out: {line}")),
    );
    if report.plan.largest.len() > 1 {
        let mut table = Table::new([text("company"), at_right("letters"), at_right("tokens")]);
        for share in &report.plan.largest {
            let company = share
                .company_id
                .map_or("unknown".to_owned(), |id| id.to_string());
            table.row([
                text(&company),
                number(share.dead_letters),
                number(share.tokens),
            ]);
        }
        lines.push(table.render());
        let named = report
            .plan
            .largest
            .iter()
            .filter(|share| share.company_id.is_some());
        let more = sums.companies - named.count() as i64;
        if more > 0 {
            lines.push(format!("and {} more companies", output::thousands(more)));
        }
    } else if let Some(company) = report
        .plan
        .largest
        .first()
        .and_then(|share| share.company_id)
    {
        lines.push(format!("  company {company}"));
    }
    lines.join("\n")
}

fn left_out(act: Act, report: &Report) -> Vec<String> {
    let sums = &report.plan.sums;
    let (from, is_are) = (
        act.from().as_str(),
        |n: i64| if n == 1 { "is" } else { "are" },
    );
    [
        (sums.being_replayed, "just being replayed".to_owned()),
        (sums.in_other_state, format!("not {from}")),
        (report.missing, "not there".to_owned()),
    ]
    .into_iter()
    .filter(|(number, _)| *number > 0)
    .map(|(number, why)| format!("{} {} {why}", letters(number), is_are(number)))
    .collect()
}

fn letters(number: i64) -> String {
    count(number.unsigned_abs(), "letter")
}

fn capital(word: &str) -> String {
    let (first, rest) = word.split_at(1);
    first.to_ascii_uppercase() + rest
}
