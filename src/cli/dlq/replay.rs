//! `dlq replay`: the plan, the question, the replay.

use std::sync::Arc;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, value_parser};
use serde::Serialize;

use super::select::SelectArgs;
use super::{plan, sending};
use crate::cli::output::{Format, count, note};
use crate::cli::{Ended, UsageError, actor::ActorArgs, ask};
use crate::config::Settings;
use crate::operations::Operations;
use crate::operations::replay::{ReplayOrder, ReplayPlan, ReplayReport, ReplaySelection};

#[derive(Debug, Args)]
#[command(
    about = "Send dead letters again, after showing what that would do",
    long_about = "Send open dead letters again, oldest first, after showing what that would do.\n\n\
        The plan tries each dead letter in the ledger, in a transaction that is rolled back: what would be \
        charged, what is charged already (harmless), what would fail again given today's balances. Nobody \
        is ever charged twice, whatever is sent again and however often. It can be interrupted and simply \
        run again; two of them at once send each dead letter once. It stops by itself when dead letters that should \
        not fail pile up.\n\n\
        Ends with 3 if it was interrupted or stopped, if something failed against the plan, or if outcomes \
        are still missing in the end.",
    after_help = "Examples:\n  \
        token-billing dlq replay 1041 1042\n  \
        token-billing dlq replay --group 1f3a09bc --canary 5 --rate 200 --note 'balance corrected'\n  \
        token-billing dlq replay --reason insufficient_balance --company 3f2b8c1e-0a4d-4d7e-9b0a-2f6c1d5e7a90 --dry-run"
)]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    asked: Asked,

    #[command(flatten)]
    actor: ActorArgs,
}

#[derive(Debug, Args)]
struct Asked {
    #[command(flatten)]
    select: SelectArgs,

    /// All open dead letters
    #[arg(long, help_heading = "Which dead letters")]
    all: bool,

    /// Show the plan, send nothing
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,

    /// Do not ask
    #[arg(long, short)]
    yes: bool,

    /// Send at most this many a second, evenly
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    rate: Option<u32>,

    /// Send this many first, and the rest only if none of them fails again
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    canary: Option<u32>,

    /// Don't wait for what comes of it
    #[arg(long, conflicts_with = "canary")]
    no_wait: bool,

    /// Why, for the record
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    note: Option<String>,
}

/// As a program reads it.
#[derive(Debug, Serialize)]
struct Document<'a> {
    plan: &'a ReplayPlan,
    /// `None`: nothing was sent.
    replay: Option<&'a ReplayReport>,
}

impl ReplayArgs {
    pub(super) fn check(&self, settings: &Settings) -> anyhow::Result<()> {
        let asked = &self.asked;
        asked.select.check()?;
        ReplaySelection::new(asked.select.selection(), asked.all)?;
        if asked.dry_run {
            return Ok(());
        }
        if !asked.yes && !ask::is_possible() {
            let problem = "there is no terminal to ask on: --yes replays, --dry-run shows the plan";
            return Err(UsageError(problem.to_owned()).into());
        }
        settings.require_broker()?;
        Ok(())
    }
}

pub(super) async fn run(
    args: ReplayArgs,
    operations: &Arc<Operations>,
    format: Format,
) -> anyhow::Result<Ended> {
    let (args, actor) = (args.asked, args.actor.actor()?);
    let selection = ReplaySelection::new(args.select.selection(), args.all)?;
    let plan = operations.plan_replay(selection).await?;
    for (id, state) in &plan.passed_over {
        note(&format!(
            "dead letter {id} is {}: passed over",
            state.as_str()
        ));
    }
    if format == Format::Table && plan.total.dead_letters > 0 {
        format.print(&(), |()| plan::in_words(&plan))?;
    }
    if plan.to_send() == 0 {
        note("nothing to replay: no open dead letter that may be sent is selected");
    }
    if plan.to_send() == 0 || args.dry_run || !confirmed(&args, &plan, format)? {
        return done(format, &plan, None).map(|()| Ended::Done);
    }
    let order = ReplayOrder {
        actor,
        note: args.note,
        rate: args.rate,
        canary: args.canary,
        wait: !args.no_wait,
    };
    let report = sending::follow(operations.replay(plan.clone(), order).await?).await?;
    done(format, &plan, Some(&report))?;
    sending::ended(&report, !args.no_wait)
}

/// Prints the end; the plan has been shown to people before.
fn done(format: Format, plan: &ReplayPlan, replay: Option<&ReplayReport>) -> anyhow::Result<()> {
    match (format, replay) {
        (Format::Table, None) => Ok(()),
        (Format::Table, Some(report)) => format.print(&(), |()| sending::in_words(report)),
        (Format::Json, replay) => format.print(&Document { plan, replay }, |_| String::new()),
    }
}

fn confirmed(args: &Asked, plan: &ReplayPlan, format: Format) -> anyhow::Result<bool> {
    if args.yes {
        return Ok(true);
    }
    if format == Format::Json {
        note(&plan::in_words(plan));
    }
    let dead_letters = count(plan.to_send(), "dead letter");
    ask::confirm(&format!("Replay {dead_letters}?"), false)
}
