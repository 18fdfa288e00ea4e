//! Counting what this process does.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use metrics::Label;
use time::OffsetDateTime;

use super::{
    ArchivistCounts, HTTP_DURATION, HTTP_REQUESTS, Metrics, OTHER, READY, Register, UNSORTED_MAX,
    WorkerCounts, step,
};
use crate::domain::{CompletionEvent, Deduction, Disposition, Verdict};

/// What came of one batch, added up before it is counted: lanes share the counters.
#[derive(Debug, Default)]
pub struct BatchCount {
    answers: Vec<(&'static str, u64)>,
    tokens: u64,
    job_status_errors: u64,
}

impl BatchCount {
    /// Counts what the ledger, or the parser, answered.
    pub fn answer(&mut self, event: Option<&CompletionEvent>, verdict: &Verdict) {
        let answer = match verdict {
            Verdict::Answered(Deduction::Charged { job_status_error }) => {
                let tokens = event.map_or(0, CompletionEvent::tokens);
                self.tokens += u64::try_from(tokens).unwrap_or(0);
                self.job_status_errors += u64::from(job_status_error.is_some());
                "charged"
            }
            Verdict::Answered(Deduction::AlreadyCharged) => "duplicate",
            Verdict::Answered(Deduction::Refused(refusal)) => {
                self.job_status_errors += u64::from(refusal.job_status_error.is_some());
                refusal.reason.as_str()
            }
            Verdict::Answered(Deduction::JobNotFound) => "job_not_found",
            Verdict::Answered(Deduction::Locked(_)) => "locked",
            Verdict::Hopeless { reason, .. } => reason.as_str(),
            Verdict::Transient { .. } => "failed",
            // Answered before.
            Verdict::Marked { .. } => return,
        };
        match self.answers.iter_mut().find(|(known, _)| *known == answer) {
            Some((_, count)) => *count += 1,
            None => self.answers.push((answer, 1)),
        }
    }
}

impl Metrics {
    /// Counts a batch that the ledger is asked about.
    pub fn asked(&self, events: usize) {
        self.batch_size.record(events as f64);
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.recorded(1);
    }

    /// Batches that the ledger was asked about, each time it was.
    pub fn batches(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }

    /// Counts what was answered.
    pub fn answered(&self, batch: &BatchCount) {
        for &(answer, count) in &batch.answers {
            self.charges.add(answer, count);
        }
        self.charged_tokens.add(batch.tokens);
        self.job_status_errors.add(batch.job_status_errors);
    }

    /// Notes how long a charge that was committed at `now` had been waited for: since its event was delivered, and
    /// since its article was finished.
    pub fn charged(&self, event: &CompletionEvent, delivered: Instant, now: OffsetDateTime) {
        self.charge_duration
            .record(delivered.elapsed().as_secs_f64());
        if let Some(occurred_at) = event.occurred_at() {
            // A publisher's clock that runs ahead gives no negative time.
            let age = (now - occurred_at).as_seconds_f64().max(0.0);
            self.event_age.record(age);
        }
        self.recorded(2);
    }

    /// Counts a batch of which nothing could be charged the fast way.
    pub fn fell_back(&self) {
        self.charge_fallbacks.add(1);
    }

    /// Counts where an event goes.
    pub fn disposed(&self, disposition: &Disposition) {
        match disposition {
            Disposition::Ack | Disposition::MarkPending { .. } => {}
            Disposition::Delay { delay, .. } => self.retries.add(&step(*delay), 1),
            Disposition::DeadLetter { reason, .. } => self.dead_lettered.add(reason.as_str(), 1),
        }
    }

    /// What the worker has done so far.
    pub fn worker_counts(&self) -> WorkerCounts {
        WorkerCounts {
            charged: self.charges.read("charged"),
            duplicates: self.charges.read("duplicate"),
            delayed: self.retries.sum(),
            dead_lettered: self.dead_lettered.sum(),
            job_status_errors: self.job_status_errors.read(),
        }
    }

    /// Counts dead letters that were committed to the archive.
    pub fn archived(&self, dead_letters: usize) {
        self.archived.add(dead_letters as u64);
    }

