//! `dlq show`: one letter with everything that is known about it.

use std::io::IsTerminal as _;

use anyhow::bail;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::{Args, value_parser};
use serde::Serialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use uuid::Uuid;

use super::body::pretty;
use super::letters::ago;
use super::open;
use super::plan::preview_in_words;
use crate::cli::output::{Format, count, print_bytes, printable, thousands};
use crate::cli::{Ended, UsageError, moment};
use crate::config::Settings;
use crate::operations::replay::Preview;
use crate::storage::{
    ActionFilter, ChargeState, DeadLetter, DeductionRecord, FullDeadLetter, PastAction, Storage,
};

/// Bytes of a body that people are shown.
const SHOWN_BYTES: usize = 4 * 1024;

/// Show one letter with everything known about it
#[derive(Debug, Args)]
#[command(
    long_about = "Show one dead letter with everything that is known about it: why it failed, whether money \
        moved, what a replay would do now, what people did to it, and what it says.\n\n\
        The body is indented; no token of it is changed. Bytes that are not UTF-8 are shown as \\xNN, what a \
        terminal would not show as \\u{NN}. Of a large body the first 4 KiB are shown; --raw and --output json have all of it.",
    after_help = "Examples:\n  \
        token-billing dlq show 42\n  \
        token-billing dlq show 42 --raw > letter.json"
)]
pub(super) struct ShowArgs {
    /// The letter
    #[arg(value_name = "ID", value_parser = value_parser!(i64).range(1..))]
    id: i64,

    /// Write the body as it came, byte for byte, and nothing else
    #[arg(long)]
    raw: bool,
}

/// A letter and what surrounds it.
struct Story {
    full: FullDeadLetter,
    chain: Vec<DeadLetter>,
    actions: Vec<PastAction>,
    record: Option<DeductionRecord>,
    preview: Preview,
}

pub(super) async fn run(
    args: ShowArgs,
    settings: &Settings,
    format: Format,
) -> anyhow::Result<Ended> {
    if args.raw && std::io::stdout().is_terminal() {
        let problem = "--raw: standard output is a terminal, which the bytes could attack; send them to a \
                       file or through a pipe";
        return Err(UsageError(problem.to_owned()).into());
    }
    let storage = open(settings).await?;
    let Some(full) = storage.dead_letter(args.id).await? else {
        bail!("there is no dead letter {}", args.id);
    };
    if args.raw {
        storage.close().await;
        print_bytes(&full.body)?;
        return Ok(Ended::Done);
    }
    let story = Story::of(full, &storage, settings).await?;
    storage.close().await;
    format.print(&story.document(), |_| story.for_people())?;
    Ok(Ended::Done)
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    letter: &'a DeadLetter,
    error_signature: &'a str,
    #[serde(with = "time::serde::rfc3339")]
    archived_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    last_arrived_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    resolved_at: Option<OffsetDateTime>,
    claimed_by: Option<i64>,
    #[serde(with = "time::serde::rfc3339::option")]
    claimed_until: Option<OffsetDateTime>,
    record: &'a Option<DeductionRecord>,
    replay: &'a Preview,
    chain: &'a [DeadLetter],
    actions: &'a [PastAction],
    properties: &'a RawValue,
    headers: &'a RawValue,
    body: Body<'a>,
    body_sha256: &'a str,
    edited_body: Option<Body<'a>>,
}

/// A body, whole, in the one of two ways that can hold it.
#[derive(Serialize)]
struct Body<'a> {
    text: Option<&'a str>,
    base64: Option<String>,
}

impl<'a> Body<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let text = std::str::from_utf8(bytes).ok();
        let base64 = text.is_none().then(|| STANDARD.encode(bytes));
        Self { text, base64 }
    }
}

impl Story {
    async fn of(
        full: FullDeadLetter,
        storage: &Storage,
        settings: &Settings,
    ) -> anyhow::Result<Self> {
        let id = full.dead_letter.id;
        let record = match full.dead_letter.job_id {
            Some(job_id) => storage.deduction_record(&job_id.to_string()).await?,
            None => None,
        };
        Ok(Self {
            chain: storage.dead_letter_chain(id).await?,
            actions: storage
                .operator_actions(
                    &ActionFilter {
                        dead_letters: vec![id],
                        ..ActionFilter::default()
                    },
                    100,
                )
                .await?,
            preview: Preview::of(&full, storage, &settings.limits).await,
            record,
            full,
        })
    }

