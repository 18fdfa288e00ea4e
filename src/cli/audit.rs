//! `audit`: checks the ledger for inconsistencies.

use clap::Args;

use super::output::{Format, Table, at_right, count, note, number, text, thousands};
use super::progress::{ProgressLine, shown};
use super::{Ended, operating};
use crate::config::Settings;
use crate::operations::{AuditProgress, AuditReport, CHAIN};

#[derive(Debug, Args)]
#[command(
    about = "Check the ledger for inconsistencies",
    long_about = "Check the ledger for inconsistencies: every charge, log, credit, balance and dead letter, in one consistent look.\n\n\
        Changes that an application made by SQL of its own are listed as external; with \
        audit.external_writes = \"forbidden\" they are violations. Exit code 3: a violation was found.",
    after_help = "Example:\n  token-billing audit --output json > audit-$(date +%F).json"
)]
pub(super) struct AuditArgs {}

pub(super) fn run(settings: &Settings, format: Format) -> anyhow::Result<Ended> {
    operating(settings, async |operations| {
        let line = ProgressLine::spinner();
        let show = |AuditProgress { check, done, of }| {
            let far = match of {
                0 => String::new(),
                of => format!(": {} of {}", thousands(done), thousands(of)),
            };
            line.message(format!("checking {check}{far}"));
        };
        let report = shown(|progress| operations.audit(progress), show).await?;
        drop(line);
        format.print(&report, for_people)?;
        let violations = report.violations_count();
        if violations == 0 {
            return Ok(Ended::Done);
        }
        let violations = count(violations, "violation");
        note(&format!("the ledger has {violations}"));
        Ok(Ended::NeedsPerson)
    })
}

fn for_people(report: &AuditReport) -> String {
    let size = &report.size;
    let mut parts = vec![format!(
        "{}, {}, {} and {}; {} known {}; in {:.1} s",
        counted(size.records, "record"),
        counted(size.usage_logs, "usage log"),
        counted(size.credits, "credit"),
        counted(size.dead_letters, "dead letter"),
        thousands(size.companies),
        if size.companies == 1 {
            "company"
        } else {
            "companies"
        },
        report.seconds
    )];
    let mut table = Table::new([text(""), text("check"), at_right("found"), text("proves")]);
    for check in &report.checks {
        let sign = if check.violations == 0 { "✓" } else { "✗" };
        // Changes from outside were found, also where they are no violations.
        let found = match check.name {
            CHAIN => report.external_changes_count,
            _ => check.violations,
        };
        let found = number(i64::try_from(found).unwrap_or(i64::MAX));
        table.row([text(sign), text(check.name), found, text(check.proves)]);
    }
    parts.push(table.render());
    parts.extend(violations(report));
    parts.extend(external_changes(report));
    if !report.given_away.is_empty() {
        let (times, tokens) = (at_right("times"), at_right("tokens"));
        let mut table = Table::new([text("given away on"), text("reason"), times, tokens]);
        for given in &report.given_away {
            let (times, tokens) = (number(given.count), number(given.tokens));
            table.row([text(&given.day), text(&given.reason), times, tokens]);
        }
        parts.push(table.render());
    }
    parts.join("\n\n")
}

fn counted(rows: i64, noun: &str) -> String {
    count(rows.unsigned_abs(), noun)
}

fn violations(report: &AuditReport) -> Option<String> {
    if report.violations.is_empty() {
        return None;
    }
    let mut table = Table::new(["violation", "of", "company", "found"].map(text));
    for one in &report.violations {
        let company = one.company_id.map(|id| id.to_string()).unwrap_or_default();
        let cells = [&one.kind, &one.subject, &company, &one.detail];
        table.row(cells.map(|cell| text(cell)));
    }
    let listed = report.checks.iter().filter(|check| check.name != CHAIN);
    let all: u64 = listed.map(|check| check.violations).sum();
    Some(with_the_rest(&table.render(), report.violations.len(), all))
}

fn external_changes(report: &AuditReport) -> Option<String> {
    if report.external_changes.is_empty() {
        return None;
    }
    let seq = |seq: Option<i64>, none: &str| seq.map_or_else(|| at_right(none), number);
    let [tokens, after, before] = ["tokens", "after movement", "before movement"].map(at_right);
    let mut table = Table::new([text("external change of"), tokens, after, before]);
    for one in &report.external_changes {
        let (after, before) = (seq(one.after_seq, "-"), seq(one.before_seq, "now"));
        let company = text(&one.company_id.to_string());
        table.row([company, number(one.tokens), after, before]);
    }
    let (shown, all) = (report.external_changes.len(), report.external_changes_count);
    Some(with_the_rest(&table.render(), shown, all))
}

fn with_the_rest(table: &str, shown: usize, all: u64) -> String {
    match all.saturating_sub(shown as u64) {
        0 => table.to_owned(),
        more => format!("{table}\n… and {} more", thousands(more)),
    }
}
