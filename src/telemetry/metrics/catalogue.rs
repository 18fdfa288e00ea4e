//! What each metric means. `deploy/REFERENCE.md` says the same, which a test compares.

/// Name without its prefix, and meaning.
pub(super) const MEANINGS: &[(&str, &str)] = &[
    ("http_requests_total", "Requests answered"),
    (
        "http_request_duration_seconds",
        "From a request to the head of its answer",
    ),
    ("ready", "1: this process does that part of what it is for"),
    ("build_info", "Always 1: which version runs"),
    (
        "charges_total",
        "Answers to events, each time one was asked about",
    ),
    ("charged_tokens_total", "Tokens charged"),
    (
        "charge_fallbacks_total",
        "Batches that lost the fast way to an error of the database, such as a trigger's: charged all the same, at half the speed",
    ),
    (
        "job_status_errors_total",
        "New statuses that article_jobs refused; the charge stands",
    ),
    (
        "charge_duration_seconds",
        "From an event's delivery to its committed charge",
    ),
    (
        "event_age_seconds",
        "From an event's occurred_at to its committed charge, by the publisher's clock and this machine's",
    ),
    (
        "batch_size",
        "Events that the ledger was asked about together",
    ),
    ("retries_total", "Events sent to a delay queue"),
    (
        "dead_lettered_total",
        "Events that the worker sent to the dead-letter exchange",
    ),
    (
        "dead_letters_archived_total",
        "Arrivals of dead letters committed to the archive",
    ),
    (
        "dead_letters_archived_bare_total",
        "Those among them that the database took only without headers and properties",
    ),
    (
        "dead_letters_resolved_total",
        "Dead letters that the archivist found charged by another way",
    ),
    (
        "watcher_copies_total",
        "Copies of dead letters for the watchers",
    ),
    (
        "sweeps_total",
        "Passes of the sweeper; needs_person: it left something that is undecidable or that it can't sweep",
    ),
    (
        "swept_total",
        "Stale pending charges and expired holds, each time a pass met one",
    ),
    (
        "written_off_tokens_total",
        "Tokens of pending charges that the sweeper ended, as their articles don't exist",
    ),
    (
        "sweep_last_success_timestamp_seconds",
        "When this process last ended a pass without an error; 0: not yet",
    ),
    (
        "replayed_total",
        "Dead letters of replays that ran in this process: published again; not confirmed by the broker; resolved instead, as they had been charged; of those sent, back as dead letters by the replay's end",
    ),
    (
        "dead_letters_open",
        "Open dead letters; insufficient_balance: parked",
    ),
    (
        "dead_letter_oldest_seconds",
        "Since how long the oldest open dead letter that isn't parked is in the archive; 0: there is none",
    ),
    (
        "dead_letters_unarchived",
        "Dead letters that wait in their queue for an archivist",
    ),
    ("pending_deductions", "Charges that are pending"),
    (
        "pending_oldest_seconds",
        "Since how long the oldest of them is; 0: there is none",
    ),
    ("holds_open", "Holds that are open and not expired"),
    (
        "audit_violations",
        "Violations that the last audit of this process found; 0 also before the first",
    ),
    (
        "queue_messages",
        "Messages that are ready, by the queue's name without the prefix",
    ),
    (
        "status_up",
        "1: the last look there, for gauges of the whole installation, succeeded; 0: those show what was seen before",
    ),
    (
        "status_timestamp_seconds",
        "When the last look there succeeded; 0: not yet",
    ),
];