    fn document(&self) -> Document<'_> {
        let full = &self.full;
        Document {
            letter: &full.dead_letter,
            error_signature: &full.error_signature,
            archived_at: full.archived_at,
            last_arrived_at: full.last_arrived_at,
            resolved_at: full.resolved_at,
            claimed_by: full.claimed_by,
            claimed_until: full.claimed_until,
            record: &self.record,
            replay: &self.preview,
            chain: &self.chain,
            actions: &self.actions,
            properties: &full.properties.0,
            headers: &full.headers.0,
            body: Body::new(&full.body),
            body_sha256: &full.body_sha256,
            edited_body: full.edited_body.as_deref().map(Body::new),
        }
    }

    fn for_people(&self) -> String {
        let (full, letter) = (&self.full, &self.full.dead_letter);
        let state = letter.state.as_str();
        let mut lines = vec![
            format!("letter {}: {}, {state}", letter.id, letter.reason),
            letter.error.clone(),
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
        block(&mut text, "body", &full.body);
        if let Some(edited) = &full.edited_body {
            block(&mut text, "edited body, which a replay sends", edited);
        }
        text
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let letter = &self.full.dead_letter;
        let nothing = || "-".to_owned();
        let id = |id: Option<Uuid>| id.map_or_else(nothing, |id| id.to_string());
        vec![
            ("money", self.money()),
            ("replay", preview_in_words(&self.preview)),
            ("job", id(letter.job_id)),
            ("company", id(letter.company_id)),
            ("article", id(letter.article_id)),
            ("tokens", letter.tokens.map_or_else(nothing, thousands)),
            ("group", letter.group_id.clone()),
        ]
    }

    fn times(&self) -> Vec<(&'static str, String)> {
        let (full, letter) = (&self.full, &self.full.dead_letter);
        let now = OffsetDateTime::now_utc();
        let at = |at: OffsetDateTime| format!("{} ({})", moment(at), ago(at, now));
        let tries = count(letter.attempts.unsigned_abs().into(), "attempt");
        let failed = format!("{}, after {tries}", at(letter.last_failed_at));
        let mut archived = at(full.archived_at);
        if letter.occurrences > 1 {
            let arrivals = count(letter.occurrences.unsigned_abs().into(), "arrival");
            archived = format!(
                "{archived}, {arrivals}, the last {}",
                at(full.last_arrived_at)
            );
        }
        let mut times = vec![
            ("failed", failed),
            ("at first", at(letter.first_failed_at)),
            ("archived", archived),
        ];
        times.extend(
            letter
                .replayed_at
                .map(|replayed| ("replayed", at(replayed))),
        );
        times.extend(full.resolved_at.map(|resolved| ("resolved", at(resolved))));
        let until = full.claimed_until.filter(|until| *until > now);
        if let Some((action, until)) = full.claimed_by.zip(until) {
            let until = moment(until);
            times.push((
                "in hand",
                format!("of operator action {action}, until {until}"),
            ));
        }
        times
    }

    fn history(&self) -> Vec<(&'static str, String)> {
        let chain = (self.chain.len() > 1).then(|| ("chain", self.chain()));
        let actions = self.actions.iter().enumerate();
        let action = |(at, action)| (if at == 0 { "history" } else { "" }, told(action));
        chain.into_iter().chain(actions.map(action)).collect()
    }

    /// Whether money moved, and why not.
    fn money(&self) -> String {
        let Some(record) = &self.record else {
            return if self.full.dead_letter.job_id.is_some() {
                "never charged: the books don't know the job".to_owned()
            } else {
                "never charged by this letter: it names no job that could be read".to_owned()
            };
        };
        let why = record
            .error_message
            .as_deref()
            .or(record.error_code.as_deref());
        let why = why.unwrap_or("no reason is recorded");
        match self.full.dead_letter.charge_state {
            ChargeState::NeverCharged => format!("never charged: {why}"),
            ChargeState::Pending => {
                format!("pending, the charge is owed and the sweeper settles it: {why}")
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
            id if id == self.full.dead_letter.id => format!("{id} (this one)"),
            id => format!("{id} ({}, {})", link.reason, link.state.as_str()),
        };
        let links: Vec<String> = self.chain.iter().map(link).collect();
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
    let mut text = format!(
        "{} {} by {}",
        moment(action.at),
        action.action,
        action.actor
    );
    if let Some(reason) = &action.reason {
        text.push_str(&format!(": {reason}"));
    }
    format!("{text} (action {})", action.id)
}

/// A text of many lines under its name, each line indented: none of them can pass for one of ours.
fn block(text: &mut String, name: &str, bytes: &[u8]) {
    let shown = &bytes[..bytes.len().min(SHOWN_BYTES)];
    let size = count(bytes.len() as u64, "byte");
    let is_whole = shown.len() == bytes.len();
    let part = if is_whole {
        ""
    } else {
        ", of which the first 4 KiB"
    };
    text.push_str(&format!("\n{name}: {size}{part}\n"));
    for line in pretty(shown).lines() {
        text.push_str(&format!("  {line}\n"));
    }
    if !is_whole {
        text.push_str("  …\n");
    }
}
