//! `dlq show`: one dead letter with everything that is known about it.

use std::io::IsTerminal as _;

use clap::{Args, value_parser};
use time::OffsetDateTime;
use uuid::Uuid;

use super::body::pretty;
use super::plan::preview_in_words;
use super::rows::ago;
use crate::cli::output::{Format, count, print_bytes, printable, thousands};
use crate::cli::{Ended, UsageError, moment};
use crate::operations::{Operations, dead_letters::DeadLetterStory};
use crate::storage::{ChargeState, DeadLetter, DeductionRecord, PastAction};

/// Bytes of a body that people are shown.
const SHOWN_BYTES: usize = 4 * 1024;

/// Show one dead letter with everything known about it
#[derive(Debug, Args)]
#[command(
    long_about = "Show one dead letter with everything that is known about it: why it failed, whether it \
        was charged, what a replay would do now, what people did to it, and what it says.\n\n\
        The body is indented; no token of it is changed. Bytes that are not UTF-8 are shown as \\xNN, what a \
        terminal would not show as \\u{NN}. Of a large body the first 4 KiB are shown; --raw and --output json have all of it.",
    after_help = "Examples:\n  \
        token-billing dlq show 42\n  \
        token-billing dlq show 42 --raw > dead-letter.json"
)]
pub(super) struct ShowArgs {
    /// Which dead letter
    #[arg(value_name = "ID", value_parser = value_parser!(i64).range(1..))]
    id: i64,

    /// Write the body as it came, byte for byte, and nothing else
    #[arg(long)]
    raw: bool,
}

pub(super) async fn run(
    args: ShowArgs,
    operations: &Operations,
    format: Format,
) -> anyhow::Result<Ended> {
    if !args.raw {
        let story = operations.dead_letter(args.id).await?;
        format.print(&story, |story| Shown(story).for_people())?;
        return Ok(Ended::Done);
    }
    if std::io::stdout().is_terminal() {
        let problem = "--raw: standard output is a terminal, which the bytes could attack; send them to a \
                       file or through a pipe";
        return Err(UsageError(problem.to_owned()).into());
    }
    let full = operations.full_dead_letter(args.id).await?;
    print_bytes(&full.body.0)?;
    Ok(Ended::Done)
}

struct Shown<'a>(&'a DeadLetterStory);

