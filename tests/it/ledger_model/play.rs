//! One sequence played on the database and on the model.

use std::collections::HashMap;

use serde_json::Value;
use sqlx::types::Json;
use uuid::Uuid;

use super::holds;
use super::model::{Company, Entry, Job, Model, THIS_YEAR};
use super::moves::{Move, Names, as_events};
use crate::support::ledger::{Answer, Item, Ledger, Record, UsageLog, deduct_item, mark_pending};

/// Monthly and purchased tokens of the companies that exist.
pub(super) const BALANCES: [(i64, i64); 3] = [(100, 150), (0, 90), (20, 0)];

#[derive(Debug, Clone, Copy)]
pub(super) enum By {
    Single,
    Batch,
    /// Single and batch in turn.
    Both,
    /// Batches of completion events.
    Events,
}

/// One sequence being played on the database and on the model.
pub(super) struct Play<'b> {
    ledger: &'b Ledger,
    names: Names,
    model: Model,
    /// The record ids that the answers named.
    ids: HashMap<String, Uuid>,
    /// Counts credits and periods.
    count: i32,
}

impl<'b> Play<'b> {
    pub(super) async fn start(ledger: &'b Ledger) -> Self {
        let names = Names::new();
        let mut model = Model::default();
        let period_end = THIS_YEAR + 1;
        for (&id, (monthly, purchased)) in names.companies.iter().zip(BALANCES) {
            ledger.add_company(id, monthly, purchased).await;
            let company = Company {
                monthly,
                purchased,
                period_end,
            };
            model.companies.insert(id, company);
        }
        set_period_end(ledger, &names.companies, period_end).await;
        // Every second key has a job, of any company.
        for (number, key) in names.keys.iter().enumerate().step_by(2) {
            let Ok(id) = key.parse::<Uuid>() else {
                continue;
            };
            let company_id = names.companies[number % names.companies.len()];
            sqlx::query(
                "insert into article_jobs (id, company_id, status) values ($1, $2, 'running')",
            )
            .bind(id)
            .bind(company_id)
            .execute(ledger.pool())
            .await
            .expect("a job");
            let status = "running";
            model.jobs.insert(key.clone(), Job { company_id, status });
        }
        Self {
            ledger,
            names,
            model,
            ids: HashMap::new(),
            count: 0,
        }
    }

    pub(super) async fn make(&mut self, what: &Move, by: By) {
        match what {
            Move::Charges { items, as_batch } => match (by, as_batch) {
                (By::Events, _) => {
                    let items = items.iter().map(|charge| self.names.item(charge));
                    let events = as_events(items);
                    let outcomes = self.ledger.charge_events(&events).await;
                    for (event, outcome) in events.iter().zip(outcomes) {
                        assert_eq!(outcome, self.model.charge_event(event), "for {event:?}");
                    }
                }
                (By::Batch, _) | (By::Both, true) => {
                    let items: Vec<Item> =
                        items.iter().map(|charge| self.names.item(charge)).collect();
                    let answers = self.ledger.deduct_batch(&items).await;
                    for (item, answer) in items.iter().zip(answers) {
                        self.compare(item, answer);
                    }
                }
                (By::Single, _) | (By::Both, false) => {
                    for charge in items {
                        let item = self.names.item(charge);
                        let mut spelled = item.clone();
                        if charge.in_upper_case && item.job_id.is_some() {
                            spelled.key = item.key.as_ref().map(|key| key.to_uppercase());
                        }
                        let answer = deduct_item(self.ledger.pool(), &spelled)
                            .await
                            .expect("an answer");
                        self.compare(&item, answer);
                    }
                }
            },
            Move::Mark(charge) => {
                let item = self.names.item(charge);
                mark_pending(self.ledger.pool(), std::slice::from_ref(&item), "busy")
                    .await
                    .expect("marked");
                self.model.mark_pending(&item);
            }
            Move::TopUp { company, amount } => {
                let company = self.names.companies[*company];
                let credited = self.credit(company, Some(*amount), None).await;
                assert_eq!(credited, self.model.top_up(company, *amount));
            }
            Move::Renew { company, quota } => {
                let company = self.names.companies[*company];
                let credited = self.credit(company, None, Some(*quota)).await;
                let period_end = THIS_YEAR + 1 + self.count;
                assert_eq!(credited, self.model.renew(company, *quota, period_end));
            }
            Move::Expire { company } => {
                let company = self.names.companies[*company];
                set_period_end(self.ledger, &[company], THIS_YEAR - 1).await;
                if let Some(company) = self.model.companies.get_mut(&company) {
                    company.period_end = THIS_YEAR - 1;
                }
            }
            Move::Hold { .. } | Move::Release { .. } | Move::ExpireHold { .. } => {
                holds::make(self.ledger, &self.names, &mut self.model, what).await;
            }
            Move::Refund { key, as_purchased } => {
                let key = &self.names.keys[*key];
                let answer = refund(self.ledger, key, *as_purchased).await;
                let expected = self.model.refund(key, *as_purchased);
                assert_eq!(answer, expected.map_err(str::to_owned), "of {key}");
            }
        }
    }

