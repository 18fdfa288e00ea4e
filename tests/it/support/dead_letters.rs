//! Dead letters as the archivist would hand them over.

use time::OffsetDateTime;
use token_billing::storage::{Arrival, DeadLetterState};
use uuid::Uuid;

use super::site::{Site, event};

/// A refusal for want of tokens, just now.
pub(crate) fn refused(job: Uuid, company: Uuid, tokens: i64) -> Arrival {
    let now = OffsetDateTime::now_utc().truncate_to_second();
    Arrival {
        reason: "insufficient_balance".to_owned(),
        error: format!("Not enough tokens: the article needs {tokens} and the company has 0."),
        error_signature: "Not enough tokens: the article needs # and the company has #.".to_owned(),
        body: event(job, company, tokens).to_string().into_bytes(),
        properties: r#"{"content_type": "application/json"}"#.to_owned(),
        headers: r#"{"attempt": 0}"#.to_owned(),
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

/// A body that nobody can read.
pub(crate) fn malformed(body: &[u8], error: &str) -> Arrival {
    Arrival {
        reason: "malformed".to_owned(),
        error: error.to_owned(),
        error_signature: error.to_owned(),
        body: body.to_vec(),
        job_id: None,
        company_id: None,
        tokens: None,
        ..refused(Uuid::nil(), Uuid::nil(), 1)
    }
}

impl Site {
    /// Archives them; the ids of their dead letters.
    pub(crate) async fn archive(&self, arrivals: &[Arrival]) -> Vec<i64> {
        let archived = self.storage().archive(arrivals).await;
        archived.expect("archived")
    }

    /// So many open dead letters of one company, each of another job that costs `tokens`: jobs and dead letters.
    pub(crate) async fn park(
        &self,
        company: Uuid,
        tokens: i64,
        count: usize,
    ) -> (Vec<Uuid>, Vec<i64>) {
        let jobs: Vec<Uuid> = (0..count).map(|_| Uuid::new_v4()).collect();
        let arrivals: Vec<Arrival> = jobs
            .iter()
            .map(|job| refused(*job, company, tokens))
            .collect();
        (jobs, self.archive(&arrivals).await)
    }

    /// How many dead letters are in this state.
    pub(crate) async fn in_state(&self, state: DeadLetterState) -> usize {
        let dead_letters = self.dead_letters().await;
        dead_letters.iter().filter(|l| l.state == state).count()
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
}
