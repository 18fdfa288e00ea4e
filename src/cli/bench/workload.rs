//! What is charged in a measurement: made up, but the same in every run.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

/// Tokens of each article.
pub(super) const TOKENS: i64 = 1500;

/// A numbered set of events over a number of companies. Nothing is kept in memory: each is made from
/// its number when it is needed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Workload {
    pub(super) events: usize,
    pub(super) companies: usize,
}

impl Workload {
    /// In the order in which they are published.
    pub(super) fn events(self) -> impl Iterator<Item = String> {
        (0..self.events).map(move |n| self.body(n, None))
    }

    /// The body of event `n`.
    pub(super) fn body(self, n: usize, occurred_at: Option<OffsetDateTime>) -> String {
        let occurred_at = occurred_at
            .and_then(|at| at.format(&Rfc3339).ok())
            .map(|at| format!(r#","occurred_at":"{at}""#))
            .unwrap_or_default();
        format!(
            r#"{{"job_id":"{}","tokens":{TOKENS},"company_id":"{}","article_id":"{}","usage_type":"article_generation","metadata":{{"model":"large-3","language":"en","words":1200}}{occurred_at}}}"#,
            self.job(n),
            self.company_of(n),
            scattered(n, 3),
        )
    }

    /// The id of job `n`, scattered as random ones are.
    pub(super) fn job(self, n: usize) -> Uuid {
        scattered(n, 1)
    }

    /// The company of event `n`.
    pub(super) fn company_of(self, n: usize) -> Uuid {
        scattered(mixed(n as u64) as usize % self.companies, 2)
    }

    pub(super) fn company_ids(self) -> Vec<Uuid> {
        (0..self.companies).map(|n| scattered(n, 2)).collect()
    }
}

fn scattered(n: usize, kind: u64) -> Uuid {
    let seed = (n as u64) << 4 | kind;
    uuid::Builder::from_u128(u128::from(mixed(seed)) << 64 | u128::from(mixed(!seed)))
        .with_version(uuid::Version::Random)
        .with_variant(uuid::Variant::RFC4122)
        .into_uuid()
}

/// SplitMix64's finalizer (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
fn mixed(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::{config::Limits, domain::CompletionEvent};

    #[test]
    fn every_event_is_valid_and_of_another_job() {
        let workload = Workload {
            events: 1000,
            companies: 10,
        };
        let jobs: HashSet<Uuid> = workload
            .events()
            .map(|body| CompletionEvent::parse(body.as_bytes(), None, &Limits::default()))
            .map(|event| event.expect("valid").job_id())
            .collect();
        assert_eq!(jobs.len(), 1000);
        let companies: HashSet<Uuid> = (0..1000).map(|n| workload.company_of(n)).collect();
        assert_eq!(companies, workload.company_ids().into_iter().collect());
    }
}
