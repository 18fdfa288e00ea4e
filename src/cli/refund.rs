//! `refund`: a charge given back, once.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use uuid::Uuid;

use super::actor::ActorArgs;
use super::output::{Format, Table, at_right, count, number, printable, text, thousands};
use super::{Ended, UsageError, open_storage};
use crate::config::Settings;
use crate::storage::{Refund, RefundRecord};

#[derive(Debug, Args)]
#[command(
    about = "Give a charge back, once",
    long_about = "Give a charge back, once: to the buckets it came from.\n\n\
        Purchased tokens always go back. Monthly tokens go back while the period they were from lasts; after that \
        they are forfeited, or given as purchased tokens (setting refund.expired_monthly). The job is never charged \
        again, whatever is replayed; its row in article_jobs is left as it is. A second refund changes nothing and \
        shows what the first one did.",
    after_help = "Examples:\n  \
        token-billing refund 8b0c1c1e-6f5e-4a43-9d0a-3f4c2f1d7a10 --reason 'ticket 4711' --dry-run\n  \
        token-billing refund 8b0c1c1e-6f5e-4a43-9d0a-3f4c2f1d7a10 --reason 'ticket 4711'"
)]
pub(super) struct RefundArgs {
    /// The job that was charged
    #[arg(value_name = "JOB_ID", value_parser = NonEmptyStringValueParser::new())]
    job: String,

    /// Why, for the record
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    reason: String,

    /// Only show what would be given back
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    actor: ActorArgs,
}

pub(super) async fn run(
    args: RefundArgs,
    settings: &Settings,
    format: Format,
) -> anyhow::Result<Ended> {
    if args.reason.trim().is_empty() {
        return Err(UsageError("--reason: is empty".to_owned()).into());
    }
    // Other callers of the functions may use keys that are no UUIDs.
    let job = Uuid::try_parse(&args.job).map_or(args.job, |id| id.hyphenated().to_string());
    let actor = args.actor.name();
    let storage = open_storage(settings).await?;
    let refund = Refund {
        job: &job,
        expired_monthly: settings.refund.expired_monthly,
        actor: &actor,
        reason: &args.reason,
        dry_run: args.dry_run,
    };
    let record = storage.refund(refund).await;
    storage.close().await;
    format.print(&Report::new(record?, args.dry_run), for_people)?;
    Ok(Ended::Done)
}

#[derive(Debug, serde::Serialize)]
struct Report {
    dry_run: bool,
    #[serde(flatten)]
    record: RefundRecord,
}

impl Report {
    fn new(record: RefundRecord, dry_run: bool) -> Self {
        Self { dry_run, record }
    }
}

fn for_people(Report { dry_run, record }: &Report) -> String {
    let mut lines = Vec::new();
    if record.idempotent {
        lines.push(format!(
            "already refunded (by {}: {}); nothing was changed. It did:",
            printable(&record.actor),
            printable(&record.reason)
        ));
    }
    lines.push(format!(
        "job {}: {} charged to company {}, {} monthly and {} purchased",
        printable(&record.job_id),
        count(record.amount.unsigned_abs(), "token"),
        record.company_id,
        thousands(record.monthly_deducted),
        thousands(record.purchased_deducted)
    ));
    let mut table = Table::new([
        text("refund"),
        at_right("before"),
        text(""),
        at_right("after"),
    ]);
    let mut row = |name, before, after| {
        table.row([text(name), number(before), text("→"), number(after)]);
    };
    row("monthly", record.monthly_before, record.monthly_after);
    row("purchased", record.purchased_before, record.purchased_after);
    lines.push(table.render());
    let expired = |tokens: i64| count(tokens.unsigned_abs(), "monthly token");
    if record.forfeited_amount > 0 {
        let forfeited = expired(record.forfeited_amount);
        lines.push(format!(
            "{forfeited} forfeited: the period they were from is over"
        ));
    }
    let converted = record.purchased_amount - record.purchased_deducted;
    if converted > 0 {
        let converted = expired(converted);
        lines.push(format!(
            "{converted} given as purchased ones: the period they were from is over"
        ));
    }
    lines.push(if *dry_run && !record.idempotent {
        "dry run: nothing was changed".to_owned()
    } else {
        format!("position in the books: {}", thousands(record.ledger_seq))
    });
    lines.join("\n")
}
