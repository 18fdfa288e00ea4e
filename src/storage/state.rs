//! How things stand, in one query that is cheap however large the books are.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use sqlx::PgConnection;

use super::{Storage, StorageError};

/// How things stand at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct StateOfThings {
    /// How far back "lately" goes, in seconds.
    pub window_seconds: i64,
    /// Charges that are owed.
    pub pending: i64,
    /// Since how long the oldest of them is.
    pub oldest_pending_age_seconds: Option<i64>,
    /// Charges lately.
    pub charged: i64,
    /// Refunds lately.
    pub refunded: i64,
    /// Refusals lately, by their code: of keys that are new in the books. A refusal is one record however
    /// often it is tried again.
    #[sqlx(json)]
    pub refused: BTreeMap<String, i64>,
    /// Dead letters that nobody has dealt with.
    pub open_dead_letters: i64,
    /// Since how long the oldest of them is in the archive.
    pub oldest_dead_letter_age_seconds: Option<i64>,
}

/// Each part through an index that has little or nothing else in it: what is pending and what is open have
/// partial ones, of which counting reads nothing but the index; the last minutes are a few pages by the
/// BRINs. The oldest letter is the one with the smallest id, since letters are archived one writer at a time.
///
/// $1 is the window in seconds.
pub const STATE_OF_THINGS: &str =
    "select extract(epoch from w.length)::bigint as window_seconds,
            owed.pending, owed.oldest_pending_age_seconds, logged.charged, logged.refunded, refused.refused,
            letters.open_dead_letters, letters.oldest_dead_letter_age_seconds
     from (select make_interval(secs => $1::float8) as length) w
     cross join lateral (
         select count(*) as pending,
                (select greatest(extract(epoch from clock_timestamp() - coalesce(r.pending_since, r.created_at)), 0)
                 from token_deduction_records r where r.status = 'pending'
                 order by coalesce(r.pending_since, r.created_at) limit 1)::bigint
                    as oldest_pending_age_seconds
         from token_deduction_records r where r.status = 'pending'
     ) owed
     cross join lateral (
         select count(*) filter (where l.token_amount > 0) as charged,
                count(*) filter (where l.token_amount < 0) as refunded
         from token_usage_logs l where l.created_at > now() - make_interval(secs => $1::float8)
     ) logged
     cross join lateral (
         select coalesce(jsonb_object_agg(f.error_code, f.records), '{}') as refused
         from (
             select r.error_code, count(*) as records
             from token_deduction_records r
             where r.status = 'failed' and r.created_at > now() - make_interval(secs => $1::float8)
             group by r.error_code
         ) f
     ) refused
     cross join lateral (
         select o.open_dead_letters,
                (select greatest(extract(epoch from clock_timestamp() - d.archived_at), 0)
                 from dead_letters d where d.id = o.oldest)::bigint as oldest_dead_letter_age_seconds
         from (select count(*) as open_dead_letters, min(d.id) as oldest from dead_letters d where d.state = 'open') o
     ) letters";

impl Storage {
    /// How things stand, with what happened within `window`.
    pub async fn state_of_things(&self, window: Duration) -> Result<StateOfThings, StorageError> {
        self.call(async |connection| state_of_things(connection, window).await)
            .await
    }
}

pub(super) async fn state_of_things(
    connection: &mut PgConnection,
    window: Duration,
) -> sqlx::Result<StateOfThings> {
    sqlx::query_as(STATE_OF_THINGS)
        .bind(window.as_secs_f64())
        .fetch_one(connection)
        .await
}
