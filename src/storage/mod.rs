//! The ledger in `PostgreSQL`. The only module that names sqlx.
//!
//! Every change of a balance happens inside one call of an SQL function, which is one transaction: if
//! this process dies before the commit nothing happened, and after it everything did. All calls are
//! idempotent by their key, so whatever a lost connection leaves unknown is simply asked again.

mod api_keys;
mod auditing;
mod bounded;
mod charging;
mod dead_letters;
mod error;
mod examination;
mod holds;
mod installation;
mod isolate;
mod ledger;
mod migrating;
mod pool;
mod scratch;
mod session;
mod status;
mod sweeping;
mod timeline;

pub(crate) use api_keys::{ApiKey, LiveApiKey};
pub(crate) use auditing::{CHECKS, GivenAway, LedgerLine, LedgerSize, Violation};
pub use charging::Answers;
pub use dead_letters::{
    Act, ActPlan, ActSums, Acted, ActionFilter, Arrival, Body, Candidate, ChargeState, ChargedJob,
    Claim, Claimed, CompanyShare, DeadLetter, DeadLetterBody, DeadLetterGroup, DeadLetterState,
    DeductionRecord, DryRun, Edit, EditError, Failures, FullDeadLetter, OpenByReason, Outcomes,
    PastAction, Rest, Selection, Signed,
};
pub use error::{Fault, StorageError, Trouble};
pub use holds::{ExpiredHold, Hold, HoldAnswer};
pub use installation::{
    Durability, Excess, FUNCTIONS, Finding, Function, Grant, Inspection, Look, Object, OtherRole,
    Preflight, Purpose, RELATIONS, Revoked, Server, Severity, StrangeFunction, StrangeMigration,
    grants, grants_sql, print_grants,
};
pub use isolate::{Isolated, enough_busy, isolate};
pub(crate) use ledger::{Balance, CreditGrant, CreditRecord, LedgerRefusal, RefundRecord};
pub use migrating::{MIGRATIONS, Migrated, migrate, planned};
pub use pool::{Storage, Waited};
pub use scratch::{LockedCompanies, Scratch, ScratchSession};
pub use status::{InstallationStatus, STATUS};
pub use sweeping::{
    ArticleQuery, PendingDeduction, StaleDeduction, StaleLook, SweptCharge, WrittenOff,
};
pub(crate) use timeline::{JobDeadLetter, JobLife, Moment};
