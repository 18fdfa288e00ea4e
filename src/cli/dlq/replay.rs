//! `dlq replay`: the plan, the question, the replay.

use anyhow::bail;
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, value_parser};
use serde::Serialize;

use super::plan::{self, PlanDocument};
use super::select::SelectArgs;
use super::sending;
use crate::cli::output::{Format, count, note};
use crate::cli::{Ended, UsageError, actor::ActorArgs, ask, open_storage};
use crate::config::Settings;
use crate::operations::{
    Operations,
    replay::{self, Order, Plan, Report},
};
use crate::storage::{LetterState, Selection, Storage};

#[derive(Debug, Args)]
#[command(
    about = "Send letters again, after showing what that would do",
    long_about = "Send open letters again, oldest first, after showing what that would do.\n\n\
        The plan tries each letter in the books, in a transaction that is rolled back: what would be \
        charged, what is charged already (harmless), what would fail again given today's balances. Nobody \
        is ever charged twice, whatever is sent again and however often. It can be interrupted and simply \
        run again; two of them at once send each letter once. It stops by itself when letters that should \
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

    /// All open letters
    #[arg(long, help_heading = "Which letters")]
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
    plan: PlanDocument<'a>,
    /// `None`: nothing was sent.
    replay: Option<&'a Report>,
}

impl Asked {
    fn selection(&self) -> Result<Selection, UsageError> {
        let usage = |text: &str| Err(UsageError(text.to_owned()));
        if self.select.selection().is_unrestricted() != self.all {
            return usage(if self.all {
                "--all: goes with nothing that says which letters"
            } else {
                "which letters? Give ids, --group or a filter; --all for all that are open"
            });
        }
        let mut selection = self.select.selection();
        if selection.states.is_empty() {
            selection.states = vec![LetterState::Open];
        }
        if selection.states != [LetterState::Open] {
            return usage(
                "--state: only open letters are replayed; `dlq restore` opens discarded ones again",
            );
        }
        if !self.dry_run && !self.yes && !ask::is_possible() {
            return usage(
                "there is no terminal to ask on: --yes replays, --dry-run shows the plan",
            );
        }
        Ok(selection)
    }

    fn subject(&self) -> String {
        if self.all {
            return "all open letters".to_owned();
        }
        self.select.as_typed().trim().to_owned()
    }
}

pub(super) async fn run(
    args: ReplayArgs,
    settings: &Settings,
    operations: &Operations,
    format: Format,
) -> anyhow::Result<Ended> {
    let (asked, actor) = (args.asked, args.actor.name());
    let selection = asked.selection()?;
    if !asked.dry_run {
        settings.require_broker()?;
    }
    let usual = [LetterState::Open];
    let selection = operations.meant(&selection, &usual, "reason").await?;
    let storage = open_storage(settings).await?;
    let ended = planned(&asked, &actor, settings, format, &storage, selection).await;
    storage.close().await;
    ended
}

async fn planned(
    args: &Asked,
    actor: &str,
    settings: &Settings,
    format: Format,
    storage: &Storage,
    selection: Selection,
) -> anyhow::Result<Ended> {
    check_ids(storage, &selection.ids).await?;
    let plan = replay::plan(storage, &selection, &settings.limits, &settings.replay).await?;
    let total = &plan.total;
    if !selection.ids.is_empty() && total.refused > 0 && total.refused == total.letters {
        bail!(
            "refused: {} of refunded jobs, which are never charged again",
            count(total.refused, "letter")
        );
    }
    let letters = total.letters - total.refused;
    let shown = format == Format::Table;
    if shown && total.letters > 0 {
        Format::Table.print(&(), |()| plan::in_words(&plan))?;
    }
    if letters == 0 {
        note("nothing to replay: no open letter that may be sent is selected");
    }
    if letters == 0 || args.dry_run || !confirmed(args, &plan, letters, shown)? {
        return done(format, &plan, None).map(|()| Ended::Done);
    }
    let selection = Selection {
        up_to: Some(plan.up_to),
        ..selection
    };
    let order = Order {
        selection: &selection,
        actor,
        subject: &args.subject(),
        note: args.note.as_deref(),
        rate: args.rate,
        canary: args.canary,
        wait: !args.no_wait,
        expected_failures: &plan.failing,
    };
    let report = sending::replay(settings, storage, &order, letters).await?;
    done(format, &plan, Some(&report))?;
    sending::ended(&report, !args.no_wait)
}

/// Prints the end; the plan has been shown to people before.
fn done(format: Format, plan: &Plan, report: Option<&Report>) -> anyhow::Result<()> {
    match (format, report) {
        (Format::Table, None) => Ok(()),
        (Format::Table, Some(report)) => format.print(&(), |()| sending::in_words(report)),
        (Format::Json, replay) => {
            let plan = PlanDocument::new(plan);
            format.print(&Document { plan, replay }, |_| String::new())
        }
    }
}

fn confirmed(args: &Asked, plan: &Plan, letters: u64, shown: bool) -> anyhow::Result<bool> {
    if args.yes {
        return Ok(true);
    }
    if !shown {
        note(&plan::in_words(plan));
    }
    ask::confirm(&format!("Replay {}?", count(letters, "letter")), false)
}

/// A mistyped id is an error; one that isn't open is passed over, and said so.
async fn check_ids(storage: &Storage, ids: &[i64]) -> anyhow::Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let named = Selection {
        ids: ids.to_vec(),
        ..Selection::default()
    };
    let limit = ids.len().try_into().unwrap_or(i64::MAX);
    let letters = storage.dead_letters(&named, None, limit).await?;
    if let Some(id) = ids.iter().find(|id| letters.iter().all(|l| l.id != **id)) {
        bail!("there is no letter {id}");
    }
    for letter in letters.iter().rev() {
        if letter.state != LetterState::Open {
            let (id, state) = (letter.id, letter.state.as_str());
            note(&format!("letter {id} is {state}: passed over"));
        }
    }
    Ok(())
}
