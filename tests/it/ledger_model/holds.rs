//! Tokens held for jobs: the model, and the same asked of the database.

use std::collections::HashMap;

use serde_json::Value;
use uuid::Uuid;

use super::{
    model::Model,
    moves::{Move, Names},
};
use crate::support::ledger::Ledger;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hold {
    company_id: Uuid,
    amount: i64,
    status: &'static str,
    reason: Option<&'static str>,
    is_expired: bool,
}

impl Hold {
    fn counts(&self) -> bool {
        self.status == "open" && !self.is_expired
    }
}

/// By key.
#[derive(Debug, Clone, Default)]
pub(super) struct Holds(HashMap<String, Hold>);

impl Holds {
    /// Held of the company for other jobs than this one.
    pub(super) fn for_others(&self, company_id: Uuid, key: &str) -> i64 {
        let others = self
            .0
            .iter()
            .filter(|(of, hold)| *of != key && hold.company_id == company_id && hold.counts());
        others.map(|(_, hold)| hold.amount).sum()
    }

    /// Something new was decided about the charge of this job.
    pub(super) fn close(&mut self, key: &str, company_id: Uuid, is_charged: bool) {
        let of_company = |hold: &&mut Hold| hold.status == "open" && hold.company_id == company_id;
        let Some(hold) = self.0.get_mut(key).filter(of_company) else {
            return;
        };
        let reason = match is_charged {
            false => Some("insufficient_balance"),
            true => hold.is_expired.then_some("expired"),
        };
        hold.status = if reason.is_some() {
            "released"
        } else {
            "charged"
        };
        hold.reason = reason;
    }

    fn hold(
        &mut self,
        key: &str,
        company_id: Uuid,
        amount: i64,
        balance: i64,
    ) -> Result<bool, &'static str> {
        if let Some(hold) = self.0.get(key).filter(|hold| hold.counts()) {
            return match (hold.company_id, hold.amount) == (company_id, amount) {
                true => Ok(true),
                false => Err("hold_differs"),
            };
        }
        if balance - self.for_others(company_id, key) < amount {
            return Err("insufficient_balance");
        }
        let hold = Hold {
            company_id,
            amount,
            status: "open",
            reason: None,
            is_expired: false,
        };
        self.0.insert(key.to_owned(), hold);
        Ok(false)
    }
}

impl Model {
    /// Whether it was held before; else the error.
    fn hold(&mut self, key: &str, company_id: Uuid, amount: i64) -> Result<bool, &'static str> {
        let company = self.companies.get(&company_id).ok_or("company_not_found")?;
        let balance = company.spendable();
        match self.records.get(key).map(|entry| entry.status) {
            Some("completed") => Err("already_charged"),
            Some("compensated") => Err("already_compensated"),
            _ => self.holds.hold(key, company_id, amount, balance),
        }
    }
}

/// What `hold_tokens` answers, as [`Model::hold`] does.
pub(super) async fn ask(
    ledger: &Ledger,
    job: Uuid,
    company: Uuid,
    amount: i64,
) -> Result<bool, String> {
    let answer: Value = sqlx::query_scalar("select hold_tokens($1, $2, $3, '1 hour')")
        .bind(job)
        .bind(company)
        .bind(amount)
        .fetch_one(ledger.pool())
        .await
        .expect("a hold never raises");
    match answer["error"].as_str() {
        Some(error) => Err(error.to_owned()),
        None => Ok(answer["idempotent"] == true),
    }
}

/// Makes a move about a hold on both.
pub(super) async fn make(ledger: &Ledger, names: &Names, model: &mut Model, what: &Move) {
    match what {
        Move::Hold {
            key,
            company,
            amount,
        } => {
            let (key, company) = (&names.keys[*key], names.companies[*company]);
            hold(ledger, model, key, company, *amount).await;
        }
        Move::Release { key } => release_both(ledger, model, &names.keys[*key]).await,
        Move::ExpireHold { key } => expire(ledger, model, &names.keys[*key]).await,
        other => unreachable!("{other:?} is about no hold"),
    }
}

async fn hold(ledger: &Ledger, model: &mut Model, key: &str, company: Uuid, amount: i64) {
    let Ok(job) = key.parse() else { return };
    let answer = ask(ledger, job, company, amount).await;
    let expected = model.hold(key, company, amount).map_err(str::to_owned);
    assert_eq!(answer, expected, "hold of {amount} for {key}");
}

pub(super) async fn release(ledger: &Ledger, key: &str) -> bool {
    let Ok(job) = key.parse::<Uuid>() else {
        return false;
    };
    sqlx::query_scalar("select release_hold($1, null)")
        .bind(job)
        .fetch_one(ledger.pool())
        .await
        .expect("a release never raises")
}

async fn release_both(ledger: &Ledger, model: &mut Model, key: &str) {
    let answer = release(ledger, key).await;
    let open = model.holds.0.get_mut(key);
    let open = open.filter(|hold| hold.status == "open");
    assert_eq!(answer, open.is_some(), "release of {key}");
    if let Some(hold) = open {
        (hold.status, hold.reason) = ("released", Some("released"));
    }
}

async fn expire(ledger: &Ledger, model: &mut Model, key: &str) {
    let sql = "update token_holds set expires_at = clock_timestamp() - interval '1 s'
               where job_id::text = $1 and status = 'open'";
    sqlx::query(sql)
        .bind(key)
        .execute(ledger.pool())
        .await
        .expect("expired");
    if let Some(hold) = model.holds.0.get_mut(key)
        && hold.status == "open"
    {
        hold.is_expired = true;
    }
}

/// Every row equals the model's.
pub(super) async fn compare(ledger: &Ledger, keys: &[String], model: &Model) {
    let rows: Vec<(String, Uuid, i64, String, Option<String>)> = sqlx::query_as(
        "select job_id::text, company_id, amount, status, reason from token_holds
         where job_id::text = any($1)",
    )
    .bind(keys)
    .fetch_all(ledger.pool())
    .await
    .expect("holds");
    assert_eq!(rows.len(), model.holds.0.len());
    for (key, company_id, amount, status, reason) in rows {
        let hold = &model.holds.0[&key];
        assert_eq!(
            (company_id, amount, status.as_str(), reason.as_deref()),
            (hold.company_id, hold.amount, hold.status, hold.reason),
            "hold for {key}"
        );
    }
}

/// Whatever several did at once: what is closed as charged was charged, and what was charged is held no more.
pub(super) async fn assert_closed(ledger: &Ledger, keys: &[String]) {
    let wrong: Vec<String> = sqlx::query_scalar(
        "select h.job_id::text from token_holds h
         left join token_deduction_records r
             on r.idempotency_key = h.job_id::text and r.company_id = h.company_id
             and r.status in ('completed', 'compensated')
         where h.job_id::text = any($1)
           and (h.status = 'charged' and r.idempotency_key is null or h.status = 'open' and r.idempotency_key is not null)",
    )
    .bind(keys)
    .fetch_all(ledger.pool())
    .await
    .expect("holds");
    assert_eq!(wrong, Vec::<String>::new());
}
