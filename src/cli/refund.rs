//! `refund`: a charge given back, once.

use clap::Args;

use super::actor::ActorArgs;
use super::credit::before_and_after;
use super::output::{Format, count, printable, thousands};
use super::{Ended, not_blank, operating};
use crate::config::Settings;
use crate::operations::{JobKey, RefundRecord};

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
    #[arg(value_name = "JOB_ID", value_parser = not_blank)]
    job: String,

    /// Why, for the record
    #[arg(long, value_name = "TEXT", value_parser = not_blank)]
    reason: String,

    /// Only show what would be given back
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    actor: ActorArgs,
}

pub(super) fn run(args: RefundArgs, settings: &Settings, format: Format) -> anyhow::Result<Ended> {
    let (job, actor) = (JobKey::new(&args.job), args.actor.actor()?);
    operating(settings, async |operations| {
        let record = operations.refund(&job, &args.reason, &actor, args.dry_run);
        format.print(&record.await?, for_people)?;
        Ok(Ended::Done)
    })
}

fn for_people(record: &RefundRecord) -> String {
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
    lines.push(before_and_after(
        "refund",
        (record.monthly_before, record.monthly_after),
        (record.purchased_before, record.purchased_after),
    ));
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
    lines.push(if record.dry_run && !record.idempotent {
        "dry run: nothing was changed".to_owned()
    } else {
        format!("position in the ledger: {}", thousands(record.ledger_seq))
    });
    lines.join("\n")
}
