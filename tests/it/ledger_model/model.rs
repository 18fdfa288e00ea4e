//! The ledger as a person would keep them: one charge after the other, no SQL, no cleverness.

use std::collections::HashMap;

use serde_json::Value;
use uuid::Uuid;

use super::holds::Holds;
use crate::support::ledger::{Answer, Item};

/// A period that ends before this year has ended.
pub(super) const THIS_YEAR: i32 = 2026;

#[derive(Debug, Clone)]
pub(super) struct Company {
    pub(super) monthly: i64,
    pub(super) purchased: i64,
    /// The year in which the current period ends.
    pub(super) period_end: i32,
}

impl Company {
    fn spendable_monthly(&self) -> i64 {
        if self.period_end < THIS_YEAR {
            0
        } else {
            self.monthly
        }
    }

    /// Monthly and purchased tokens; what a bigint can't hold isn't counted.
    pub(super) fn spendable(&self) -> i64 {
        self.spendable_monthly().saturating_add(self.purchased)
    }

    fn has_room(tokens: i128) -> bool {
        tokens <= i128::from(i64::MAX)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) company_id: Uuid,
    pub(super) article_id: Option<Uuid>,
    pub(super) amount: i64,
    pub(super) status: &'static str,
    pub(super) error_code: Option<&'static str>,
    pub(super) monthly_deducted: i64,
    pub(super) purchased_deducted: i64,
    pub(super) balances: Option<(i64, i64)>,
    /// The year of the period whose quota was spent.
    pub(super) period_end: Option<i32>,
    pub(super) retry_count: i32,
    pub(super) usage_type: String,
    pub(super) metadata: Value,
}

#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) company_id: Uuid,
    pub(super) status: &'static str,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub(super) companies: HashMap<Uuid, Company>,
    pub(super) records: HashMap<String, Entry>,
    pub(super) jobs: HashMap<String, Job>,
    pub(super) holds: Holds,
    /// The keys in the order in which they were charged.
    pub(super) charged: Vec<String>,
    pub(super) refunded: Vec<String>,
}

impl Model {
    /// What the charge answers, without the record's id and the message for a person.
    pub(super) fn charge(&mut self, item: &Item) -> Answer {
        let (Some(key), Some(company_id), Some(amount)) =
            (item.key.clone(), item.company_id, item.amount)
        else {
            return refused(item.amount, "invalid_request", None);
        };
        if amount < 1 {
            return refused(Some(amount), "invalid_request", None);
        }
        let existing = self.records.get(&key);
        if let Some(entry) = existing {
            let same_company = entry.company_id == company_id;
            let correctable = entry.error_code == Some("company_not_found");
            match entry.status {
                "completed" if same_company && entry.amount == amount => {
                    return charged(entry, true);
                }
                "completed" => return refused(Some(amount), "idempotency_key_reused", Some(entry)),
                "compensated" => return refused(Some(amount), "already_compensated", Some(entry)),
                _ if !same_company && !correctable => {
                    return refused(Some(amount), "idempotency_key_reused", Some(entry));
                }
                _ => {}
            }
        }

        let entry = Entry {
            company_id,
            article_id: item
                .article_id
                .or(existing.and_then(|entry| entry.article_id)),
            amount,
            status: "failed",
            error_code: None,
            monthly_deducted: 0,
            purchased_deducted: 0,
            balances: None,
            period_end: None,
            retry_count: existing.map_or(0, |entry| entry.retry_count + 1),
            usage_type: item
                .usage_type
                .clone()
                .unwrap_or_else(|| "article_generation".to_owned()),
            metadata: item.metadata.clone().unwrap_or_default(),
        };
        self.attempt(key, entry)
    }

