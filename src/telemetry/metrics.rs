//! Every metric of this process, each named once: counted as things happen, rendered when somebody asks.
//!
//! No label is of a company, a job or an article. Each process, and each test, has a recorder of its own.

mod catalogue;
mod counts;
mod installation;
mod record;
mod register;

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use metrics::{Gauge, Histogram, Label};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use crate::{
    config::Settings,
    domain::{Reason, RetrySchedule},
};
use register::{Count, Counts, Gauges, PREFIX, Register};

pub use counts::{ArchivistCounts, WorkerCounts};
pub use installation::{Seen, Source};
pub use record::BatchCount;

/// Answers that are none of the reasons for a dead letter.
const ANSWERS: [&str; 4] = ["charged", "duplicate", "locked", "failed"];
/// Reasons that dead letters have from the broker or from somebody else.
const OTHERS_REASONS: [&str; 6] = [
    "delivery_limit",
    "expired",
    "maxlen",
    "rejected",
    "unknown",
    OTHER,
];
/// Whatever is not known beforehand.
const OTHER: &str = "other";
const COPIES: [&str; 2] = ["sent", "lost"];
const PASSES: [&str; 3] = ["done", "needs_person", "failed"];
const SWEPT: [&str; 8] = [
    "charged",
    "refused",
    "written_off",
    "undecidable",
    "no_longer_pending",
    "set_aside",
    "holds_expired",
    "events_missing",
];
const REPLAYED: [&str; 4] = ["sent", "not_sent", "resolved", "failed_again"];
const SOURCES: [&str; 2] = ["database", "broker"];
/// Values that histograms keep one by one until they are sorted into buckets: a megabyte.
const UNSORTED_MAX: usize = 65_536;

const CHARGE_DURATION: &str = "charge_duration_seconds";
const EVENT_AGE: &str = "event_age_seconds";
const BATCH_SIZE: &str = "batch_size";
const HTTP_REQUESTS: &str = "http_requests_total";
const HTTP_DURATION: &str = "http_request_duration_seconds";
const READY: &str = "ready";

const SECONDS: [f64; 15] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];
/// A backlog may be a day old.
const AGES: [f64; 16] = [
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0,
    86_400.0,
];
const SIZES: [f64; 13] = [
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0,
];

#[derive(Debug)]
pub struct Metrics {
    charges: Counts,
    charged_tokens: Count,
    charge_fallbacks: Count,
    job_status_errors: Count,
    charge_duration: Histogram,
    event_age: Histogram,
    batch_size: Histogram,
    batches: AtomicU64,
    retries: Counts,
    dead_lettered: Counts,
    archived: Count,
    archived_bare: Count,
    resolved: Count,
    copies: Counts,
    sweeps: Counts,
    swept: Counts,
    written_off_tokens: Count,
    sweep_last_success: Gauge,
    replayed: Counts,
    dead_letters_open: Gauges,
    dead_letter_oldest: Gauge,
    dead_letters_unarchived: Gauge,
    pending_deductions: Gauge,
    pending_oldest: Gauge,
    holds_open: Gauge,
    audit_violations: Gauge,
    queue_messages: Gauges,
    status_up: Gauges,
    status_timestamp: Gauges,
    recorder: PrometheusRecorder,
    exporter: PrometheusHandle,
    unsorted: AtomicUsize,
}

impl Metrics {
    /// All at 0, with the steps of the settings' schedule.
    pub fn new(settings: &Settings) -> Self {
        let recorder = recorder();
        let new = Register(&recorder);
        let steps = RetrySchedule::new(&settings.retry).steps();
        let steps: Vec<String> = steps.into_iter().map(step).collect();
        let reasons = || Reason::ALL.map(Reason::as_str).into_iter();
        let answers = ANSWERS.into_iter().chain(reasons());
        let answers = answers.filter(|answer| *answer != Reason::RetriesExhausted.as_str());
        let delays = steps.iter().map(|step| format!("deductions.retry.{step}"));
        let queues = ["deductions", "dead-letters", "unreadable"].map(str::to_owned);
        let queues = queues.into_iter().chain(delays);
        new.describe_counter(HTTP_REQUESTS);
        new.describe_histogram(HTTP_DURATION);
        new.describe_gauge(READY);
        new.describe_gauge("build_info");
        let version = Label::new("version", env!("CARGO_PKG_VERSION"));
        new.labelled_gauge("build_info", vec![version]).set(1.0);
        Self {
            charges: new.counts("charges_total", "outcome", answers),
            charged_tokens: new.count("charged_tokens_total"),
            charge_fallbacks: new.count("charge_fallbacks_total"),
            job_status_errors: new.count("job_status_errors_total"),
            charge_duration: new.histogram(CHARGE_DURATION),
            event_age: new.histogram(EVENT_AGE),
            batch_size: new.histogram(BATCH_SIZE),
            batches: AtomicU64::new(0),
            retries: new.counts("retries_total", "step", &steps),
            dead_lettered: new.counts("dead_lettered_total", "reason", reasons()),
            archived: new.count("dead_letters_archived_total"),
            archived_bare: new.count("dead_letters_archived_bare_total"),
            resolved: new.count("dead_letters_resolved_total"),
            copies: new.counts("watcher_copies_total", "result", COPIES),
            sweeps: new.counts("sweeps_total", "result", PASSES),
            swept: new.counts("swept_total", "result", SWEPT),
            written_off_tokens: new.count("written_off_tokens_total"),
            sweep_last_success: new.gauge("sweep_last_success_timestamp_seconds"),
            replayed: new.counts("replayed_total", "result", REPLAYED),
            dead_letters_open: new.gauges(
                "dead_letters_open",
                "reason",
                reasons().chain(OTHERS_REASONS),
            ),
            dead_letter_oldest: new.gauge("dead_letter_oldest_seconds"),
            dead_letters_unarchived: new.gauge("dead_letters_unarchived"),
            pending_deductions: new.gauge("pending_deductions"),
            pending_oldest: new.gauge("pending_oldest_seconds"),
            holds_open: new.gauge("holds_open"),
            audit_violations: new.gauge("audit_violations"),
            queue_messages: new.gauges("queue_messages", "queue", queues),
            status_up: new.gauges("status_up", "source", SOURCES),
            status_timestamp: new.gauges("status_timestamp_seconds", "source", SOURCES),
            exporter: recorder.handle(),
            recorder,
            unsorted: AtomicUsize::new(0),
        }
    }

    /// The same with another histogram of the events' ages: buckets are too coarse for who compares quantiles.
    #[must_use]
    pub fn with_event_age(self, event_age: Histogram) -> Self {
        Self { event_age, ..self }
    }

    /// In Prometheus's text format.
    pub fn render(&self) -> String {
        self.unsorted.store(0, Ordering::Relaxed);
        self.exporter.render()
    }
}

fn recorder() -> PrometheusRecorder {
    let buckets: [(&str, &[f64]); 4] = [
        (CHARGE_DURATION, &SECONDS),
        (EVENT_AGE, &AGES),
        (BATCH_SIZE, &SIZES),
        (HTTP_DURATION, &SECONDS),
    ];
    let mut builder = PrometheusBuilder::new();
    for (name, edges) in buckets {
        let matcher = Matcher::Full(format!("{PREFIX}{name}"));
        // Refused only without an edge.
        builder = builder
            .set_buckets_for_metric(matcher, edges)
            .unwrap_or_default();
    }
    builder.build_recorder()
}

/// As in the name of its queue.
fn step(delay: Duration) -> String {
    format!("{}ms", delay.as_millis())
}