impl Shown<'_> {
    fn for_people(&self) -> String {
        let (full, dead_letter) = (&self.0.full, &self.0.full.dead_letter);
        let state = dead_letter.state.as_str();
        let mut lines = vec![
            format!(
                "dead letter {}: {}, {state}",
                dead_letter.id, dead_letter.reason
            ),
            dead_letter.error.clone(),
            String::new(),
        ];
        let facts = self.facts().into_iter();
        for (label, value) in facts.chain(self.times()).chain(self.history()) {
            lines.push(format!("{label:<10} {value}"));
        }
        let mut text = String::new();
        for line in &lines {
            text.push_str(&format!("{}\n", printable(line)));
        }
        for (name, json) in [("properties", &full.properties), ("headers", &full.headers)] {
            let json = json.0.get().as_bytes();
            if json != b"{}" {
                block(&mut text, name, json);
            }
        }
        block(&mut text, "body", &full.body.0);
        if let Some(edited) = &full.edited_body {
            block(&mut text, "edited body, which a replay sends", &edited.0);
        }
        text
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let dead_letter = &self.0.full.dead_letter;
        let nothing = || "-".to_owned();
        let id = |id: Option<Uuid>| id.map_or_else(nothing, |id| id.to_string());
        vec![
            ("charge", self.charge()),
            ("replay", preview_in_words(&self.0.replay)),
            ("job", id(dead_letter.job_id)),
            ("company", id(dead_letter.company_id)),
            ("article", id(dead_letter.article_id)),
            ("tokens", dead_letter.tokens.map_or_else(nothing, thousands)),
            ("group", dead_letter.group_id.clone()),
        ]
    }

    fn times(&self) -> Vec<(&'static str, String)> {
        let (full, dead_letter) = (&self.0.full, &self.0.full.dead_letter);
        let now = OffsetDateTime::now_utc();
        let at = |at: OffsetDateTime| format!("{} ({})", moment(at), ago(at, now));
        let tries = count(dead_letter.attempts.unsigned_abs().into(), "attempt");
        let failed = format!("{}, after {tries}", at(dead_letter.last_failed_at));
        let mut archived = at(full.archived_at);
        if dead_letter.occurrences > 1 {
            let arrivals = count(dead_letter.occurrences.unsigned_abs().into(), "arrival");
            archived = format!(
                "{archived}, {arrivals}, the last {}",
                at(full.last_arrived_at)
            );
        }
        let mut times = vec![
            ("failed", failed),
            ("at first", at(dead_letter.first_failed_at)),
            ("archived", archived),
        ];
        let later = [
            ("replayed", dead_letter.replayed_at),
            ("resolved", full.resolved_at),
        ];
        times.extend(
            later
                .into_iter()
                .filter_map(|(name, when)| Some((name, at(when?)))),
        );
        let until = full.claimed_until.filter(|until| *until > now);
        if let Some((action, until)) = full.claimed_by.zip(until) {
            let run = format!("in action {action}, until {}", moment(until));
            times.push(("in flight", run));
        }
        times
    }

    fn history(&self) -> Vec<(&'static str, String)> {
        let chain = (self.0.chain.len() > 1).then(|| ("chain", self.chain()));
        let actions = self.0.actions.iter().enumerate();
        let action = |(at, action)| (if at == 0 { "history" } else { "" }, told(action));
        chain.into_iter().chain(actions.map(action)).collect()
    }

    /// Whether it was charged, and why not.
    fn charge(&self) -> String {
        let Some(record) = &self.0.record else {
            return if self.0.full.dead_letter.job_id.is_some() {
                "never charged: the ledger doesn't know the job".to_owned()
            } else {
                "never charged by this dead letter: it names no job that could be read".to_owned()
            };
        };
        let why = record.error_message.as_ref().or(record.error_code.as_ref());
        let why = why.map_or("no reason is recorded", String::as_str);
        match self.0.full.dead_letter.charge_state {
            ChargeState::NeverCharged => format!("never charged: {why}"),
            ChargeState::Pending => {
                format!("pending, the sweeper charges it or writes it off: {why}")
            }
            ChargeState::Charged => format!("charged {}", charged(record)),
            ChargeState::Compensated => format!(
                "compensated, given back after it was charged {}",
                charged(record)
            ),
        }
    }

    fn chain(&self) -> String {
        let link = |link: &DeadLetter| match link.id {
            id if id == self.0.full.dead_letter.id => format!("{id} (this one)"),
            id => format!("{id} ({}, {})", link.reason, link.state.as_str()),
        };
        let links: Vec<String> = self.0.chain.iter().map(link).collect();
        links.join(" → ")
    }
}

fn charged(record: &DeductionRecord) -> String {
    let mut text = format!("{} tokens", thousands(record.amount));
    if let Some(at) = record.completed_at {
        text.push_str(&format!(" on {}", moment(at)));
    }
    text.push_str(&format!(
        " to company {}: {} monthly, {} purchased",
        record.company_id,
        thousands(record.monthly_deducted),
        thousands(record.purchased_deducted)
    ));
    if let (Some(before), Some(after)) = (record.balance_before, record.balance_after) {
        text.push_str(&format!(
            "; balance {} → {}",
            thousands(before),
            thousands(after)
        ));
    }
    text
}

fn told(action: &PastAction) -> String {
    let why = action.reason.as_ref().map(|why| format!(": {why}"));
    let (at, why) = (moment(action.at), why.unwrap_or_default());
    let (what, who) = (&action.action, &action.actor);
    format!("{at} {what} by {who}{why} (action {})", action.id)
}

/// A text of many lines under its name, each line indented: none of them can pass for one of ours.
fn block(text: &mut String, name: &str, bytes: &[u8]) {
    let shown = &bytes[..bytes.len().min(SHOWN_BYTES)];
    let size = count(bytes.len() as u64, "byte");
    let is_whole = shown.len() == bytes.len();
    let part = match is_whole {
        true => "",
        false => ", of which the first 4 KiB",
    };
    text.push_str(&format!("\n{name}: {size}{part}\n"));
    for line in pretty(shown).lines() {
        text.push_str(&format!("  {line}\n"));
    }
    if !is_whole {
        text.push_str("  …\n");
    }
}
