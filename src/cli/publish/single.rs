//! One event, from flags or from the environment.

use clap::Args;

use crate::cli::UsageError;
use crate::config::Limits;
use crate::domain::{CompletionEvent, EventDraft};

/// The fields of one event. The environment is read by hand: with a file, what a CI job happens to have
/// set must not be in the way, and what is set to nothing counts as absent.
#[derive(Debug, Default, Args)]
pub(super) struct EventArgs {
    /// The finished job, a UUID: it is charged once, whatever happens [env: JOB_ID]
    #[arg(long, value_name = "UUID")]
    job_id: Option<String>,

    /// Tokens to charge, from 1 [env: TOKEN_AMOUNT]
    #[arg(long, value_name = "TOKENS", allow_negative_numbers = true)]
    tokens: Option<String>,

    /// Who pays; looked up by the job if absent [env: COMPANY_ID]
    #[arg(long, value_name = "UUID")]
    company_id: Option<String>,

    /// The article; looked up by the job if absent [env: ARTICLE_ID]
    #[arg(long, value_name = "UUID")]
    article_id: Option<String>,

    /// What the tokens were used for [default: article_generation]
    #[arg(long, value_name = "TEXT")]
    usage_type: Option<String>,

    /// When the article was finished, such as 2026-11-21T10:00:00Z
    #[arg(long, value_name = "RFC3339")]
    occurred_at: Option<String>,

    /// A JSON object to keep with the charge, such as '{"model":"m1"}'
    #[arg(long, value_name = "JSON")]
    metadata: Option<String>,
}

impl EventArgs {
    /// The first flag that was typed.
    pub(super) fn first_given(&self) -> Option<&'static str> {
        let flags = [
            ("--job-id", &self.job_id),
            ("--tokens", &self.tokens),
            ("--company-id", &self.company_id),
            ("--article-id", &self.article_id),
            ("--usage-type", &self.usage_type),
            ("--occurred-at", &self.occurred_at),
            ("--metadata", &self.metadata),
        ];
        let given = flags.into_iter().find(|(_, value)| value.is_some());
        given.map(|(flag, _)| flag)
    }

    /// The event, with `variable` for what was not typed.
    pub(super) fn into_event(
        self,
        variable: impl Fn(&str) -> Option<String>,
        limits: &Limits,
    ) -> Result<CompletionEvent, UsageError> {
        let (tokens_from, tokens) = match self.tokens {
            Some(tokens) => ("--tokens", Some(tokens)),
            None => ("TOKEN_AMOUNT", variable("TOKEN_AMOUNT")),
        };
        let missing = |what: &str| UsageError(format!("{what}; for many events there is --file"));
        let job_id = self.job_id.or_else(|| variable("JOB_ID"));
        let job_id = job_id.ok_or_else(|| missing("--job-id (or JOB_ID) is missing"))?;
        let tokens = tokens.ok_or_else(|| missing("--tokens (or TOKEN_AMOUNT) is missing"))?;
        let draft = EventDraft {
            job_id: job_id.trim().to_owned(),
            tokens: tokens.trim().parse().map_err(|_| {
                let shown = crate::domain::excerpt::quoted(&tokens);
                UsageError(format!(
                    "{tokens_from}: {shown} is not a whole number of tokens"
                ))
            })?,
            company_id: self.company_id.or_else(|| variable("COMPANY_ID")),
            article_id: self.article_id.or_else(|| variable("ARTICLE_ID")),
            usage_type: self.usage_type,
            occurred_at: self.occurred_at,
            metadata: self.metadata,
        };
        let event = draft.into_event(limits);
        event.map_err(|error| UsageError(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: &str = "8b0c1c1e-6f5e-4a43-9d0a-3f4c2f1d7a10";

    fn ci(name: &str) -> Option<String> {
        match name {
            "JOB_ID" => Some(JOB.to_owned()),
            "TOKEN_AMOUNT" => Some(" 15000\n".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn a_ci_step_needs_no_flags_and_a_flag_goes_before_the_environment() {
        let event = EventArgs::default()
            .into_event(ci, &Limits::default())
            .unwrap();
        assert_eq!(
            (event.job_id().to_string().as_str(), event.tokens()),
            (JOB, 15_000)
        );
        let args = EventArgs {
            tokens: Some("7".to_owned()),
            ..EventArgs::default()
        };
        assert_eq!(args.into_event(ci, &Limits::default()).unwrap().tokens(), 7);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refused = |args: EventArgs| args.into_event(ci, &Limits::default()).unwrap_err().0;
        let tokens = |text: &str| EventArgs {
            tokens: Some(text.to_owned()),
            ..EventArgs::default()
        };
        assert_eq!(refused(tokens("0")), "tokens: 0 is not in 1..=10000000");
        assert_eq!(
            refused(tokens("1e3")),
            "--tokens: \"1e3\" is not a whole number of tokens"
        );
        let nothing = EventArgs::default().into_event(|_| None, &Limits::default());
        assert!(
            nothing
                .unwrap_err()
                .0
                .starts_with("--job-id (or JOB_ID) is missing")
        );
    }
}
