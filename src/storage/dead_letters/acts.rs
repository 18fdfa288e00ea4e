//! Writing dead letters off, and taking that back. Neither touches the ledger.

use serde::Serialize;
use uuid::Uuid;

use super::{LetterState, Selection};
use crate::storage::{Storage, StorageError};

/// Letters changed in one transaction: others wait for the archive's lock meanwhile.
const PAGE: i64 = 1000;
/// Companies that a plan names; of the others only the number.
const COMPANIES_NAMED: i64 = 10;

/// Who acts, and why.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    /// Who.
    pub actor: &'a str,
    /// Why.
    pub reason: Option<&'a str>,
}

/// What is done to letters as they are, without sending anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

    /// The state of the letters it can be done to.
    pub fn from(self) -> LetterState {
        match self {
            Self::Discard => LetterState::Open,
            Self::Restore => LetterState::Discarded,
        }
    }
}

/// What an act would do now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ActPlan {
    /// The figures.
    #[serde(flatten)]
    pub sums: ActSums,
    /// The companies with the most tokens.
    pub largest: Vec<CompanyShare>,
}

/// The figures of an [`ActPlan`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct ActSums {
    /// Letters that would change.
    pub letters: i64,
    /// The tokens they ask for, where they can be read.
    pub tokens: i64,
    /// Letters whose tokens can't be read.
    pub without_tokens: i64,
    /// Different companies, where they can be read.
    pub companies: i64,
    /// Letters whose job was charged.
    pub charged: i64,
    /// Letters whose job is pending: the sweeper charges it or writes it off.
    pub pending: i64,
    /// Letters whose job was charged and refunded.
    pub compensated: i64,
    /// Selected, but claimed by a replay: left out.
    pub being_replayed: i64,
    /// Selected, but in another state: left out.
    pub in_other_state: i64,
    /// The newest letter selected: what arrives later stays out.
    #[serde(skip)]
    pub up_to: Option<i64>,
}

/// One company's part of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct CompanyShare {
    /// Which; `None`: it can't be read.
    pub company_id: Option<Uuid>,
    /// Letters.
    pub letters: i64,
    /// Tokens they ask for, where they can be read.
    pub tokens: i64,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Acted {
    /// The row of `operator_actions`; `None`: nothing was there to do.
    pub action_id: Option<i64>,
    /// Letters changed.
    pub letters: i64,
}

/// A letter that an act on state $11 can have; the other ones are left out.
macro_rules! free_to_act_on {
    () => {
        "(d.state = $11 and (d.claimed_until is null or d.claimed_until <= clock_timestamp()))"
    };
}

impl Storage {
    /// What `act` would do to this selection now.
    pub async fn plan_act(&self, act: Act, selection: &Selection) -> Result<ActPlan, StorageError> {
        let sums = sqlx::query_as(concat!(
            "select count(*) filter (where e.free) as letters,
                    least(coalesce(sum(greatest(d.tokens, 0)) filter (where e.free), 0), 9223372036854775807)::bigint
                        as tokens,
                    count(*) filter (where e.free and d.tokens is null) as without_tokens,
                    count(distinct d.company_id) filter (where e.free) as companies,
                    count(*) filter (where e.free and d.charge_state = 'charged') as charged,
                    count(*) filter (where e.free and d.charge_state = 'pending') as pending,
                    count(*) filter (where e.free and d.charge_state = 'compensated') as compensated,
                    count(*) filter (where not e.free and d.state = $11) as being_replayed,
                    count(*) filter (where d.state <> $11) as in_other_state,
                    max(d.id) as up_to
             from dead_letters_with_charges d
             cross join lateral (select ", free_to_act_on!(), " as free) e
             where ",
            selected!()
        ));
        let sums = selection.bind(sums).bind(act.from().as_str());
        let largest = sqlx::query_as(concat!(
            "select d.company_id, count(*) as letters,
                    least(coalesce(sum(greatest(d.tokens, 0)), 0), 9223372036854775807)::bigint as tokens
             from dead_letters d
             where ",
            selected!(),
            " and ",
            free_to_act_on!(),
            " group by d.company_id order by 3 desc, 2 desc, 1 limit $12"
        ));
        let largest = selection
            .bind(largest)
            .bind(act.from().as_str())
            .bind(COMPANIES_NAMED);
        self.call(async |connection| {
            Ok(ActPlan {
                sums: sums.fetch_one(&mut *connection).await?,
                largest: largest.fetch_all(connection).await?,
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
            acted.letters += changed;
            after = last;
            done(acted.letters);
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
        let page = sqlx::query_as::<_, (i64,)>(concat!(
            "select d.id from dead_letters d where ",
            selected!(),
            " and ",
            free_to_act_on!(),
            " and d.id > $12 order by d.id limit $13"
        ));
        let page = selection.bind(page).bind(act.from().as_str());
        let page = page.bind(after).bind(PAGE);
        let rows = self
            .call(async |connection| page.fetch_all(connection).await)
            .await?;
        Ok(rows.into_iter().map(|(id,)| id).collect())
    }
}
