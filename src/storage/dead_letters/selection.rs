//! Which dead letters are meant, and finding them.

use sqlx::{Postgres, QueryBuilder};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use super::{DeadLetter, DeadLetterState};
use crate::storage::{Storage, StorageError};

/// Dead letters by what they are; what is empty or `None` doesn't restrict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    pub ids: Vec<i64>,
    /// Of one group, by its id.
    pub group: Option<String>,
    /// With one of these reasons.
    pub reasons: Vec<String>,
    /// Of this company.
    pub company: Option<Uuid>,
    /// Of this job.
    pub job: Option<Uuid>,
    /// Last failed at or after.
    pub since: Option<OffsetDateTime>,
    /// Last failed before.
    pub until: Option<OffsetDateTime>,
    /// In one of these states.
    pub states: Vec<DeadLetterState>,
    /// With this text in the error or in the body, whatever its case in the error.
    pub text: Option<String>,
    /// None archived after this one: what arrives while it is worked on stays out.
    pub up_to: Option<i64>,
}

impl Selection {
    /// Nothing in it says which (a state alone doesn't): all are meant.
    pub fn is_unrestricted(&self) -> bool {
        *self
            == Self {
                states: self.states.clone(),
                up_to: self.up_to,
                ..Self::default()
            }
    }

    /// What restricts it besides ids and states, by name.
    pub fn filters(&self) -> Vec<(&'static str, String)> {
        let moment = |at: OffsetDateTime| at.format(&Rfc3339).unwrap_or_else(|_| at.to_string());
        let one = |name, value: Option<String>| value.map(|value| (name, value));
        let reasons = self.reasons.iter().map(|reason| ("reason", reason.clone()));
        let restricting = one("group", self.group.clone()).into_iter().chain(reasons);
        let restricting = restricting.chain(one("company", self.company.map(|id| id.to_string())));
        let restricting = restricting.chain(one("job", self.job.map(|id| id.to_string())));
        let restricting = restricting.chain(one("since", self.since.map(moment)));
        let restricting = restricting.chain(one("until", self.until.map(moment)));
        restricting.chain(one("text", self.text.clone())).collect()
    }

    /// As it stands in the record of an action: which dead letters were meant.
    pub fn describe(&self) -> String {
        const IDS_NAMED: usize = 20;
        let ids = self.ids.iter().take(IDS_NAMED).map(i64::to_string);
        let mut ids = ids.collect::<Vec<_>>().join(", ");
        if let more @ 1.. = self.ids.len().saturating_sub(IDS_NAMED) {
            ids.push_str(&format!(" and {more} more"));
        }
        let filters = self.filters().into_iter().map(|(name, value)| match name {
            "text" => format!("text {value:?}"),
            _ => format!("{name} {value}"),
        });
        let parts = (!ids.is_empty()).then_some(ids).into_iter().chain(filters);
        let parts: Vec<String> = parts.collect();
        if parts.is_empty() {
            return "all".to_owned();
        }
        parts.join("; ")
    }

    /// Continues a query on `d`, which has its `where`, with what this selection restricts. Only that is in it,
    /// never "or the parameter is null": a plan that is made for all values of the parameters would have to read
    /// every body for a text that nobody asks for.
    pub(super) fn restrict(&self, query: &mut QueryBuilder<Postgres>) {
        if !self.ids.is_empty() {
            query
                .push(" and d.id = any(")
                .push_bind(&self.ids)
                .push(")");
        }
        if let Some(group) = &self.group {
            query.push(" and d.group_id = ").push_bind(group);
        }
        if !self.reasons.is_empty() {
            query
                .push(" and d.reason = any(")
                .push_bind(&self.reasons)
                .push(")");
        }
        if let Some(company) = self.company {
            query.push(" and d.company_id = ").push_bind(company);
        }
        if let Some(job) = self.job {
            query.push(" and d.job_id = ").push_bind(job);
        }
        if let Some(since) = self.since {
            query.push(" and d.last_failed_at >= ").push_bind(since);
        }
        if let Some(until) = self.until {
            query.push(" and d.last_failed_at < ").push_bind(until);
        }
        if !self.states.is_empty() {
            // Their names are ours, and as constants they meet the index of what is open.
            let states: Vec<&str> = self.states.iter().map(|state| state.as_str()).collect();
            query.push(format_args!(" and d.state in ('{}')", states.join("', '")));
        }
        if let Some(text) = &self.text {
            query
                .push(" and (strpos(lower(d.error), lower(")
                .push_bind(text);
            query.push(")) > 0 or position(convert_to(").push_bind(text);
            query.push(", 'UTF8') in d.body) > 0)");
        }
        if let Some(up_to) = self.up_to {
            query.push(" and d.id <= ").push_bind(up_to);
        }
    }
}

impl Storage {
    /// Reasons of dead letters, by name, at most so many.
    pub async fn dead_letter_reasons(&self, limit: usize) -> Result<Vec<String>, StorageError> {
        let query =
            sqlx::query_scalar("select distinct reason from dead_letters order by reason limit $1")
                .bind(limit as i64);
        self.call(async |connection| query.fetch_all(connection).await)
            .await
    }

    /// One page of them, newest first; `before` is the last id of the page before.
    pub async fn dead_letters(
        &self,
        selection: &Selection,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<DeadLetter>, StorageError> {
        let mut query = DeadLetter::query();
        selection.restrict(&mut query);
        if let Some(before) = before {
            query.push(" and d.id < ").push_bind(before);
        }
        query.push(" order by d.id desc limit ").push_bind(limit);
        self.call(async |connection| query.build_query_as().fetch_all(connection).await)
            .await
    }

    /// How many there are of this selection.
    pub async fn count_dead_letters(&self, selection: &Selection) -> Result<i64, StorageError> {
        let mut query = QueryBuilder::new("select count(*) from dead_letters d where true");
        selection.restrict(&mut query);
        self.call(async |connection| query.build_query_scalar().fetch_one(connection).await)
            .await
    }
}
