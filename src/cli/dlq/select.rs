//! Which letters a `dlq` command is about: the flags that these commands share.

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum, value_parser};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use crate::cli::UsageError;
use crate::domain;
use crate::storage::{LetterState, Selection};

/// The flags of a selection. Each one restricts; several restrict together.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Which letters")]
pub(super) struct SelectArgs {
    /// These letters
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

impl State {
    /// `None`: all of them.
    fn one(self) -> Option<LetterState> {
        match self {
            Self::Open => Some(LetterState::Open),
            Self::Replayed => Some(LetterState::Replayed),
            Self::Resolved => Some(LetterState::Resolved),
            Self::Discarded => Some(LetterState::Discarded),
            Self::All => None,
        }
    }
}

impl SelectArgs {
    /// The letters that are meant, in one of the `default` states where `--state` is not given (none: in
    /// any).
    ///
    /// # Errors
    ///
    /// What can't match any letter: `--since` at or after `--until`.
    pub(super) fn selection(&self, default: &[LetterState]) -> Result<Selection, UsageError> {
        if let (Some(since), Some(until)) = (self.since, self.until)
            && since >= until
        {
            return Err(UsageError(
                "--since: is not before --until, so nothing can match".to_owned(),
            ));
        }
        let states = if self.states.is_empty() {
            default.to_vec()
        } else if self.states.contains(&State::All) {
            Vec::new()
        } else {
            self.states.iter().filter_map(|state| state.one()).collect()
        };
        Ok(Selection {
            ids: self.ids.clone(),
            group: self.group.clone(),
            reasons: self.reasons.clone(),
            company: self.company,
            job: self.job,
            since: self.since,
            until: self.until,
            states,
            text: self.text.clone(),
            up_to: None,
        })
    }

    /// Nothing was typed that says which letters (a state alone doesn't): all are meant.
    pub(super) fn is_unrestricted(&self) -> bool {
        self.ids.is_empty()
            && self.group.is_none()
            && self.reasons.is_empty()
            && self.company.is_none()
            && self.job.is_none()
            && self.since.is_none()
            && self.until.is_none()
            && self.text.is_none()
    }

    /// The reasons that were typed.
    pub(super) fn reasons(&self) -> impl Iterator<Item = &str> {
        self.reasons.iter().map(String::as_str)
    }

    /// The group that was typed.
    pub(super) fn group(&self) -> Option<&str> {
        self.group.as_deref()
    }

    /// The company that was typed.
    pub(super) fn company(&self) -> Option<Uuid> {
        self.company
    }

    /// Letters were named by their ids.
    pub(super) fn has_ids(&self) -> bool {
        !self.ids.is_empty()
    }

    /// The same flags as one would type them, each after a space; times that were "ago" as they are now.
    pub(super) fn as_typed(&self) -> String {
        let moment = |moment: OffsetDateTime| moment.format(&Rfc3339).ok();
        let state = |state: &State| Some(state.to_possible_value()?.get_name().to_owned());
        let flags = [
            ("group", self.group.clone().into_iter().collect()),
            ("reason", self.reasons.clone()),
            (
                "company",
                self.company.iter().map(Uuid::to_string).collect(),
            ),
            ("job", self.job.iter().map(Uuid::to_string).collect()),
            ("since", self.since.and_then(moment).into_iter().collect()),
            ("until", self.until.and_then(moment).into_iter().collect()),
            ("state", self.states.iter().filter_map(state).collect()),
            ("text", self.text.clone().into_iter().collect::<Vec<_>>()),
        ];
        let mut words: Vec<String> = self.ids.iter().map(|id| format!(" {id}")).collect();
        for (name, values) in flags {
            words.extend(
                values
                    .iter()
                    .map(|value| format!(" --{name} {}", quoted(value))),
            );
        }
        words.concat()
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
        let backwards = typed(&["--since", "1h", "--until", "2h"]).selection(&[]);
        assert!(backwards.unwrap_err().to_string().contains("--since"));
    }

    #[test]
    fn open_letters_are_meant_unless_a_state_is_named() {
        let open = [LetterState::Open];
        assert_eq!(typed(&[]).selection(&open).unwrap().states, open);
        let all = typed(&["--state", "open", "--state", "all"]);
        assert_eq!(all.selection(&open).unwrap().states, []);
        let closed = typed(&["--state", "resolved", "--state", "discarded"]);
        assert_eq!(
            closed.selection(&open).unwrap().states,
            [LetterState::Resolved, LetterState::Discarded]
        );
        assert!(closed.is_unrestricted() && !typed(&["7"]).is_unrestricted());
    }

    #[test]
    fn a_time_ago_counts_from_now() {
        let since = typed(&["--since", "2h 30m"]).since.unwrap();
        let ago = OffsetDateTime::now_utc() - since;
        assert!((149..=151).contains(&ago.whole_minutes()), "{ago}");
    }

    #[test]
    fn a_selection_can_be_typed_again() {
        let words = [
            "7",
            "8",
            "--group",
            "1F3A09BC",
            "--reason",
            "a",
            "--reason",
            "b c",
            "--since",
            "2026-11-21T10:00:00Z",
            "--state",
            "all",
            "--text",
            "it's $(rm)",
        ];
        let typed = typed(&words).as_typed();
        assert_eq!(
            typed,
            " 7 8 --group 1f3a09bc --reason a --reason 'b c' --since 2026-11-21T10:00:00Z \
             --state all --text 'it'\\''s $(rm)'"
        );
    }
}
