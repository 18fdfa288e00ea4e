//! `balance`: what a company can pay from.

use clap::Args;
use time::OffsetDateTime;
use uuid::Uuid;

use super::output::{Format, Table, at_right, number, text, thousands};
use super::{Ended, moment, operating};
use crate::config::Settings;
use crate::operations::Balance;

#[derive(Debug, Args)]
#[command(
    about = "Show what a company can pay from, in tokens",
    long_about = "Show what a company can pay from, in tokens.\n\n\
        Monthly tokens are spent first, because they expire; purchased tokens do not expire.",
    after_help = "Example:\n  token-billing balance 3f2b8c1e-0a4d-4d7e-9b0a-2f6c1d5e7a90"
)]
pub(super) struct BalanceArgs {
    /// The company's id, a UUID
    company: Uuid,
}

pub(super) fn run(
    args: &BalanceArgs,
    settings: &Settings,
    format: Format,
) -> anyhow::Result<Ended> {
    operating(settings, async |operations| {
        let balance = operations.balance(args.company).await?;
        let now = OffsetDateTime::now_utc();
        format.print(&balance, |balance| for_people(balance, now))?;
        Ok(Ended::Done)
    })
}

fn for_people(balance: &Balance, now: OffsetDateTime) -> String {
    let quota = thousands(balance.monthly_quota);
    let period = match balance.period_end {
        None => format!("of {quota}, do not expire"),
        Some(end) if end <= now => format!("of {quota}, ended {}", moment(end)),
        Some(end) => format!("of {quota}, until {}", moment(end)),
    };
    let mut table = Table::new([text(""), at_right("tokens"), text("")]);
    table.row([text("monthly"), number(balance.monthly), text(&period)]);
    table.row([
        text("purchased"),
        number(balance.purchased),
        text("do not expire"),
    ]);
    table.row([text("total"), number(balance.total), text("")]);
    if balance.held > 0 {
        let held = "for jobs that have begun";
        table.row([text("held"), number(balance.held), text(held)]);
        table.row([text("available"), number(balance.available), text("")]);
    }
    format!("company {}\n\n{}", balance.company_id, table.render())
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_balance_says_until_when() {
        let balance = Balance {
            company_id: Uuid::from_u128(1),
            monthly: 12_000,
            monthly_quota: 50_000,
            period_end: Some(datetime!(2026-12-01 00:00:00.5 UTC)),
            purchased: 5_000,
            total: 17_000,
            held: 0,
            available: 17_000,
        };
        let shown = for_people(&balance, datetime!(2026-11-21 00:00 UTC));
        assert_eq!(
            shown,
            "company 00000000-0000-0000-0000-000000000001\n\n           \
             tokens\nmonthly    12,000  of 50,000, until 2026-12-01T00:00:00Z\npurchased   \
             5,000  do not expire\ntotal      17,000"
        );
        let shown = for_people(&balance, datetime!(2026-12-01 00:00:01 UTC));
        assert!(
            shown.contains("of 50,000, ended 2026-12-01T00:00:00Z"),
            "{shown}"
        );
    }
}