    /// Whether it was credited.
    async fn credit(
        &mut self,
        company: Uuid,
        purchased: Option<i64>,
        monthly: Option<i64>,
    ) -> bool {
        self.count += 1;
        let period_end = monthly.map(|_| noon_in_june(THIS_YEAR + 1 + self.count));
        sqlx::query_scalar(
            "select (credit_tokens($1, $2, $3, $4, $5::timestamptz, 'model') ->> 'success')::boolean",
        )
        .bind(Uuid::new_v4().to_string())
        .bind(company)
        .bind(purchased)
        .bind(monthly)
        .bind(period_end)
        .fetch_one(self.ledger.pool())
        .await
        .expect("an answer")
    }

    /// Holds an answer to the model's, and what the model can't know to itself.
    fn compare(&mut self, item: &Item, mut answer: Answer) {
        let expected = self.model.charge(item);
        let id = answer.deduction_record_id.take();
        let message = answer.error_message.take();
        assert_eq!(answer, expected, "for {item:?}");

        assert_eq!(id.is_some(), answer.status.is_some(), "{answer:?}");
        if let (Some(id), Some(key)) = (id, &item.key) {
            let known = *self.ids.entry(key.clone()).or_insert(id);
            if self.model.records[key].status != "pending" {
                assert_eq!(id, known, "one record for {key}");
            }
        }
        assert_eq!(message.is_some(), !answer.success, "{answer:?}");
        if let (Some(required), Some(available)) = (answer.required, answer.available) {
            let figures = match answer.balance_before {
                Some(balance) if balance != available => {
                    format!("needs {required} and the company has {balance}, of which ")
                }
                _ => format!("needs {required} and the company has {available}."),
            };
            let message = message.unwrap_or_default();
            assert!(message.contains(&figures), "{message} tells {figures}");
        }
    }

    /// Holds every row to the model's.
    pub(super) async fn finish(self) {
        holds::compare(self.ledger, &self.names.keys, &self.model).await;
        for (&id, company) in &self.model.companies {
            let balances = self.ledger.balances(id).await;
            assert_eq!(
                balances,
                (company.monthly, company.purchased),
                "balances of {id}"
            );
        }
        for (key, job) in &self.model.jobs {
            let (status, message) = self.ledger.job_status(key.parse().expect("a job")).await;
            assert_eq!(status, job.status, "job {key}");
            let needs_message = matches!(job.status, "failed" | "pending_token_deduction");
            assert_eq!(message.is_some(), needs_message, "job {key}: {message:?}");
        }
        let rows: Vec<Json<Record>> = sqlx::query_scalar(
            "select to_jsonb(r) from token_deduction_records r
             where idempotency_key = any($1) order by ledger_seq",
        )
        .bind(&self.names.keys)
        .fetch_all(self.ledger.pool())
        .await
        .expect("records");
        let charged: Vec<&str> = rows
            .iter()
            .filter(|row| row.ledger_seq.is_some())
            .map(|row| row.idempotency_key.as_str())
            .collect();
        for &company in &self.names.companies {
            let of_company = |keys: &[&str]| -> Vec<String> {
                let of_it = |key: &&str| self.model.records[*key].company_id == company;
                keys.iter()
                    .copied()
                    .filter(of_it)
                    .map(str::to_owned)
                    .collect()
            };
            let expected: Vec<&str> = self.model.charged.iter().map(String::as_str).collect();
            assert_eq!(
                of_company(&charged),
                of_company(&expected),
                "the order of the ledger of {company}"
            );
        }
        assert_eq!(rows.len(), self.model.records.len());

        let mut logs = Vec::new();
        for &company in &self.names.companies {
            logs.extend(self.ledger.usage_logs(company).await);
        }
        let refunded = &self.model.refunded;
        assert_eq!(
            logs.len(),
            charged.len() + refunded.len(),
            "one usage log for each charge and each refund"
        );
        for Json(row) in &rows {
            assert_eq!(&entry(row), &self.model.records[&row.idempotency_key]);
            assert_logged(row, &logs);
        }
    }
}

