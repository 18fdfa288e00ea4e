//! Which dead letters are meant, and finding them.

use sqlx::{Postgres, QueryBuilder};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{DeadLetter, LetterState};
use crate::storage::{Storage, StorageError};

/// Dead letters by what they are; what is empty or `None` doesn't restrict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// These.
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
    pub states: Vec<LetterState>,
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

    /// As it stands in the record of an action: which letters were meant.
    pub fn describe(&self) -> String {
        const IDS_NAMED: usize = 20;
        let mut parts = Vec::new();
        if !self.ids.is_empty() {
            let ids: Vec<String> = self.ids.iter().map(i64::to_string).collect();
            let mut text = ids[..ids.len().min(IDS_NAMED)].join(", ");
            if ids.len() > IDS_NAMED {
                text.push_str(&format!(" and {} more", ids.len() - IDS_NAMED));
            }
            parts.push(text);
        }
        let mut part = |name: &str, value: Option<String>| {
            parts.extend(value.map(|value| format!("{name} {value}")));
        };
        part("group", self.group.clone());
        for reason in &self.reasons {
            part("reason", Some(reason.clone()));
        }
        part("company", self.company.map(|id| id.to_string()));
        part("job", self.job.map(|id| id.to_string()));
        part("since", self.since.map(|at| at.to_string()));
        part("until", self.until.map(|at| at.to_string()));
        part("text", self.text.as_ref().map(|text| format!("{text:?}")));
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
