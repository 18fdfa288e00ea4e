//! Which letters are meant, and finding them.

use sqlx::{Postgres, postgres::PgArguments, query::QueryAs};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Letter, LetterState};
use crate::storage::{Storage, StorageError};

/// Letters by what they are; what is empty or `None` doesn't restrict.
#[derive(Debug, Clone, Default)]
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
    /// No letter archived after this one: what arrives while it is worked on stays out.
    pub up_to: Option<i64>,
}

impl Selection {
    /// As it stands in the record of an action: which letters were meant.
    pub(super) fn describe(&self) -> String {
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

    /// Binds $1 to $10 of `selected!`.
    pub(super) fn bind<'q, O>(
        &self,
        query: QueryAs<'q, Postgres, O, PgArguments>,
    ) -> QueryAs<'q, Postgres, O, PgArguments> {
        let states: Vec<&'static str> = self.states.iter().map(|state| state.as_str()).collect();
        query
            .bind(self.ids.clone())
            .bind(self.group.clone())
            .bind(self.reasons.clone())
            .bind(self.company)
            .bind(self.job)
            .bind(self.since)
            .bind(self.until)
            .bind(states)
            .bind(self.text.clone())
            .bind(self.up_to)
    }
}

/// What of a selection's names is nowhere.
#[derive(Debug, Default, sqlx::FromRow)]
pub struct UnknownNames {
    /// Reasons that no letter has.
    pub reasons: Vec<String>,
    /// No letter is of the group.
    pub group: bool,
    /// Neither a letter nor `company_subscriptions` has the company.
    pub company: bool,
}

impl Storage {
    /// Which of these names nothing has.
    pub async fn unknown_names(
        &self,
        reasons: &[&str],
        group: Option<&str>,
        company: Option<Uuid>,
    ) -> Result<UnknownNames, StorageError> {
        let query = sqlx::query_as(
            "select array(select reason from unnest($1) with ordinality as typed (reason, n)
                          where not exists (select from dead_letters d where d.reason = typed.reason)
                          order by n) as reasons,
                    $2 is not null
                        and not exists (select from dead_letters d where d.group_id = $2) as group,
                    $3 is not null
                        and not exists (select from dead_letters d where d.company_id = $3)
                        and not exists (select from company_subscriptions c where c.company_id = $3) as company",
        )
        .bind(reasons)
        .bind(group)
        .bind(company);
        self.call(async |connection| query.fetch_one(connection).await)
            .await
    }

    /// Reasons of letters, by name, at most so many.
    pub async fn dead_letter_reasons(&self, limit: usize) -> Result<Vec<String>, StorageError> {
        let query =
            sqlx::query_scalar("select distinct reason from dead_letters order by reason limit $1")
                .bind(limit as i64);
        self.call(async |connection| query.fetch_all(connection).await)
            .await
    }

    /// One page of letters, newest first; `before` is the last id of the page before.
    pub async fn dead_letters(
        &self,
        selection: &Selection,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<Letter>, StorageError> {
        let query = sqlx::query_as(concat!(
            "select ",
            letter_columns!(),
            " from dead_letters_with_charges d where ",
            selected!(),
            " and ($11::bigint is null or d.id < $11) order by d.id desc limit $12"
        ));
        let query = selection.bind(query).bind(before).bind(limit);
        self.call(async |connection| query.fetch_all(connection).await)
            .await
    }

    /// How many letters there are of this selection.
    pub async fn count_dead_letters(&self, selection: &Selection) -> Result<i64, StorageError> {
        let query = sqlx::query_as::<_, (i64,)>(concat!(
            "select count(*) from dead_letters d where ",
            selected!()
        ));
        let query = selection.bind(query);
        self.call(async |connection| query.fetch_one(connection).await)
            .await
            .map(|(count,)| count)
    }
}