    /// Counts one of these that the database took only without its headers and properties.
    pub fn archived_bare(&self) {
        self.archived_bare.add(1);
    }

    /// Counts dead letters that were found charged.
    pub fn resolved(&self, dead_letters: u64) {
        self.resolved.add(dead_letters);
    }

    /// Counts a copy that was sent to the watchers.
    pub fn copied(&self) {
        self.copies.add("sent", 1);
    }

    /// Counts copies that nobody gets.
    pub fn copies_lost(&self, copies: usize) {
        self.copies.add("lost", copies as u64);
    }

    /// What the archivist has done so far.
    pub fn archivist_counts(&self) -> ArchivistCounts {
        ArchivistCounts {
            archived: self.archived.read(),
            bare: self.archived_bare.read(),
            copied: self.copies.read("sent"),
            copies_lost: self.copies.read("lost"),
            resolved: self.resolved.read(),
        }
    }

    /// Counts what a pass of the sweeper did to stale records, by what that was.
    pub fn swept(&self, records: &[(&str, u64)], written_off_tokens: u64) {
        for (result, count) in records {
            self.swept.add(result, *count);
        }
        self.written_off_tokens.add(written_off_tokens);
    }

    /// Counts a pass of the sweeper: `done`, `needs_person` or `failed`.
    pub fn swept_pass(&self, result: &str) {
        self.sweeps.add(result, 1);
        if result != "failed" {
            self.sweep_last_success.set(unix_seconds());
        }
    }

    /// Counts dead letters of a replay by what became of them: `sent`, `not_sent`, `resolved` or `failed_again`.
    pub fn replayed(&self, result: &str, dead_letters: u64) {
        self.replayed.add(result, dead_letters);
    }

    /// Whether this process does a part of what it is for.
    pub fn ready(&self, part: &'static str, is_ready: bool) {
        let labels = vec![Label::new("part", part)];
        let gauge = Register(&self.recorder).labelled_gauge(READY, labels);
        gauge.set(f64::from(u8::from(is_ready)));
    }

    /// What an audit found.
    pub fn audited(&self, violations: u64) {
        self.audit_violations.set(violations as f64);
    }

    /// Makes the series of a route that there is, at 0, before anybody asks for it.
    pub fn expect_http(&self, route: &str, method: &str, statuses: &[u16]) {
        for status in statuses {
            self.http_requests(route, method, *status).increment(0);
        }
        // Registered by that.
        let _ = self.http_duration(route);
    }

    /// Counts a request that was answered. `route` as it was declared, never as it was asked for; `None`: no such route.
    pub fn http(&self, route: Option<&str>, method: &str, status: u16, duration: Duration) {
        let route = route.unwrap_or(OTHER);
        self.http_requests(route, method, status).increment(1);
        self.http_duration(route).record(duration.as_secs_f64());
        self.recorded(1);
    }

    fn http_requests(&self, route: &str, method: &str, status: u16) -> metrics::Counter {
        // Anybody may invent methods, each of which would be a series.
        let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
        let known = known.into_iter().find(|known| *known == method);
        let labels = vec![
            Label::new("route", route.to_owned()),
            Label::new("method", known.unwrap_or(OTHER)),
            Label::new("status", status.to_string()),
        ];
        Register(&self.recorder).labelled_counter(HTTP_REQUESTS, labels)
    }

    fn http_duration(&self, route: &str) -> metrics::Histogram {
        let labels = vec![Label::new("route", route.to_owned())];
        Register(&self.recorder).labelled_histogram(HTTP_DURATION, labels)
    }

    /// Histograms keep their values one by one until somebody renders them; nobody may, so they are sorted by whoever
    /// brings the last of many.
    fn recorded(&self, values: usize) {
        let unsorted = self.unsorted.fetch_add(values, Ordering::Relaxed) + values;
        if unsorted >= UNSORTED_MAX {
            self.unsorted.store(0, Ordering::Relaxed);
            self.exporter.run_upkeep();
        }
    }
}

pub(super) fn unix_seconds() -> f64 {
    OffsetDateTime::now_utc().unix_timestamp() as f64
}
