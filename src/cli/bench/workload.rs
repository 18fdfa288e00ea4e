//! What is charged in a measurement: made up, but the same in every run.

use std::ops::Range;

use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use super::args::Keys;

/// Tokens of each article.
pub(super) const TOKENS: i64 = 1500;

/// A numbered set of events over a number of companies. Nothing is kept in memory: each is made from
/// its number when it is needed.
#[derive(Debug, Clone)]
pub(super) struct Workload {
    /// Workloads of different sets have no job and no company in common.
    pub(super) set: u64,
    /// The numbers of its events.
    pub(super) numbers: Range<usize>,
    pub(super) companies: usize,
    pub(super) keys: Keys,
}

impl Workload {
    pub(super) fn events(&self) -> usize {
        self.numbers.len()
    }

    /// What all of it costs.
    pub(super) fn tokens(&self) -> i64 {
        self.events() as i64 * TOKENS
    }

    /// The share of round `round` of so many, in order.
    pub(super) fn part(&self, round: usize, rounds: usize) -> Self {
        let Range { start, .. } = self.numbers;
        let from = |round| start + self.events() * round / rounds;
        Self {
            numbers: from(round)..from(round + 1),
            ..self.clone()
        }
    }

    /// In the order in which they are published.
    pub(super) fn bodies(&self) -> impl Iterator<Item = String> {
        self.numbers.clone().map(|n| self.body(n, None))
    }

    /// The body of event `n`.
    pub(super) fn body(&self, n: usize, occurred_at: Option<OffsetDateTime>) -> String {
        let occurred_at = occurred_at
            .and_then(|at| at.format(&Rfc3339).ok())
            .map(|at| format!(r#","occurred_at":"{at}""#))
            .unwrap_or_default();
        format!(
            r#"{{"job_id":"{}","tokens":{TOKENS},"company_id":"{}","article_id":"{}","usage_type":"article_generation","metadata":{{"model":"large-3","language":"en","words":1200}}{occurred_at}}}"#,
            self.job(n),
            self.company_of(n),
            self.article(n),
        )
    }

    /// The id of job `n`.
    pub(super) fn job(&self, n: usize) -> Uuid {
        let id = self.scattered(n, 1);
        match self.keys {
            Keys::Random => id,
            // A millisecond after the one before, and later than any that is there already: from 2100 on.
            Keys::V7 => {
                let ms = 4_102_444_800_000 + n as u64;
                let (mut rest, random) = ([0; 10], id.as_bytes());
                rest.copy_from_slice(&random[6..]);
                uuid::Builder::from_unix_timestamp_millis(ms, &rest).into_uuid()
            }
        }
    }

    pub(super) fn article(&self, n: usize) -> Uuid {
        self.scattered(n, 3)
    }

    /// The company of event `n`.
    pub(super) fn company_of(&self, n: usize) -> Uuid {
        self.company(mixed(n as u64) as usize % self.companies)
    }

    /// The company of that number.
    pub(super) fn company(&self, number: usize) -> Uuid {
        self.scattered(number, 2)
    }

    pub(super) fn company_ids(&self) -> Vec<Uuid> {
        (0..self.companies).map(|n| self.company(n)).collect()
    }

    /// How many of its events are of none of these companies.
    pub(super) fn events_without(&self, companies: &[Uuid]) -> usize {
        let numbers = self.numbers.clone();
        numbers
            .filter(|&n| !companies.contains(&self.company_of(n)))
            .count()
    }

    fn scattered(&self, n: usize, kind: u64) -> Uuid {
        let seed = (n as u64) << 16 | self.set << 4 | kind;
        uuid::Builder::from_u128(u128::from(mixed(seed)) << 64 | u128::from(mixed(!seed)))
            .with_version(uuid::Version::Random)
            .with_variant(uuid::Variant::RFC4122)
            .into_uuid()
    }
}

/// SplitMix64's finalizer (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
pub(super) fn mixed(n: u64) -> u64 {
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

    fn of(set: u64, keys: Keys) -> Workload {
        Workload {
            set,
            numbers: 0..1000,
            companies: 10,
            keys,
        }
    }

    #[test]
    fn every_event_is_valid_and_of_another_job() {
        for keys in [Keys::Random, Keys::V7] {
            let parse = |body: String| {
                CompletionEvent::parse(body.as_bytes(), None, &Limits::default()).expect("valid")
            };
            let workloads = [of(0, keys), of(1, keys)];
            let events = workloads.iter().flat_map(Workload::bodies).map(parse);
            let jobs: HashSet<Uuid> = events.map(|event| event.job_id()).collect();
            assert_eq!(jobs.len(), 2000);
        }
        let workload = of(0, Keys::Random);
        let companies: HashSet<Uuid> = (0..1000).map(|n| workload.company_of(n)).collect();
        assert_eq!(companies, workload.company_ids().into_iter().collect());
        assert_ne!(workload.company(0), of(1, Keys::Random).company(0));
    }

    #[test]
    fn keys_of_version_7_are_in_the_order_of_time() {
        let workload = of(0, Keys::V7);
        let jobs: Vec<Uuid> = (0..100).map(|n| workload.job(n)).collect();
        assert!(jobs.is_sorted());
        assert!(jobs.iter().all(|job| job.get_version_num() == 7));
    }

    #[test]
    fn the_rounds_share_all_events() {
        let workload = of(0, Keys::Random);
        let parts: Vec<Workload> = (0..7).map(|round| workload.part(round, 7)).collect();
        let numbers: Vec<usize> = parts.into_iter().flat_map(|part| part.numbers).collect();
        assert_eq!(numbers, (0..1000).collect::<Vec<_>>());
    }
}
