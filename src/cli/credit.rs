//! `credit`: a top-up or a renewal, once per key, and what it can pay for.

mod parked;

use std::sync::Arc;

use clap::builder::NonEmptyStringValueParser;
use clap::{ArgGroup, Args, value_parser};
use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::actor::ActorArgs;
use super::dlq::sending;
use super::output::{Format, Table, at_right, count, note, number, printable, text, thousands};
use super::{Ended, UsageError, one_line, operating};
use crate::config::Settings;
use crate::domain::moment;
use crate::operations::replay::{Parked, ReplayReport};
use crate::operations::{Actor, CreditGrant, CreditRecord, Operations};

#[derive(Debug, Args)]
#[command(
    group(ArgGroup::new("grant").required(true).args(["purchased", "monthly"])),
    about = "Give a company tokens, once per key",
    long_about = "Give a company tokens, once per key.\n\n\
        The same key credits once, however often it is used: the second time shows what the first one \
        did. A renewal (--monthly) sets the monthly balance; what was left of the old one is forfeited, \
        and recorded as such.\n\n\
        Says how many parked dead letters of the company (dead for want of tokens) the balance now pays for. \
        With --replay-parked those are sent again, oldest first; nothing else is, and nothing by itself.",
    after_help = "Examples:\n  \
        token-billing credit 3f2b8c1e-0a4d-4d7e-9b0a-2f6c1d5e7a90 --purchased 50000 --key invoice-1047\n  \
        token-billing credit 3f2b8c1e-0a4d-4d7e-9b0a-2f6c1d5e7a90 --monthly 100000 \\\n      \
        --period-end 2027-01-01T00:00:00Z --key renewal-2026-12"
)]
pub(super) struct CreditArgs {
    /// The company's id, a UUID
    company: Uuid,

    /// Add this many tokens that do not expire
    #[arg(long, value_name = "TOKENS", allow_negative_numbers = true, value_parser = value_parser!(i64).range(1..))]
    purchased: Option<i64>,

    /// Set the monthly quota and its balance to this many tokens
    #[arg(long, value_name = "TOKENS", requires = "period_end", allow_negative_numbers = true, value_parser = value_parser!(i64).range(1..))]
    monthly: Option<i64>,

    /// When the monthly quota expires, such as 2027-01-01T00:00:00Z
    #[arg(long, value_name = "RFC3339", requires = "monthly", value_parser = period_end)]
    period_end: Option<OffsetDateTime>,

    /// What makes this credit this one, such as an invoice number
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    key: String,

    /// Send again the parked dead letters of the company that its balance now pays for
    #[arg(long)]
    replay_parked: bool,

    #[command(flatten)]
    actor: ActorArgs,
}

fn period_end(text: &str) -> Result<OffsetDateTime, String> {
    moment(text).ok_or_else(|| "not a moment such as 2027-01-01T00:00:00Z".to_owned())
}

impl CreditArgs {
    fn grant(&self) -> Result<CreditGrant, UsageError> {
        match (self.purchased, self.monthly, self.period_end) {
            (Some(tokens), None, None) => Ok(CreditGrant::Purchased(tokens)),
            (None, Some(quota), Some(period_end)) => Ok(CreditGrant::Monthly { quota, period_end }),
            _ => Err(UsageError(
                "either --purchased, or --monthly with --period-end".to_owned(),
            )),
        }
    }
}

/// As a program reads it.
#[derive(Debug, Serialize)]
struct CreditOutcome<'a> {
    #[serde(flatten)]
    record: &'a CreditRecord,
    #[serde(flatten)]
    parked: &'a Parked,
    /// `None`: nothing was sent.
    replay: Option<&'a ReplayReport>,
}

pub(super) fn run(args: CreditArgs, settings: &Settings, format: Format) -> anyhow::Result<Ended> {
    let grant = args.grant()?;
    if args.replay_parked {
        settings.require_broker()?;
    }
    let actor = args.actor.actor()?;
    operating(settings, async |operations| {
        let record = operations.credit(&args.key, args.company, grant, &actor);
        let record = record.await?;
        if format == Format::Table {
            format.print(&record, for_people)?;
        }
        let asked = args.replay_parked.then_some(actor);
        with_parked(&record, asked, format, operations).await
    })
}

/// The parked dead letters, for `asked` also to be sent again. The credit stands, whatever becomes of them.
async fn with_parked(
    record: &CreditRecord,
    asked: Option<Actor>,
    format: Format,
    operations: &Arc<Operations>,
) -> anyhow::Result<Ended> {
    let is_asked = asked.is_some();
    let parked = operations.parked(record.company_id).await;
    let mut failed = None;
    let parked = parked.unwrap_or_else(|error| {
        failed = Some(anyhow::Error::from(error));
        Parked::default()
    });
    if let Some(text) = parked::in_words(&parked, is_asked)
        && format == Format::Table
    {
        format.print(&(), |()| text)?;
    }
    let mut report = None;
    if let (Some(actor), None) = (asked, &failed) {
        match operations.replay_parked(&parked, actor).await {
            Ok(None) => {}
            Ok(Some(running)) => match sending::follow(running).await {
                Ok(done) => report = Some(done),
                Err(error) => failed = Some(error),
            },
            Err(error) => failed = Some(error.into()),
        }
    }
    if format == Format::Json {
        let document = CreditOutcome {
            record,
            parked: &parked,
            replay: report.as_ref(),
        };
        format.print(&document, |_| String::new())?;
    } else if let Some(report) = &report {
        format.print(&(), |()| sending::in_words(report))?;
    }
    match (failed, report) {
        (Some(error), _) if is_asked => {
            Err(error.context("the credit stands, but its parked dead letters were not replayed"))
        }
        (Some(error), _) => {
            let error = one_line(&error);
            note(&format!(
                "the credit stands, but its parked dead letters could not be counted: {error}"
            ));
            Ok(Ended::Done)
        }
        (None, Some(report)) => sending::ended(&report, true),
        (None, None) => Ok(Ended::Done),
    }
}

fn for_people(record: &CreditRecord) -> String {
    let mut lines = Vec::new();
    if record.idempotent {
        let (key, actor) = (printable(&record.idempotency_key), printable(&record.actor));
        lines.push(format!(
            "already credited under this key ({key}, by {actor}); nothing was changed. It did:"
        ));
    }
    lines.push(before_and_after(
        &record.kind.replace('_', "-"),
        (record.monthly_before, record.monthly_after),
        (record.purchased_before, record.purchased_after),
    ));
    if record.forfeited_amount > 0 {
        let forfeited = record.forfeited_amount.unsigned_abs();
        lines.push(format!("{} forfeited", count(forfeited, "token")));
    }
    lines.push(format!(
        "position in the ledger: {}",
        thousands(record.ledger_seq)
    ));
    lines.join("\n")
}

/// Balances in tokens, before and after.
pub(super) fn before_and_after(what: &str, monthly: (i64, i64), purchased: (i64, i64)) -> String {
    let heading = [text(what), at_right("before"), text(""), at_right("after")];
    let mut table = Table::new(heading);
    for (name, (before, after)) in [("monthly", monthly), ("purchased", purchased)] {
        table.row([text(name), number(before), text("→"), number(after)]);
    }
    table.render()
}