    /// What `charge_events` answers for an event, `charged` where it says nothing.
    pub(super) fn charge_event(&mut self, event: &Item) -> &'static str {
        let Some(company_id) = self.payer(event) else {
            return "job_not_found";
        };
        let job = event.key.as_deref().and_then(|key| self.jobs.get(key));
        if job.is_some_and(|job| job.company_id != company_id) {
            return "company_mismatch";
        }
        let answer = self.charge(&Item {
            company_id: Some(company_id),
            ..event.clone()
        });
        match (answer.idempotent, answer.error()) {
            (true, _) => "charged_before",
            (false, "") => "charged",
            (false, "insufficient_balance") => "insufficient_balance",
            (false, "company_not_found") => "company_not_found",
            (false, "idempotency_key_reused") => "idempotency_key_reused",
            (false, "already_compensated") => "already_compensated",
            (false, error) => panic!("{error}"),
        }
    }

    /// What an event leaves out is its job's.
    fn payer(&self, event: &Item) -> Option<Uuid> {
        let key = event.key.as_deref()?;
        let of_job = || self.jobs.get(key).map(|job| job.company_id);
        let of_record = || self.records.get(key).map(|record| record.company_id);
        event.company_id.or_else(of_job).or_else(of_record)
    }

    fn attempt(&mut self, key: String, mut entry: Entry) -> Answer {
        let amount = entry.amount;
        let answer = match self.companies.get_mut(&entry.company_id) {
            None => {
                entry.error_code = Some("company_not_found");
                refused(Some(amount), "company_not_found", Some(&entry))
            }
            Some(company) => {
                let monthly = company.spendable_monthly();
                let balance = monthly + company.purchased;
                let held = self.holds.for_others(entry.company_id, &key);
                let available = if held > 0 {
                    (balance - held).max(0)
                } else {
                    balance
                };
                if amount > available {
                    entry.error_code = Some("insufficient_balance");
                    Answer {
                        balance_before: Some(balance),
                        balance_after: Some(balance),
                        required: Some(amount),
                        available: Some(available),
                        ..refused(Some(amount), "insufficient_balance", Some(&entry))
                    }
                } else {
                    entry.status = "completed";
                    entry.monthly_deducted = amount.min(monthly);
                    entry.purchased_deducted = amount - entry.monthly_deducted;
                    entry.balances = Some((balance, balance - amount));
                    entry.period_end = (entry.monthly_deducted > 0).then_some(company.period_end);
                    company.monthly -= entry.monthly_deducted;
                    company.purchased -= entry.purchased_deducted;
                    self.charged.push(key.clone());
                    charged(&entry, false)
                }
            }
        };
        if self.companies.contains_key(&entry.company_id) {
            self.holds.close(&key, entry.company_id, answer.success);
        }
        self.tell_job(&key, entry.company_id, entry.status);
        self.records.insert(key, entry);
        answer
    }

    /// A pending record, unless the key is decided or another company's.
    pub(super) fn mark_pending(&mut self, item: &Item) {
        let (Some(key), Some(company_id), Some(amount)) =
            (item.key.clone(), item.company_id, item.amount)
        else {
            return;
        };
        let existing = self.records.get(&key);
        let pending = existing.is_none_or(|entry| {
            matches!(entry.status, "pending" | "failed") && entry.company_id == company_id
        });
        if pending {
            let entry = Entry {
                company_id,
                article_id: item
                    .article_id
                    .or(existing.and_then(|entry| entry.article_id)),
                amount,
                status: "pending",
                error_code: Some("retries_exhausted"),
                monthly_deducted: 0,
                purchased_deducted: 0,
                balances: None,
                period_end: None,
                retry_count: existing.map_or(0, |entry| entry.retry_count),
                usage_type: item
                    .usage_type
                    .clone()
                    .unwrap_or_else(|| "article_generation".to_owned()),
                metadata: item.metadata.clone().unwrap_or_default(),
            };
            self.tell_job(&key, company_id, "pending_token_deduction");
            self.records.insert(key, entry);
        }
    }

    fn tell_job(&mut self, key: &str, company_id: Uuid, status: &'static str) {
        if let Some(job) = self.jobs.get_mut(key)
            && job.company_id == company_id
        {
            job.status = status;
        }
    }

    /// Whether it was credited.
    pub(super) fn top_up(&mut self, company_id: Uuid, amount: i64) -> bool {
        let Some(company) = self.companies.get_mut(&company_id) else {
            return false;
        };
        let held = i128::from(company.monthly) + i128::from(company.purchased);
        let fits = Company::has_room(held + i128::from(amount));
        if fits {
            company.purchased += amount;
        }
        fits
    }

    /// Whether it was renewed.
    pub(super) fn renew(&mut self, company_id: Uuid, quota: i64, period_end: i32) -> bool {
        let Some(company) = self.companies.get_mut(&company_id) else {
            return false;
        };
        let fits = Company::has_room(i128::from(company.purchased) + i128::from(quota));
        if fits {
            company.monthly = quota;
            company.period_end = period_end;
        }
        fits
    }

    /// Monthly, purchased and forfeited tokens of the refund made now; else the error, empty where it was
    /// made before.
    pub(super) fn refund(
        &mut self,
        key: &str,
        as_purchased: bool,
    ) -> Result<(i64, i64, i64), &'static str> {
        let entry = self.records.get_mut(key).ok_or("not_found")?;
        match entry.status {
            "completed" => {}
            "compensated" => return Err(""),
            _ => return Err("not_charged"),
        }
        let company = self.companies.get_mut(&entry.company_id);
        let company = company.ok_or("company_not_found")?;
        let current =
            entry.period_end == Some(company.period_end) && company.period_end >= THIS_YEAR;
        let (monthly, purchased, forfeited) = match (current, as_purchased) {
            (true, _) => (entry.monthly_deducted, entry.purchased_deducted, 0),
            (false, true) => (0, entry.amount, 0),
            (false, false) => (0, entry.purchased_deducted, entry.monthly_deducted),
        };
        let held = i128::from(company.monthly) + i128::from(company.purchased);
        if !Company::has_room(held + i128::from(monthly) + i128::from(purchased)) {
            return Err("balance_too_large");
        }
        entry.status = "compensated";
        company.monthly += monthly;
        company.purchased += purchased;
        self.refunded.push(key.to_owned());
        Ok((monthly, purchased, forfeited))
    }
}

fn refused(amount: Option<i64>, error: &str, entry: Option<&Entry>) -> Answer {
    Answer {
        success: false,
        idempotent: false,
        status: entry.map(|entry| entry.status.to_owned()),
        error: Some(error.to_owned()),
        error_message: None,
        deduction_record_id: None,
        amount,
        monthly_deducted: 0,
        purchased_deducted: 0,
        balance_before: None,
        balance_after: None,
        retry_count: entry.map(|entry| entry.retry_count),
        required: None,
        available: None,
        job_status_error: None,
    }
}

fn charged(entry: &Entry, idempotent: bool) -> Answer {
    Answer {
        success: true,
        idempotent,
        error: None,
        monthly_deducted: entry.monthly_deducted,
        purchased_deducted: entry.purchased_deducted,
        balance_before: entry.balances.map(|(before, _)| before),
        balance_after: entry.balances.map(|(_, after)| after),
        ..refused(Some(entry.amount), "", Some(entry))
    }
}
