//! Companies that pay one token an event, and what each must have left.

use std::time::Duration;

use lapin::Confirmation;
use serde_json::Value;
use uuid::Uuid;

use super::{
    adds_up::assert_ledger_adds_up,
    broker::{ROUTING_KEY, event_properties},
    eventually::eventually,
    site::{Site, event},
};

const OPENING: i64 = 1_000_000;

/// Companies and how many events of each were published.
pub(crate) struct Crowd {
    pub(crate) companies: Vec<Uuid>,
    rounds: i64,
}

impl Crowd {
    pub(crate) async fn open(site: &Site, companies: usize) -> Self {
        let mut crowd = Self {
            companies: Vec::new(),
            rounds: 0,
        };
        for _ in 0..companies {
            crowd.companies.push(site.company(0, OPENING).await);
        }
        crowd
    }

    /// Publishes so many events of each company, taking turns; their jobs, in order.
    pub(crate) async fn publish(&mut self, site: &Site, rounds: i64) -> Vec<Uuid> {
        self.publish_as(site, rounds, event).await
    }

    /// The same of events that look like this: job, company, tokens.
    pub(crate) async fn publish_as(
        &mut self,
        site: &Site,
        rounds: i64,
        event: impl Fn(Uuid, Uuid, i64) -> Value,
    ) -> Vec<Uuid> {
        let (mut jobs, mut events) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            for company in &self.companies {
                let job = Uuid::new_v4();
                jobs.push(job);
                events.push(event(job, *company, 1));
            }
        }
        self.rounds += rounds;
        site.publish_all(&events).await;
        jobs
    }

    pub(crate) fn published(&self) -> i64 {
        self.rounds * i64::try_from(self.companies.len()).expect("small")
    }

    /// How many of their events are charged.
    pub(crate) async fn charged(&self, site: &Site) -> i64 {
        sqlx::query_scalar(
            "select count(*) from token_deduction_records where status = 'completed' and company_id = any ($1)",
        )
        .bind(&self.companies)
        .fetch_one(site.db.pool())
        .await
        .expect("counted")
    }

    /// Waits until all that was published is charged.
    pub(crate) async fn all_charged(&self, site: &Site, within: Duration) {
        let looks = async || self.charged(site).await;
        let all = |&charged: &i64| charged == self.published();
        eventually("every event is charged", within, looks, all).await;
    }

    /// Every event was charged once, to its company.
    pub(crate) async fn adds_up(&self, site: &Site) {
        assert_eq!(self.charged(site).await, self.published());
        for company in &self.companies {
            assert_eq!(site.balance(*company).await, (0, OPENING - self.rounds));
            assert_ledger_adds_up(site.db.pool(), *company, OPENING).await;
        }
    }
}

impl Site {
    /// Publishes these in order; returns when the broker has them all.
    pub(crate) async fn publish_all(&self, events: &[Value]) {
        let mut confirms = Vec::new();
        for event in events {
            let sent = self
                .broker
                .channel()
                .basic_publish(
                    self.broker.prefix().into(),
                    ROUTING_KEY.into(),
                    Default::default(),
                    event.to_string().as_bytes(),
                    event_properties(),
                )
                .await;
            confirms.push(sent.expect("sent"));
        }
        for confirm in confirms {
            assert_eq!(confirm.await.expect("answered"), Confirmation::Ack(None));
        }
    }
}
