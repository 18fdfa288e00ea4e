//! Settings of what is done in the ledger besides charging.

use std::time::Duration;

use serde::Deserialize;

use super::values::{self, DAY, SECOND};

/// How pending charges are swept: records `pending` for too long.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section")]
pub struct Sweeper {
    /// From one pass to the next. 1s..=1day, default 5m.
    #[serde(deserialize_with = "values::duration::<SECOND, DAY, _>")]
    pub interval: Duration,
    /// Pending longer than this, by the database's clock, is stale. 1s..=1day, default 1h.
    #[serde(deserialize_with = "values::duration::<SECOND, DAY, _>")]
    pub stale_after: Duration,
    /// Records processed in one transaction. 1..=4096, default 256.
    #[serde(deserialize_with = "values::whole::<1, 4096, _, _>")]
    pub batch_max: u16,
    /// How long a record is one sweeper's: if that one dies, or can't process it, the next pass of any
    /// sweeper after this tries again. 1s..=1day, default 2m.
    #[serde(deserialize_with = "values::duration::<SECOND, DAY, _>")]
    pub claim: Duration,
    /// An application's own SQL for "the article exists": one boolean for $1 the article's id, $2 the
    /// job's, $3 the company's, all UUIDs; the first two may be NULL. Default none: whether `articles` has it.
    pub article_exists_query: String,
}

impl Default for Sweeper {
    fn default() -> Self {
        Self {
            interval: Duration::from_mins(5),
            stale_after: Duration::from_hours(1),
            batch_max: 256,
            claim: Duration::from_mins(2),
            article_exists_query: String::new(),
        }
    }
}

/// What the audit takes for wrong.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section")]
pub struct Audit {
    /// Changes of balances that no movement of the ledger explains: an application's SQL. `listed` or
    /// `forbidden` (a violation), default `listed`.
    #[serde(deserialize_with = "values::external_writes")]
    pub external_writes: ExternalWrites,
}

/// What a change of a balance from outside means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ExternalWrites {
    /// The application may do that: they are listed.
    #[default]
    Listed,
    /// All changes have to come through the ledger.
    Forbidden,
}

/// What a refund gives back.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section")]
pub struct Refund {
    /// What becomes of monthly tokens whose period is over: `forfeit`, or `purchased` to give as many
    /// purchased ones. Default `forfeit`.
    #[serde(deserialize_with = "values::expired_monthly")]
    pub expired_monthly: ExpiredMonthly,
}

impl Default for Refund {
    fn default() -> Self {
        Self {
            expired_monthly: ExpiredMonthly::Forfeit,
        }
    }
}

/// How long tokens are held for a job that has begun.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section")]
pub struct Holds {
    /// After that a hold counts no more, by the database's clock, unless the caller wants another time. 1s..=365days and not
    /// above `max_expires_after`, default 24h.
    #[serde(deserialize_with = "values::duration::<SECOND, { 365 * DAY }, _>")]
    pub expires_after: Duration,
    /// The longest that a caller may ask for. 1s..=365days, default 7days.
    #[serde(deserialize_with = "values::duration::<SECOND, { 365 * DAY }, _>")]
    pub max_expires_after: Duration,
}

impl Default for Holds {
    fn default() -> Self {
        Self {
            expires_after: Duration::from_hours(24),
            max_expires_after: Duration::from_hours(7 * 24),
        }
    }
}

/// What a refund does with monthly tokens whose period is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpiredMonthly {
    /// They are gone, as they would be had nobody spent them.
    Forfeit,
    /// As many purchased tokens are given.
    Purchased,
}

impl ExpiredMonthly {
    /// As it is set and stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Forfeit => "forfeit",
            Self::Purchased => "purchased",
        }
    }
}
