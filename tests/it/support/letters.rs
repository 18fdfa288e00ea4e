//! Dead letters of a test: put into the archive, and looked up there.

use std::time::Duration;

use time::OffsetDateTime;
use token_billing::storage::{Arrival, Letter, LetterState, Selection};
use tokio::time::interval;
use uuid::Uuid;

use super::site::{Site, event};

/// A refusal for want of tokens, as the archivist would hand it over.
pub(crate) fn arrival(job: Uuid, company: Uuid, tokens: i64) -> Arrival {
    let now = OffsetDateTime::now_utc()
        .replace_nanosecond(0)
        .expect("valid");
    Arrival {
        reason: "insufficient_balance".to_owned(),
        error: format!("Not enough tokens: the article needs {tokens} and the company has 0."),
        error_signature: "Not enough tokens: the article needs # and the company has #.".to_owned(),
        body: event(job, company, tokens).to_string().into_bytes(),
        properties: r#"{"content_type": "application/json"}"#.to_owned(),
        headers: "{}".to_owned(),
        job_id: Some(job),
        company_id: Some(company),
        article_id: None,
        tokens: Some(tokens),
        attempts: 1,
        first_failed_at: now,
        last_failed_at: now,
        replay_of: None,
    }
}

impl Site {
    /// Archives letters; their ids.
    pub(crate) async fn archive(&self, arrivals: &[Arrival]) -> Vec<i64> {
        let storage = self.storage();
        let ids = storage.archive(arrivals).await.expect("archived");
        storage.close().await;
        ids
    }

    /// So many open letters of one company, each of another job that costs `tokens`: jobs and letters.
    pub(crate) async fn park(
        &self,
        company: Uuid,
        tokens: i64,
        count: usize,
    ) -> (Vec<Uuid>, Vec<i64>) {
        let jobs: Vec<Uuid> = (0..count).map(|_| Uuid::new_v4()).collect();
        let arrivals: Vec<Arrival> = jobs
            .iter()
            .map(|job| arrival(*job, company, tokens))
            .collect();
        (jobs, self.archive(&arrivals).await)
    }

    /// All letters, oldest first.
    pub(crate) async fn letters(&self) -> Vec<Letter> {
        let storage = self.storage();
        let everything = Selection::default();
        let mut letters = storage
            .dead_letters(&everything, None, 100_000)
            .await
            .expect("read");
        storage.close().await;
        letters.reverse();
        letters
    }

    /// How many letters are in this state.
    pub(crate) async fn in_state(&self, state: LetterState) -> usize {
        let letters = self.letters().await;
        letters.iter().filter(|l| l.state == state).count()
    }

    /// Every row of the archive and of its audit trail.
    pub(crate) async fn archive_rows(&self) -> serde_json::Value {
        sqlx::query_scalar(
            "select jsonb_build_array(
                (select jsonb_agg(d order by id) from dead_letters d),
                (select jsonb_agg(a order by action_id, dead_letter_id) from dead_letter_actions a))",
        )
        .fetch_one(self.db.pool())
        .await
        .expect("read")
    }

    /// Does something while dead letters are archived from their queue.
    pub(crate) async fn archiving<T>(&self, during: impl Future<Output = T>) -> T {
        tokio::select! {
            done = during => done,
            () = self.archive_for_ever() => unreachable!(),
        }
    }

    async fn archive_for_ever(&self) {
        let (storage, queue) = (self.storage(), self.broker.dead_letters());
        let mut tick = interval(Duration::from_millis(20));
        loop {
            tick.tick().await;
            let mut arrivals = Vec::new();
            for message in self.broker.take_all(&queue).await {
                let body: serde_json::Value =
                    serde_json::from_slice(&message.body).unwrap_or_default();
                let id = |name: &str| body[name].as_str().and_then(|text| text.parse().ok());
                let header = |name| message.header(name).unwrap_or_default();
                arrivals.push(Arrival {
                    reason: header("reason"),
                    error: header("error"),
                    error_signature: header("reason"),
                    job_id: id("job_id"),
                    company_id: id("company_id"),
                    tokens: body["tokens"].as_i64(),
                    replay_of: header("replay-of").parse().ok(),
                    body: message.body,
                    ..arrival(Uuid::nil(), Uuid::nil(), 1)
                });
            }
            if !arrivals.is_empty() {
                storage.archive(&arrivals).await.expect("archived");
            }
        }
    }
}
