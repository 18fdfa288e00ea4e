//! `show`: the life of one job, from whatever is known of it.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use time::OffsetDateTime;

use super::output::{Format, Table, at_right, number, printable, text, thousands};
use super::{Ended, operating};
use crate::config::Settings;
use crate::operations::{JobDeadLetter, JobHistory, JobKey, JobLife, Moment};

#[derive(Debug, Args)]
#[command(
    about = "Show the life of one job: its event, tries, dead letters, actions, charge and refund",
    long_about = "Show the life of one job, from whatever is known of it: its event, the tries and the delays between \
        them, dead letters, what people did, the charge with both buckets, the refund.\n\n\
        What is charged at the first try leaves no other trace than its charge.",
    after_help = "Example:\n  token-billing show 8b0c1c1e-6f5e-4a43-9d0a-3f4c2f1d7a10"
)]
pub(super) struct ShowArgs {
    /// The job
    #[arg(value_name = "JOB_ID", value_parser = NonEmptyStringValueParser::new())]
    job: String,
}

pub(super) fn run(args: &ShowArgs, settings: &Settings, format: Format) -> anyhow::Result<Ended> {
    operating(settings, async |operations| {
        let history = operations.job(JobKey::new(&args.job)).await?;
        format.print(&history, for_people)?;
        Ok(Ended::Done)
    })
}

fn for_people(history: &JobHistory) -> String {
    let JobLife {
        record,
        job,
        hold,
        dead_letters,
        timeline,
    } = &history.life;
    let mut now = vec![match record {
        Some(record) => format!(
            "job {}: {}, {} tokens of company {}",
            printable(history.job_id.as_str()),
            record.status,
            thousands(record.amount),
            record.company_id
        ),
        None => format!(
            "job {}: the ledger has no record of it",
            printable(history.job_id.as_str())
        ),
    }];
    if let Some(job) = job {
        let said = [job.status.as_deref(), job.error_message.as_deref()];
        let said: Vec<&str> = said.into_iter().flatten().collect();
        now.push(format!(
            "article_jobs says: {}",
            printable(&said.join(": "))
        ));
    }
    if let Some(hold) = hold.as_ref().filter(|hold| hold.counts()) {
        let (tokens, until) = (thousands(hold.amount), when(Some(hold.expires_at)));
        now.push(format!("{tokens} tokens are held for it until {until}"));
    }
    now.extend(dead_letters.iter().map(dead_letter));
    let [when_at, what, who, more_of] = ["when (UTC)", "what", "who", "more"].map(text);
    let mut table = Table::new([when_at, what, at_right("tokens"), who, more_of]);
    for moment in timeline {
        table.row([
            text(&when(moment.at)),
            text(&moment.what.replace('_', " ")),
            moment.tokens.map_or_else(|| text(""), number),
            text(moment.actor.as_deref().unwrap_or_default()),
            text(&more(moment, &history.retry_delays_ms)),
        ]);
    }
    format!("{}\n\n{}", now.join("\n"), table.render())
}

/// How it stands; of one that came again, what is not among the moments: its last arrival.
fn dead_letter(dead: &JobDeadLetter) -> String {
    let JobDeadLetter { id, state, .. } = dead;
    let stands = format!(
        "dead letter {id}: {}, {}",
        state.as_str(),
        printable(&dead.reason)
    );
    if dead.occurrences == 1 {
        return stands;
    }
    format!(
        "{stands}; it came {} times, the last {}: {}",
        thousands(dead.occurrences),
        when(Some(dead.last_failed_at)),
        printable(&dead.error)
    )
}

fn when(at: Option<OffsetDateTime>) -> String {
    let Some(at) = at else {
        return "unknown".to_owned();
    };
    let at = at.to_offset(time::UtcOffset::UTC);
    let (hour, minute, second) = at.to_hms();
    format!(
        "{} {hour:02}:{minute:02}:{second:02}.{:03}",
        at.date(),
        at.millisecond()
    )
}

fn more(moment: &Moment, retry_delays_ms: &[u64]) -> String {
    let mut parts = Vec::new();
    parts.extend(moment.dead_letter_id.map(|id| format!("dead letter {id}")));
    if let Some(attempts) = moment.attempts.filter(|attempts| *attempts > 1) {
        let pauses = usize::try_from(attempts - 1).unwrap_or_default();
        let delays: Vec<String> = retry_delays_ms
            .iter()
            .take(pauses)
            .map(|ms| humantime::format_duration(std::time::Duration::from_millis(*ms)).to_string())
            .collect();
        let delays = match (moment.what.as_str(), delays.is_empty()) {
            ("dead_lettered", false) => format!(", delayed {}", delays.join(", ")),
            _ => String::new(),
        };
        parts.push(format!("{attempts} tries{delays}"));
    }
    parts.extend(moment.detail.clone());
    parts.join("; ")
}
