//! The archive of dead letters. Whoever changes it takes its lock first (`lock_dead_letters`), in a
//! statement of its own, and commits soon.

#[macro_use]
mod columns;

mod acts;
mod archive;
mod claims;
mod edit;
mod groups;
mod history;
mod rehearsal;
mod runs;
mod selection;
mod show;
mod stats;
mod watch;

use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::storage::bounded::Bounded;

pub use acts::{Act, ActPlan, ActSums, Acted, CompanyShare, Signed};
pub use archive::Arrival;
pub use claims::{Claim, Claimable, Claimed, Rest};
pub use edit::{Draft, Edit, EditError, SettledJob};
pub use groups::LetterGroup;
pub use history::{ActionFilter, PastAction};
pub use rehearsal::{Candidate, LetterBody, Rehearsal};
pub use runs::{Failures, Outcomes};
pub use selection::{Selection, UnknownNames};
pub use show::{DeductionRecord, Details, FullLetter, LetterAction, Link};
pub use stats::{LetterArrivals, OpenByReason};
pub use watch::{Arrivals, News};

/// Where a letter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum LetterState {
    /// Nobody has dealt with it.
    Open,
    /// Sent again; what came of it isn't known, or is another letter.
    Replayed,
    /// Its job was charged.
    Resolved,
    /// Written off by a person.
    Discarded,
}

impl LetterState {
    /// As it is stored and typed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Replayed => "replayed",
            Self::Resolved => "resolved",
            Self::Discarded => "discarded",
        }
    }
}

/// What the books say of a letter's job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Money {
    /// No tokens were taken.
    NeverCharged,
    /// Tokens were taken, by this event or by another of the same job.
    Charged,
    /// Owed: the sweeper settles it.
    Pending,
    /// Taken and given back.
    Compensated,
}

/// One letter, without its body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Letter {
    /// Short enough to type.
    pub id: i64,
    /// Where it stands.
    pub state: LetterState,
    /// Why it is dead: the `reason` header, or what the broker did.
    pub reason: String,
    /// The same for a person.
    pub error: String,
    /// The group of its cause.
    pub group_id: String,
    /// The job, where it can be read.
    pub job_id: Option<Uuid>,
    /// The company, where it can be read or the job's row knows it.
    pub company_id: Option<Uuid>,
    /// The article, where it can be read.
    pub article_id: Option<Uuid>,
    /// The tokens asked for, where they can be read.
    pub tokens: Option<i64>,
    /// Tries, the first one included.
    pub attempts: i32,
    /// Arrivals of the same reason and body while open, at least.
    pub occurrences: i32,
    /// The first failure.
    #[serde(with = "time::serde::rfc3339")]
    #[sqlx(try_from = "Bounded<OffsetDateTime>")]
    pub first_failed_at: OffsetDateTime,
    /// The last one.
    #[serde(with = "time::serde::rfc3339")]
    #[sqlx(try_from = "Bounded<OffsetDateTime>")]
    pub last_failed_at: OffsetDateTime,
    /// Bytes of its body as it came.
    pub body_bytes: i32,
    /// A replay would send an edited body.
    pub edited: bool,
    /// What the books say of its job.
    #[sqlx(rename = "charge_state")]
    pub money: Money,
    /// Tokens the job was charged, and perhaps given back.
    pub charged_tokens: Option<i64>,
    /// The company that paid.
    pub charged_company_id: Option<Uuid>,
    /// When.
    #[serde(with = "time::serde::rfc3339::option")]
    #[sqlx(try_from = "Bounded<Option<OffsetDateTime>>")]
    pub charged_at: Option<OffsetDateTime>,
    /// When it was last sent again.
    #[serde(with = "time::serde::rfc3339::option")]
    #[sqlx(try_from = "Bounded<Option<OffsetDateTime>>")]
    pub replayed_at: Option<OffsetDateTime>,
    /// The letter as which its replay came back.
    pub failed_again_as: Option<i64>,
    /// Its place among all arrivals; grows when it arrives again.
    pub last_arrival: i64,
}
