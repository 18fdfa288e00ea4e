//! How a metric comes into being: named, described, and with every label set at 0 from the start, so that an alert
//! sees the first event.

use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::PrometheusRecorder;

use super::catalogue::MEANINGS;

/// What every name begins with.
pub(super) const PREFIX: &str = "token_billing_";

/// The recorder's own does the same without the prefix.
const METADATA: Metadata<'static> = Metadata::new("token_billing", Level::INFO, None);

/// A counter that can be read as well: the exporter's can't.
#[derive(Debug)]
pub(super) struct Count {
    total: AtomicU64,
    exported: Counter,
}

impl Count {
    pub(super) fn add(&self, count: u64) {
        if count > 0 {
            self.total.fetch_add(count, Ordering::Relaxed);
            self.exported.increment(count);
        }
    }

    pub(super) fn read(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
}

/// The same by the values of one label, all of which are known beforehand.
#[derive(Debug)]
pub(super) struct Counts(Vec<(String, Count)>);

impl Counts {
    pub(super) fn add(&self, value: &str, count: u64) {
        let found = self.0.iter().find(|(known, _)| known == value);
        debug_assert!(found.is_some(), "{value} was not registered");
        if let Some((_, counter)) = found {
            counter.add(count);
        }
    }

    pub(super) fn read(&self, value: &str) -> u64 {
        let found = self.0.iter().find(|(known, _)| known == value);
        found.map_or(0, |(_, counter)| counter.read())
    }

    pub(super) fn sum(&self) -> u64 {
        self.0.iter().map(|(_, counter)| counter.read()).sum()
    }
}

/// A gauge by the values of one label, all of which are known beforehand.
#[derive(Debug)]
pub(super) struct Gauges(Vec<(String, Gauge)>);

impl Gauges {
    /// Each value that `values` doesn't know is 0.
    pub(super) fn set_all(&self, values: impl Fn(&str) -> f64) {
        for (label, gauge) in &self.0 {
            gauge.set(values(label));
        }
    }

    pub(super) fn has(&self, value: &str) -> bool {
        self.0.iter().any(|(known, _)| known == value)
    }

    pub(super) fn set(&self, value: &str, to: f64) {
        let found = self.0.iter().find(|(known, _)| known == value);
        debug_assert!(found.is_some(), "{value} was not registered");
        if let Some((_, gauge)) = found {
            gauge.set(to);
        }
    }
}

/// Makes metrics in one recorder.
pub(super) struct Register<'r>(pub(super) &'r PrometheusRecorder);

impl Register<'_> {
    pub(super) fn count(&self, name: &'static str) -> Count {
        self.describe_counter(name);
        self.labelled_count(name, Vec::new())
    }

    pub(super) fn counts(
        &self,
        name: &'static str,
        label: &'static str,
        values: impl IntoIterator<Item = impl Into<String>>,
    ) -> Counts {
        self.describe_counter(name);
        let count = |value: String| {
            let labels = vec![Label::new(label, value.clone())];
            (value, self.labelled_count(name, labels))
        };
        Counts(values.into_iter().map(Into::into).map(count).collect())
    }

    pub(super) fn gauge(&self, name: &'static str) -> Gauge {
        self.describe_gauge(name);
        self.labelled_gauge(name, Vec::new())
    }

    pub(super) fn gauges(
        &self,
        name: &'static str,
        label: &'static str,
        values: impl IntoIterator<Item = impl Into<String>>,
    ) -> Gauges {
        self.describe_gauge(name);
        let gauge = |value: String| {
            let labels = vec![Label::new(label, value.clone())];
            (value, self.labelled_gauge(name, labels))
        };
        Gauges(values.into_iter().map(Into::into).map(gauge).collect())
    }

    pub(super) fn histogram(&self, name: &'static str) -> Histogram {
        self.describe_histogram(name);
        self.labelled_histogram(name, Vec::new())
    }

    pub(super) fn describe_counter(&self, name: &'static str) {
        self.0
            .describe_counter(full(name), None, meaning(name).into());
    }

    pub(super) fn describe_gauge(&self, name: &'static str) {
        self.0
            .describe_gauge(full(name), None, meaning(name).into());
    }

    pub(super) fn describe_histogram(&self, name: &'static str) {
        self.0
            .describe_histogram(full(name), None, meaning(name).into());
    }

    fn labelled_count(&self, name: &'static str, labels: Vec<Label>) -> Count {
        Count {
            total: AtomicU64::new(0),
            exported: self.labelled_counter(name, labels),
        }
    }

    pub(super) fn labelled_counter(&self, name: &'static str, labels: Vec<Label>) -> Counter {
        self.0.register_counter(&key(name, labels), &METADATA)
    }

    pub(super) fn labelled_gauge(&self, name: &'static str, labels: Vec<Label>) -> Gauge {
        self.0.register_gauge(&key(name, labels), &METADATA)
    }

    pub(super) fn labelled_histogram(&self, name: &'static str, labels: Vec<Label>) -> Histogram {
        self.0.register_histogram(&key(name, labels), &METADATA)
    }
}

fn meaning(name: &str) -> &'static str {
    let found = MEANINGS.iter().find(|(known, _)| *known == name);
    debug_assert!(found.is_some(), "{name} has no meaning");
    found.map_or("", |(_, meaning)| meaning)
}

fn full(name: &'static str) -> KeyName {
    format!("{PREFIX}{name}").into()
}

fn key(name: &'static str, labels: Vec<Label>) -> Key {
    Key::from_parts(format!("{PREFIX}{name}"), labels)
}
