//! What a replay would do, for people.

use crate::cli::output::{Table, at_right, count, number, text, thousands};
use crate::domain::Reason;
use crate::operations::replay::{Forecast, Preview, PreviewOutcome, ReplayPlan};

/// Companies that are shown.
const SHOWN: usize = 20;

/// What would become of one dead letter, in a line.
pub(super) fn preview_in_words(preview: &Preview) -> String {
    let message = preview.message.as_deref().unwrap_or_default();
    match preview.outcome {
        PreviewOutcome::WouldCharge => {
            let figure = |figure: Option<i64>| figure.map_or_else(|| "?".to_owned(), thousands);
            format!(
                "would charge {} tokens: balance {} → {}",
                figure(preview.tokens),
                figure(preview.balance_before),
                figure(preview.balance_after)
            )
        }
        PreviewOutcome::AlreadyCharged => {
            "would change nothing: the job is charged already".to_owned()
        }
        PreviewOutcome::WouldFail => {
            let reason = preview.reason.map_or("?", Reason::as_str);
            format!("would fail again: {reason}: {message}")
        }
        PreviewOutcome::Refused => format!("is refused: {message}"),
        PreviewOutcome::NotOpen => format!("is not open for it: {message}"),
        PreviewOutcome::Unknown => format!("can't be told now: {message}"),
    }
}

type Column = (&'static str, fn(&Forecast) -> i64);

fn size(number: u64) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// What a replay would do, by company. What happens to no dead letter has no column.
pub(super) fn in_words(plan: &ReplayPlan) -> String {
    let always: [Column; 3] = [
        ("dead letters", |forecast| size(forecast.dead_letters)),
        ("to charge", |forecast| size(forecast.charged)),
        ("tokens", |forecast| forecast.charged_tokens),
    ];
    let sometimes: [Column; 4] = [
        ("charged already", |forecast| size(forecast.already_charged)),
        ("fail again", |forecast| size(forecast.fail_again)),
        ("refused", |forecast| size(forecast.refused)),
        ("not computed", |forecast| size(forecast.not_computed)),
    ];
    let happens = |(_, figure): &Column| figure(&plan.total) > 0;
    let columns: Vec<Column> = always
        .into_iter()
        .chain(sometimes.into_iter().filter(happens))
        .collect();
    let heading = columns.iter().map(|(name, _)| at_right(name));
    let mut table = Table::new(std::iter::once(text("company")).chain(heading));
    let mut row = |name: &str, forecast: &Forecast| {
        let figures = columns.iter().map(|(_, figure)| number(figure(forecast)));
        table.row(std::iter::once(text(name)).chain(figures));
    };
    for company in plan.companies.iter().take(SHOWN) {
        let name = company
            .company_id
            .map_or("(unknown)".to_owned(), |id| id.to_string());
        row(&name, &company.forecast);
    }
    let more = plan.companies.len().saturating_sub(SHOWN);
    if plan.companies.len() > 1 {
        let name = match more {
            0 => "all".to_owned(),
            more => format!("all, with {} more", thousands(more as u64)),
        };
        row(&name, &plan.total);
    }
    let mut lines = vec![table.render()];
    let total = &plan.total;
    if total.fail_again > 0 {
        lines.push(format!("will fail again: {}", reasons(total)));
    }
    if total.refused > 0 {
        lines.push(format!(
            "refused: {} of refunded jobs, which are never charged again",
            count(total.refused, "dead letter")
        ));
    }
    if total.not_computed > 0 {
        lines.push(format!(
            "not computed: {} of companies that are busy, or beyond replay.plan_max",
            count(total.not_computed, "dead letter")
        ));
    }
    lines.join("\n")
}

/// `80 insufficient_balance, 10 malformed`, the most frequent first.
fn reasons(forecast: &Forecast) -> String {
    let mut failures: Vec<_> = forecast.failures.iter().collect();
    failures.sort_by_key(|(reason, dead_letters)| (std::cmp::Reverse(**dead_letters), **reason));
    let named =
        |(reason, dead_letters): (&&str, &u64)| format!("{} {reason}", thousands(*dead_letters));
    let named: Vec<String> = failures.into_iter().map(named).collect();
    named.join(", ")
}
