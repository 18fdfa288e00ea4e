//! The archive of dead letters. Whoever changes it takes its lock first (`lock_dead_letters`), in a
//! statement of its own, and commits soon.

mod acts;
mod archive;
mod claims;
mod dry_run;
mod edit;
mod groups;
mod history;
mod runs;
mod selection;
mod show;
mod stats;
mod watch;

use serde::Serialize;
use sqlx::{Postgres, QueryBuilder};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::storage::bounded::Bounded;

pub use acts::{Act, ActPlan, ActSums, Acted, CompanyShare, Signed};
pub use archive::Arrival;
pub use claims::{Claim, Claimed, Rest};
pub use dry_run::{Candidate, DeadLetterBody, DryRun};
pub use edit::{ChargedJob, Edit, EditError};
pub use groups::DeadLetterGroup;
pub use history::{ActionFilter, PastAction};
pub use runs::{Failures, Outcomes};
pub use selection::Selection;
pub use show::{Body, DeductionRecord, FullDeadLetter};
pub use stats::OpenByReason;

/// Where a dead letter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum DeadLetterState {
    /// Nobody has dealt with it.
    Open,
    /// Sent again; what came of it isn't known, or is another dead letter.
    Replayed,
    /// Its job was charged.
    Resolved,
    /// Written off by a person.
    Discarded,
}

impl DeadLetterState {
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

/// What the ledger says of a dead letter's job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum ChargeState {
    /// No tokens were taken.
    NeverCharged,
    /// Tokens were taken, by this event or by another of the same job.
    Charged,
    /// To be charged yet: the sweeper does.
    Pending,
    /// Taken and given back.
    Compensated,
}

/// One dead letter, without its body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct DeadLetter {
    /// Short enough to type.
    pub id: i64,
    /// Where it stands.
    pub state: DeadLetterState,
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
    /// What the ledger says of its job.
    pub charge_state: ChargeState,
    /// Tokens the job was charged, and perhaps given back.
    pub charged_tokens: Option<i64>,
    /// The company that paid.
    pub charged_company_id: Option<Uuid>,
    #[serde(with = "time::serde::rfc3339::option")]
    #[sqlx(try_from = "Bounded<Option<OffsetDateTime>>")]
    pub charged_at: Option<OffsetDateTime>,
    /// When it was last sent again.
    #[serde(with = "time::serde::rfc3339::option")]
    #[sqlx(try_from = "Bounded<Option<OffsetDateTime>>")]
    pub replayed_at: Option<OffsetDateTime>,
    /// The dead letter as which its replay came back.
    pub failed_again_as: Option<i64>,
    /// Its place among all arrivals; grows when it arrives again.
    pub last_arrival: i64,
}

/// The columns of a [`DeadLetter`], of the view.
const COLUMNS: &str = "d.id, d.state, d.reason, d.error, d.group_id, d.job_id, d.company_id, d.article_id, d.tokens,
    d.attempts, d.occurrences, d.first_failed_at, d.last_failed_at, octet_length(d.body) as body_bytes,
    d.edited_body is not null as edited, d.charge_state, d.charged_tokens, d.charged_company_id,
    d.charged_at, d.replayed_at, d.failed_again_as, d.last_arrival";

impl DeadLetter {
    /// All of them, to be restricted: it ends in its `where`.
    fn query() -> QueryBuilder<Postgres> {
        QueryBuilder::new(format!(
            "select {COLUMNS} from dead_letters_with_charges d where true"
        ))
    }
}
