//! Figures as people read them: a name, a value, its unit.

use super::{
    super::output::thousands,
    latency::Latency,
    rate::{Rates, Ratio, range},
    side::{Comparison, SideFigures},
};

/// Lines of at most 100 columns.
#[derive(Default)]
pub(super) struct Sheet(Vec<String>);

impl Sheet {
    pub(super) fn text(&self) -> String {
        self.0.join("\n")
    }

    pub(super) fn say(&mut self, line: &str) {
        self.0.push(line.to_owned());
    }

    pub(super) fn begin(&mut self, heading: &str) {
        self.0.extend([String::new(), heading.to_owned()]);
    }

    pub(super) fn row(&mut self, name: &str, value: &str, unit: &str, remark: &str) {
        let line = format!("  {name:<40} {value:>8} {unit:<9} {remark}");
        self.0.push(line.trim_end().to_owned());
    }

    pub(super) fn rates(&mut self, name: &str, rates: &Rates) {
        let rounds = rates.rounds_events_per_s.as_slice();
        let remark = match rounds {
            [_, _, ..] => {
                let (low, high) = range(rounds);
                let whole = |value: f64| thousands(value.round() as i64);
                format!("rounds {}–{}", whole(low), whole(high))
            }
            _ => String::new(),
        };
        let value = thousands(rates.events_per_s.round() as i64);
        self.row(name, &value, "events/s", &remark);
    }

    pub(super) fn ratio(&mut self, name: &str, ratio: &Ratio) {
        let remark = match ratio.rounds_ratio.as_slice() {
            rounds @ [_, _, ..] => {
                let (low, high) = range(rounds);
                format!("rounds {low:.2}–{high:.2}")
            }
            _ => String::new(),
        };
        self.row(name, &format!("{:.2}", ratio.ratio), "×", &remark);
    }

    pub(super) fn side(&mut self, name: &str, side: &SideFigures) {
        self.rates(name, &side.rates);
        if let Some(us) = side.cpu_us_per_event {
            self.row("… CPU of its server process", &decimal(us), "µs/event", "");
        }
    }

    pub(super) fn comparison(&mut self, name: &str, comparison: &Comparison) {
        let by = match comparison.ratio_by {
            "cpu" => "by CPU",
            _ => "by time: the server is elsewhere",
        };
        self.row(name, &format!("{:.2}", comparison.ratio), "×", by);
    }

    pub(super) fn latency(&mut self, name: &str, latency: &Latency) {
        let remark = format!("longest {} ms", decimal(latency.max_ms));
        self.row(
            &format!("{name}: median"),
            &decimal(latency.p50_ms),
            "ms",
            "",
        );
        self.row(
            "… 99 of 100 within",
            &decimal(latency.p99_ms),
            "ms",
            &remark,
        );
    }
}

/// With a place after the point.
pub(super) fn decimal(value: f64) -> String {
    format!("{value:.1}")
}
