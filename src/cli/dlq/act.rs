//! `dlq discard` and `dlq restore`: dead letters written off, and taken back.

use anyhow::{Context as _, bail};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::select::SelectArgs;
use crate::cli::actor::ActorArgs;
use crate::cli::output::{self, Format, Table, at_right, count, number, text};
use crate::cli::{Ended, UsageError, ask};
use crate::operations::Operations;
use crate::operations::dead_letters::{Change, check_extent};
use crate::storage::Act;

/// The filter by the dead letters' own reasons has another name here, because `--reason` is why it is done.
#[derive(Debug, Args)]
#[command(
    about = "Write dead letters off; restore takes it back",
    long_about = "Write dead letters off: nobody will charge what they ask for.\n\n\
        Nothing is deleted. A discarded one keeps its body, who discarded it and why are recorded (dlq \
        history), and dlq restore takes it back. Those that are just being replayed, and those that are not \
        open, are left out. The ledger is not touched: what is pending there is still charged by the sweeper.\n\n\
        --reason is why you do it. To select dead letters by their own reason use --only-reason.",
    after_help = "Examples:\n  \
        token-billing dlq discard 17 18 --reason 'test traffic'\n  \
        token-billing dlq discard --group 1f3a09bc --reason 'ticket 4711' --dry-run\n  \
        token-billing dlq discard --only-reason malformed --since 2h --reason 'broken publisher' --yes",
    mut_arg("why", |arg| arg.required(true)),
    mut_arg("reasons", |arg| arg.long("only-reason")),
    mut_arg("states", |arg| arg.hide(true))
)]
pub(super) struct DiscardArgs {
    #[command(flatten)]
    pub(super) change: ChangeArgs,
}

#[derive(Debug, Args)]
#[command(
    about = "Take back dead letters that were discarded",
    long_about = "Take dead letters back that were discarded: they are open again.\n\n\
        If the same event has failed again meanwhile, both are there. --reason is why you do it; to \
        select them by their own reason use --only-reason.",
    after_help = "Examples:\n  \
        token-billing dlq restore 17 18\n  \
        token-billing dlq restore --group 1f3a09bc --reason 'was no test traffic'",
    mut_arg("reasons", |arg| arg.long("only-reason")),
    mut_arg("states", |arg| arg.hide(true))
)]
pub(super) struct RestoreArgs {
    #[command(flatten)]
    pub(super) change: ChangeArgs,
}

#[derive(Debug, Args)]
pub(super) struct ChangeArgs {
    /// Why, for the record
    #[arg(long = "reason", value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    why: Option<String>,

    /// Every one there is, where nothing else says which
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

    #[command(flatten)]
    select: SelectArgs,
}

impl ChangeArgs {
    pub(super) fn check(&self, act: Act) -> anyhow::Result<()> {
        self.select.check()?;
        check_extent(&self.select.selection(), self.all)?;
        if !self.yes && !self.dry_run && !ask::is_possible() {
            let name = act.name();
            let problem =
                format!("no terminal to ask on: say --yes to {name}, or --dry-run to look");
            return Err(UsageError(problem).into());
        }
        Ok(())
    }
}

pub(super) async fn run(
    act: Act,
    args: ChangeArgs,
    operations: &Operations,
    format: Format,
) -> anyhow::Result<Ended> {
    let name = act.name();
    let mut change = operations
        .plan_change(act, &args.select.selection(), args.all)
        .await?;
    if !args.dry_run {
        let dead_letters = change.plan.sums.dead_letters;
        if !args.yes && dead_letters > 0 {
            output::note(&plan_text(&change));
            let question = format!("{} {}?", capital(name), counted(dead_letters));
            if !ask::confirm(&question, false)? {
                bail!("not confirmed; nothing was changed");
            }
        }
        let actor = args.actor.actor()?;
        let why = args.why.as_deref();
        let done = operations.carry_out(&mut change, &actor, why).await;
        match change.changed {
            0 => done?,
            some => done.with_context(|| {
                format!("stopped after {}; run it again for the rest", counted(some))
            })?,
        }
    }
    format.print(&change, |change| for_people(change, args.yes))?;
    Ok(Ended::Done)
}

fn for_people(change: &Change, with_plan: bool) -> String {
    if change.plan.sums.dead_letters == 0 {
        let mut lines = vec![format!("nothing to {}", change.act.name())];
        lines.extend(change.left_out());
        return lines.join("\n");
    }
    let mut parts = Vec::new();
    if change.dry_run || with_plan {
        parts.push(plan_text(change));
    }
    if change.dry_run {
        parts.push("dry run: nothing was changed".to_owned());
        return parts.join("\n");
    }
    let done = counted(change.changed);
    parts.push(match (change.act, change.action_id) {
        (_, None) => "nothing was changed: they were dealt with meanwhile".to_owned(),
        (Act::Discard, Some(id)) => format!(
            "discarded {done} (action {id}); token-billing dlq restore, with the same ones, takes it back"
        ),
        (Act::Restore, Some(id)) => format!("restored {done} (action {id}); they are open again"),
    });
    parts.join("\n")
}

fn plan_text(change: &Change) -> String {
    let sums = &change.plan.sums;
    let mut lines = vec![format!(
        "{} of {}, asking for {}",
        counted(sums.dead_letters),
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
    if change.act == Act::Discard {
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
    let left_out = change.left_out();
    lines.extend(left_out.iter().map(|line| format!("  left out: {line}")));
    let largest = &change.plan.largest;
    if largest.len() > 1 {
        let mut table = Table::new([
            text("company"),
            at_right("dead letters"),
            at_right("tokens"),
        ]);
        for share in largest {
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
        let named = largest.iter().filter(|share| share.company_id.is_some());
        let more = sums.companies - named.count() as i64;
        if more > 0 {
            lines.push(format!("and {} more companies", output::thousands(more)));
        }
    } else if let Some(company) = largest.first().and_then(|share| share.company_id) {
        lines.push(format!("  company {company}"));
    }
    lines.join("\n")
}

fn counted(number: i64) -> String {
    count(number.unsigned_abs(), "dead letter")
}

fn capital(word: &str) -> String {
    let (first, rest) = word.split_at(1);
    first.to_ascii_uppercase() + rest
}
