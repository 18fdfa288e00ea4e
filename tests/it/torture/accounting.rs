//! Every job that was published, and everything that anybody was told, found again in the database.

use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::FromRow;
use uuid::Uuid;

use super::{
    recompute::canonical,
    world::{Request, World},
};

#[derive(Debug, FromRow)]
struct Record {
    idempotency_key: String,
    company_id: Uuid,
    amount: i64,
    status: String,
}

#[derive(Debug, FromRow)]
struct DeadLetter {
    id: i64,
    body: Vec<u8>,
    job_id: Option<Uuid>,
    reason: String,
    state: String,
    failed_again_as: Option<i64>,
}

/// One look at the records and the archive.
pub(super) struct Accounts {
    /// By the job, however its key is spelled.
    records: HashMap<String, Record>,
    dead_letters: HashMap<Vec<u8>, Vec<DeadLetter>>,
    /// Of these there is an open dead letter that says that they are pending.
    open_pending: HashSet<Uuid>,
    credits: HashSet<String>,
}

impl Accounts {
    pub(super) async fn look(world: &World) -> Self {
        let pool = world.site.db.pool();
        let records: Vec<Record> = sqlx::query_as(
            "select idempotency_key, company_id, amount, status from token_deduction_records",
        )
        .fetch_all(pool)
        .await
        .expect("records");
        let rows: Vec<DeadLetter> = sqlx::query_as(
            "select id, body, job_id, reason, state, failed_again_as from dead_letters",
        )
        .fetch_all(pool)
        .await
        .expect("dead letters");
        let open_pending = rows
            .iter()
            .filter(|dead_letter| {
                dead_letter.reason == "retries_exhausted" && dead_letter.state != "resolved"
            })
            .filter_map(|dead_letter| dead_letter.job_id)
            .collect();
        let mut dead_letters: HashMap<Vec<u8>, Vec<DeadLetter>> = HashMap::new();
        for dead_letter in rows {
            dead_letters
                .entry(dead_letter.body.clone())
                .or_default()
                .push(dead_letter);
        }
        let credits = sqlx::query_scalar("select idempotency_key from token_credits");
        Self {
            records: records
                .into_iter()
                .map(|record| (canonical(&record.idempotency_key), record))
                .collect(),
            dead_letters,
            open_pending,
            credits: credits
                .fetch_all(pool)
                .await
                .expect("credits")
                .into_iter()
                .collect(),
        }
    }

    /// What is not accounted for.
    pub(super) fn missing(&self, world: &World) -> Vec<String> {
        let told = world.told();
        let mut missing = Vec::new();
        for (body, request) in &told.published {
            if !self.has_charged(request) && !self.dead_letters.contains_key(body.as_bytes()) {
                missing.push(format!("published, neither charged nor archived: {body}"));
            }
        }
        for request in told.charged.iter().filter(|one| !self.has_charged(one)) {
            missing.push(format!("said to be charged: {request:?}"));
        }
        for job in &told.refunded {
            if !self.is(*job, &["compensated"]) {
                missing.push(format!("said to be refunded: {job}"));
            }
        }
        for key in told.credited.difference(&self.credits) {
            missing.push(format!("said to be credited: {key}"));
        }
        for record in self.records.values().filter(|r| r.status == "pending") {
            let job = canonical(&record.idempotency_key).parse();
            let job: Uuid = job.expect("a job's id");
            if !self.open_pending.contains(&job) && !told.marked.contains(&job) {
                missing.push(format!("pending without an open dead letter: {record:?}"));
            }
        }
        missing.extend(self.replays_without_outcome());
        missing
    }

    /// Jobs that are pending.
    pub(super) fn pending(&self) -> Vec<&str> {
        let pending = self.records.values().filter(|r| r.status == "pending");
        pending
            .map(|record| record.idempotency_key.as_str())
            .collect()
    }

    pub(super) fn count(&self, status: &str) -> usize {
        self.records.values().filter(|r| r.status == status).count()
    }

    /// How many dead letters there are of each reason.
    pub(super) fn reasons(&self) -> BTreeMap<&str, usize> {
        let mut reasons = BTreeMap::new();
        for dead_letter in self.dead_letters.values().flatten() {
            *reasons.entry(dead_letter.reason.as_str()).or_default() += 1;
        }
        reasons
    }

    /// A replay sends the message again: it ends as a charge or as another dead letter.
    fn replays_without_outcome(&self) -> impl Iterator<Item = String> {
        let dead_letters = self.dead_letters.values().flatten();
        dead_letters
            .filter(|dead_letter| {
                dead_letter.state == "replayed" && dead_letter.failed_again_as.is_none()
            })
            .filter(|dead_letter| {
                !dead_letter
                    .job_id
                    .is_some_and(|job| self.is(job, &["completed", "compensated"]))
            })
            .map(|dead_letter| {
                format!(
                    "replayed, and then? dead letter {} {}",
                    dead_letter.id, dead_letter.reason
                )
            })
    }

    fn has_charged(&self, request: &Request) -> bool {
        self.is(request.job, &["completed", "compensated"])
            && self
                .records
                .get(&canonical(&request.job.to_string()))
                .is_some_and(|record| {
                    record.amount == request.amount
                        && request
                            .company
                            .is_none_or(|company| company == record.company_id)
                })
    }

    fn is(&self, job: Uuid, statuses: &[&str]) -> bool {
        let record = self.records.get(&canonical(&job.to_string()));
        record.is_some_and(|record| statuses.contains(&record.status.as_str()))
    }
}
