//! Writing dead letters off, and taking that back. Neither touches the ledger.

use serde::Serialize;
use sqlx::QueryBuilder;
use uuid::Uuid;

use super::{DeadLetterState, Selection};
use crate::storage::{Storage, StorageError};

/// Dead letters changed in one transaction: others wait for the archive's lock meanwhile.
const PAGE: i64 = 1000;
/// Companies that a plan names; of the others only the number.
const COMPANIES_NAMED: i64 = 10;

/// Who acts, and why.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    pub actor: &'a str,
    pub reason: Option<&'a str>,
}

/// What is done to dead letters as they are, without sending anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// Open ones are written off.
    Discard,
    /// Discarded ones are open again.
    Restore,
}

impl Act {
    /// As it is typed and recorded.
    pub fn name(self) -> &'static str {
        match self {
            Self::Discard => "discard",
            Self::Restore => "restore",
        }
    }

    /// The state of the dead letters it can be done to.
    pub fn from(self) -> DeadLetterState {
        match self {
            Self::Discard => DeadLetterState::Open,
            Self::Restore => DeadLetterState::Discarded,
        }
    }

    /// The condition on what it can be done to; what doesn't meet it is left out.
    fn free(self) -> String {
        let unclaimed = "(d.claimed_until is null or d.claimed_until <= clock_timestamp())";
        format!("(d.state = '{}' and {unclaimed})", self.from().as_str())
    }
}

/// What an act would do now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct ActPlan {
    #[serde(flatten)]
    pub sums: ActSums,
    /// The companies with the most tokens.
    pub largest: Vec<CompanyShare>,
}

/// The figures of an [`ActPlan`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct ActSums {
    /// Dead letters that would change.
    pub dead_letters: i64,
    /// The tokens they ask for, where they can be read.
    pub tokens: i64,
    /// Dead letters whose tokens can't be read.
    pub without_tokens: i64,
    /// Different companies, where they can be read.
    pub companies: i64,
    /// Dead letters whose job was charged.
    pub charged: i64,
    /// Dead letters whose job is pending: the sweeper charges it or writes it off.
    pub pending: i64,
    /// Dead letters whose job was charged and refunded.
    pub compensated: i64,
    /// Selected, but claimed by a replay: left out.
    pub being_replayed: i64,
    /// Selected, but in another state: left out.
    pub in_other_state: i64,
    /// The newest dead letter selected: what arrives later stays out.
    #[serde(skip)]
    pub up_to: Option<i64>,
}

/// One company's part of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct CompanyShare {
    /// Which; `None`: it can't be read.
    pub company_id: Option<Uuid>,
    pub dead_letters: i64,
    /// Tokens they ask for, where they can be read.
    pub tokens: i64,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Acted {
    /// The row of `operator_actions`; `None`: nothing was there to do.
    pub action_id: Option<i64>,
    /// Dead letters changed.
    pub dead_letters: i64,
}

impl Storage {
    /// What `act` would do to this selection now.
    pub async fn plan_act(&self, act: Act, selection: &Selection) -> Result<ActPlan, StorageError> {
        let (free, from) = (act.free(), act.from().as_str());
        let mut sums = QueryBuilder::new(format!(
            "select count(*) filter (where e.free) as dead_letters,
                    least(coalesce(sum(greatest(d.tokens, 0)) filter (where e.free), 0), 9223372036854775807)::bigint
                        as tokens,
                    count(*) filter (where e.free and d.tokens is null) as without_tokens,
                    count(distinct d.company_id) filter (where e.free) as companies,
                    count(*) filter (where e.free and d.charge_state = 'charged') as charged,
                    count(*) filter (where e.free and d.charge_state = 'pending') as pending,
                    count(*) filter (where e.free and d.charge_state = 'compensated') as compensated,
                    count(*) filter (where not e.free and d.state = '{from}') as being_replayed,
                    count(*) filter (where d.state <> '{from}') as in_other_state,
                    max(d.id) as up_to
             from dead_letters_with_charges d
             cross join lateral (select {free} as free) e
             where true"
        ));
        let mut largest = QueryBuilder::new(format!(
            "select d.company_id, count(*) as dead_letters,
                    least(coalesce(sum(greatest(d.tokens, 0)), 0), 9223372036854775807)::bigint as tokens
             from dead_letters d
             where {free}"
        ));
        selection.restrict(&mut sums);
        selection.restrict(&mut largest);
        largest.push(" group by d.company_id order by 3 desc, 2 desc, 1 limit ");
        largest.push_bind(COMPANIES_NAMED);
        self.call(async |connection| {
            Ok(ActPlan {
                sums: sums.build_query_as().fetch_one(&mut *connection).await?,
                largest: largest.build_query_as().fetch_all(connection).await?,
            })
        })
        .await
    }

    /// Does it, in pages; `done` hears after each how many there are so far. What it can't be done to is
    /// left out. Interrupted, it has done a part, and that is recorded.
    pub async fn act(
        &self,
        act: Act,
        selection: &Selection,
        signed: Signed<'_>,
        mut done: impl FnMut(i64),
    ) -> Result<Acted, StorageError> {
        let mut acted = Acted::default();
        let mut after = 0;
        loop {
            let ids = self.page(act, selection, after).await?;
            let Some(&last) = ids.last() else {
                return Ok(acted);
            };
            let change =
                sqlx::query_as("select * from change_dead_letters($1, $2, $3, $4, $5, $6)")
                    .bind(act.name())
                    .bind(&ids)
                    .bind(acted.action_id)
                    .bind(signed.actor)
                    .bind(selection.describe())
                    .bind(signed.reason);
            let (action_id, changed): (Option<i64>, i64) = self
                .call(async |connection| change.fetch_one(connection).await)
                .await?;
            acted.action_id = action_id;
            acted.dead_letters += changed;
            after = last;
            done(acted.dead_letters);
        }
    }

    /// The next dead letters that `act` can be done to, after that one, in order. Whether it still can be is looked at
    /// again when it is done.
    async fn page(
        &self,
        act: Act,
        selection: &Selection,
        after: i64,
    ) -> Result<Vec<i64>, StorageError> {
        let free = act.free();
        let mut page = QueryBuilder::new(format!("select d.id from dead_letters d where {free}"));
        selection.restrict(&mut page);
        page.push(" and d.id > ").push_bind(after);
        page.push(" order by d.id limit ").push_bind(PAGE);
        self.call(async |connection| page.build_query_scalar().fetch_all(connection).await)
            .await
    }
}
