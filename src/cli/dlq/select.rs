//! Which dead letters a `dlq` command is about: the flags that these commands share.

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum, value_parser};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::domain;
use crate::operations::dead_letters::check_window;
use crate::storage::{DeadLetterState, Selection};

/// The flags of a selection. Each one restricts; several restrict together.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Which dead letters")]
pub(super) struct SelectArgs {
    /// These dead letters
    #[arg(value_name = "ID", value_parser = value_parser!(i64).range(1..), help_heading = "Arguments")]
    ids: Vec<i64>,

    /// Of this group: see `dlq groups`
    #[arg(long, value_name = "GROUP", value_parser = group)]
    group: Option<String>,

    /// With this reason, such as insufficient_balance; repeat for several
    #[arg(long = "reason", value_name = "REASON", value_parser = NonEmptyStringValueParser::new())]
    reasons: Vec<String>,

    /// Of this company
    #[arg(long, value_name = "UUID")]
    company: Option<Uuid>,

    /// Of this job
    #[arg(long, value_name = "UUID")]
    job: Option<Uuid>,

    /// Last failed then or later: 2026-11-21T10:00:00Z, or so long ago: 2h, 30m
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<OffsetDateTime>,

    /// Last failed before: 2026-11-21T10:00:00Z, or so long ago: 2h, 30m
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<OffsetDateTime>,

    /// open, replayed, resolved, discarded, or all; repeat for several
    #[arg(
        long = "state",
        value_name = "STATE",
        value_enum,
        hide_possible_values = true
    )]
    states: Vec<State>,

    /// With this text in the error or in the body
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    text: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum State {
    Open,
    Replayed,
    Resolved,
    Discarded,
    All,
}

impl SelectArgs {
    /// Whether they can select anything at all.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        Ok(check_window(&self.selection())?)
    }

    /// What they select.
    pub(super) fn selection(&self) -> Selection {
        use DeadLetterState::{Discarded, Open, Replayed, Resolved};
        let states = self.states.iter().flat_map(|state| match state {
            State::Open => vec![Open],
            State::Replayed => vec![Replayed],
            State::Resolved => vec![Resolved],
            State::Discarded => vec![Discarded],
            State::All => vec![Open, Replayed, Resolved, Discarded],
        });
        Selection {
            ids: self.ids.clone(),
            group: self.group.clone(),
            reasons: self.reasons.clone(),
            company: self.company,
            job: self.job,
            since: self.since,
            until: self.until,
            states: states.collect(),
            text: self.text.clone(),
            up_to: None,
        }
    }

    /// The same flags as one would type them, each after a space; times that were "ago" as they are now.
    pub(super) fn as_typed(&self) -> String {
        let states = self.states.iter().filter_map(State::to_possible_value);
        let states = states.map(|state| ("state", state.get_name().to_owned()));
        let flags = self.selection().filters().into_iter().chain(states);
        let flags = flags.map(|(name, value)| format!(" --{name} {}", quoted(&value)));
        let ids = self.ids.iter().map(|id| format!(" {id}"));
        ids.chain(flags).collect()
    }
}

/// As a shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/@+,".contains(&byte);
    if word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn group(text: &str) -> Result<String, String> {
    if text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("not the id of a group, such as 1f3a09bc".to_owned())
    }
}

/// A moment, or one so long ago.
pub(super) fn moment(text: &str) -> Result<OffsetDateTime, String> {
    if let Some(moment) = domain::moment(text) {
        return Ok(moment);
    }
    let ago = humantime::parse_duration(text).ok();
    let ago = ago.and_then(|ago| time::Duration::try_from(ago).ok());
    let then = ago.and_then(|ago| OffsetDateTime::now_utc().checked_sub(ago));
    then.map(OffsetDateTime::truncate_to_second)
        // The database's calendar has no year 0.
        .filter(|then| then.year() >= 1)
        .ok_or_else(|| {
            "neither a moment such as 2026-11-21T10:00:00Z nor a time ago such as 2h".to_owned()
        })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Typed {
        #[command(flatten)]
        select: SelectArgs,
    }

    fn typed(words: &[&str]) -> SelectArgs {
        let words = std::iter::once(&"dlq").chain(words);
        Typed::try_parse_from(words).unwrap().select
    }

    fn refused(words: &[&str]) -> String {
        let words = std::iter::once(&"dlq").chain(words);
        Typed::try_parse_from(words).unwrap_err().to_string()
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_the_name_of_its_flag() {
        for (words, flag) in [
            (&["0"][..], "[ID]"),
            (&["7a"], "[ID]"),
            (&["--group", "1f3a09b"], "--group"),
            (&["--group", "1f3a09bg"], "--group"),
            (&["--reason", ""], "--reason"),
            (&["--company", "acme"], "--company"),
            (&["--job", "7"], "--job"),
            (&["--since", "yesterday"], "--since"),
            (&["--until", "2026-11-21"], "--until"),
            (&["--since", "999999999y"], "--since"),
            (&["--until", "9999-12-31T23:00:00-05:00"], "--until"),
            (&["--since", "0000-06-01T00:00:00Z"], "--since"),
            (&["--state", "closed"], "--state"),
            (&["--text", ""], "--text"),
        ] {
            assert!(
                refused(words).contains(flag),
                "{words:?}: {}",
                refused(words)
            );
        }
    }

    #[test]
    fn all_states_are_each_of_them() {
        let all = typed(&["--state", "all"]).selection().states;
        assert_eq!(all.len(), 4);
        let closed = typed(&["--state", "resolved", "--state", "discarded"]).selection();
        let states = [DeadLetterState::Resolved, DeadLetterState::Discarded];
        assert_eq!(closed.states, states);
        assert!(closed.is_unrestricted() && !typed(&["7"]).selection().is_unrestricted());
    }

    #[test]
    fn a_time_ago_counts_from_now() {
        let since = typed(&["--since", "2h 30m"]).since.unwrap();
        let ago = OffsetDateTime::now_utc() - since;
        assert!((149..=151).contains(&ago.whole_minutes()), "{ago}");
    }

    #[test]
    fn a_selection_can_be_typed_again() {
        let words = "7 8 --group 1F3A09BC --reason a --reason b --since 2026-11-21T10:00:00Z --state all --text";
        let words: Vec<&str> = words.split(' ').chain(["it's $(rm)"]).collect();
        let typed = typed(&words).as_typed();
        assert_eq!(
            typed,
            " 7 8 --group 1f3a09bc --reason a --reason b --since 2026-11-21T10:00:00Z \
             --text 'it'\\''s $(rm)' --state all"
        );
    }
}