/// One log like the charge, and another that takes it back if it was refunded.
fn assert_logged(row: &Record, logs: &[UsageLog]) {
    let of_it: Vec<&UsageLog> = logs
        .iter()
        .filter(|log| log.deduction_record_id == row.id)
        .collect();
    if row.status == "compensated" {
        let sum: i64 = of_it.iter().map(|log| log.token_amount).sum();
        assert_eq!(
            (sum, of_it.len()),
            (0, 2),
            "logs of {}",
            row.idempotency_key
        );
    }
    assert_eq!(!of_it.is_empty(), row.ledger_seq.is_some());
    if let Some(log) = of_it.first() {
        assert_eq!(Some(log.id), row.ledger_seq);
        assert_eq!(
            (log.company_id, log.token_amount),
            (row.company_id, row.amount)
        );
        assert_eq!(
            (log.article_id, &log.usage_type),
            (row.article_id, &row.usage_type)
        );
        assert_eq!(log.metadata, row.metadata);
    }
}

/// As [`Model::refund`].
pub(super) async fn refund(
    ledger: &Ledger,
    key: &str,
    as_purchased: bool,
) -> Result<(i64, i64, i64), String> {
    let setting = if as_purchased { "purchased" } else { "forfeit" };
    let answer: Value = sqlx::query_scalar("select refund_tokens($1, $2, 'model', 'why')")
        .bind(key)
        .bind(setting)
        .fetch_one(ledger.pool())
        .await
        .expect("a refund never raises");
    let figure = |key: &str| answer[key].as_i64().expect("a number");
    match answer["error"].as_str() {
        Some(error) => Err(error.to_owned()),
        None if answer["idempotent"] == true => Err(String::new()),
        None => Ok((
            figure("monthly_amount"),
            figure("purchased_amount"),
            figure("forfeited_amount"),
        )),
    }
}

fn noon_in_june(year: i32) -> String {
    format!("{year}-06-15T12:00:00Z")
}

async fn set_period_end(ledger: &Ledger, companies: &[Uuid], year: i32) {
    sqlx::query(
        "update company_subscriptions set current_period_end = $2::timestamptz where company_id = any($1)",
    )
    .bind(companies)
    .bind(noon_in_june(year))
    .execute(ledger.pool())
    .await
    .expect("a period");
}

/// A row as the model would write it.
fn entry(row: &Record) -> Entry {
    let known = |text: &str| {
        [
            "completed",
            "failed",
            "pending",
            "compensated",
            "company_not_found",
            "insufficient_balance",
            "retries_exhausted",
        ]
        .into_iter()
        .find(|known| *known == text)
        .unwrap_or_else(|| panic!("unknown: {text}"))
    };
    Entry {
        company_id: row.company_id,
        article_id: row.article_id,
        amount: row.amount,
        status: known(&row.status),
        error_code: row.error_code.as_deref().map(known),
        monthly_deducted: row.monthly_deducted,
        purchased_deducted: row.purchased_deducted,
        balances: row.balance_before.zip(row.balance_after),
        period_end: row
            .monthly_period_end
            .as_ref()
            .map(|end| end[..4].parse().expect("a year")),
        retry_count: row.retry_count,
        usage_type: row.usage_type.clone(),
        metadata: row.metadata.clone(),
    }
}
