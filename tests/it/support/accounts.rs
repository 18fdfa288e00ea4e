//! Many companies, many events with a third of them published twice, and the sums that must come out.

use std::{collections::HashMap, time::Duration};

use lapin::Confirmation;
use uuid::Uuid;

use super::{
    adds_up::assert_ledger_adds_up,
    broker::{ROUTING_KEY, event_properties},
    eventually::eventually,
    site::{Site, event},
};

/// What was published, and what the companies had.
pub(crate) struct Accounts {
    companies: Vec<Uuid>,
    opening: i64,
    jobs: HashMap<Uuid, (Uuid, i64)>,
    duplicates: i64,
}

impl Accounts {
    /// Opens companies, each with half of `opening` as monthly quota.
    pub(crate) async fn open(site: &Site, companies: usize, opening: i64) -> Self {
        let mut ids = Vec::new();
        for _ in 0..companies {
            ids.push(site.company(opening / 2, opening - opening / 2).await);
        }
        Self {
            companies: ids,
            opening,
            jobs: HashMap::new(),
            duplicates: 0,
        }
    }

    /// Publishes so many new events, each confirmed, and every third a second time.
    pub(crate) async fn publish(&mut self, site: &Site, count: usize) {
        let mut confirms = Vec::new();
        for n in 0..count {
            let (job, company) = (Uuid::new_v4(), self.companies[n % self.companies.len()]);
            let tokens = 1 + i64::try_from(n % 7).expect("small");
            self.jobs.insert(job, (company, tokens));
            let body = event(job, company, tokens).to_string();
            let copies = if n % 3 == 0 { 2 } else { 1 };
            self.duplicates += copies - 1;
            for _ in 0..copies {
                let sent = site
                    .broker
                    .channel()
                    .basic_publish(
                        site.broker.prefix().into(),
                        ROUTING_KEY.into(),
                        Default::default(),
                        body.as_bytes(),
                        event_properties(),
                    )
                    .await;
                confirms.push(sent.expect("sent"));
            }
        }
        for confirm in confirms {
            assert_eq!(confirm.await.expect("answered"), Confirmation::Ack(None));
        }
    }

    /// All that pay.
    pub(crate) fn companies(&self) -> &[Uuid] {
        &self.companies
    }

    /// Different jobs published so far.
    pub(crate) fn published(&self) -> i64 {
        i64::try_from(self.jobs.len()).expect("small")
    }

    /// Second copies published so far.
    pub(crate) fn duplicates(&self) -> i64 {
        self.duplicates
    }

    /// Charged so far.
    pub(crate) async fn completed(&self, site: &Site) -> i64 {
        site.number("select count(*) from token_deduction_records where status = 'completed'")
            .await
    }

    /// Waits until every published job is charged.
    pub(crate) async fn all_decided(&self, site: &Site, patience: Duration) {
        eventually(
            "every published job is charged",
            patience,
            async || self.completed(site).await,
            |&completed| completed == self.published(),
        )
        .await;
    }

    /// Every job is charged once and as published, and each balance is what it was less that.
    pub(crate) async fn add_up(&self, site: &Site) {
        let records: Vec<(String, Uuid, i64, String)> = sqlx::query_as(
            "select idempotency_key, company_id, amount, status from token_deduction_records",
        )
        .fetch_all(site.db.pool())
        .await
        .expect("read");
        assert_eq!(records.len(), self.jobs.len());
        for (key, company, amount, status) in records {
            let job: Uuid = key.parse().expect("a job");
            assert_eq!(self.jobs.get(&job), Some(&(company, amount)), "{job}");
            assert_eq!(status, "completed", "{job}");
        }
        for company in &self.companies {
            assert_ledger_adds_up(site.db.pool(), *company, self.opening).await;
        }
        let dead_letters = site.broker.take_all(&site.broker.dead_letters()).await;
        assert!(dead_letters.is_empty(), "dead-lettered: {dead_letters:#?}");
    }
}
