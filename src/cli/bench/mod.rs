//! `token-billing bench`: what this installation can do, measured on scratch data of its own.

mod measure;
mod workload;

use serde::Serialize;

use self::{
    measure::{Lab, Latency, Rate},
    workload::Workload,
};
use super::{
    Ended,
    output::{Format, Table, at_right, note, text, thousands},
};
use crate::config::Settings;

/// How much to measure.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct BenchArgs {
    /// Events of the large measurements.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1000..=10_000_000))]
    events: u32,
    /// Companies that the events are spread over.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    companies: u32,
    /// Seconds of steady traffic, at 500 events a second, for the latency.
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3600))]
    steady: u32,
}

/// Events a second of the steady traffic.
const STEADY_RATE: u32 = 500;

/// All figures of one run. Rates are events a second.
#[derive(Debug, Serialize)]
struct Report {
    events: u32,
    companies: u32,
    function_1_connection_per_s: f64,
    function_2_connections_per_s: f64,
    backlog_per_s: f64,
    one_company_per_s: f64,
    one_by_one_per_s: f64,
    latency_p50_ms: f64,
    latency_p99_ms: f64,
    latency_max_ms: f64,
    peak_memory_mib: f64,
    backlog_to_function: f64,
    one_company_to_backlog: f64,
    backlog_to_one_by_one: f64,
}

/// Measures, prints, and leaves nothing behind.
pub(super) async fn run(
    args: BenchArgs,
    settings: &Settings,
    output: Format,
) -> anyhow::Result<Ended> {
    settings.require_database()?;
    settings.require_broker()?;
    let report = tokio::select! {
        report = measure_all(settings, &args) => report?,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted; scratch data named token_billing_bench_* may be left"),
    };
    output.print(&report, Report::table)?;
    Ok(Ended::Done)
}

async fn measure_all(settings: &Settings, args: &BenchArgs) -> anyhow::Result<Report> {
    let (events, companies) = (args.events as usize, args.companies as usize);
    let spread = Workload { events, companies };
    let single = Workload {
        events,
        companies: 1,
    };
    let few = Workload {
        events: (events / 20).max(1000),
        companies,
    };
    let steady = Workload {
        events: (args.steady * STEADY_RATE) as usize,
        companies,
    };

    // Beside the workers, a second connection of the pool must not be the limit.
    let function_1 = rate(
        settings,
        "function alone, 1 connection",
        spread,
        async |lab| lab.function(spread, 1).await,
    )
    .await?;
    let function_2 = rate(
        settings,
        "function alone, 2 connections",
        spread,
        async |lab| lab.function(spread, 2).await,
    )
    .await?;
    let backlog = rate(settings, "backlog, end to end", spread, async |lab| {
        forget_peak_memory();
        lab.backlog(spread, None).await
    })
    .await?;
    let peak_memory_mib = peak_memory_mib().unwrap_or(f64::NAN);
    let one_company = rate(settings, "backlog of one company", single, async |lab| {
        lab.backlog(single, None).await
    })
    .await?;
    let one_by_one = rate(settings, "one message a transaction", few, async |lab| {
        lab.backlog(few, Some(1)).await
    })
    .await?;
    let latency: Latency = in_lab(settings, "steady traffic", steady, async |lab| {
        lab.steady(steady, STEADY_RATE).await
    })
    .await?;

    let ceiling = function_1.per_second().max(function_2.per_second());
    Ok(Report {
        events: args.events,
        companies: args.companies,
        function_1_connection_per_s: function_1.per_second(),
        function_2_connections_per_s: function_2.per_second(),
        backlog_per_s: backlog.per_second(),
        one_company_per_s: one_company.per_second(),
        one_by_one_per_s: one_by_one.per_second(),
        latency_p50_ms: latency.p50.as_secs_f64() * 1e3,
        latency_p99_ms: latency.p99.as_secs_f64() * 1e3,
        latency_max_ms: latency.max.as_secs_f64() * 1e3,
        peak_memory_mib,
        backlog_to_function: backlog.per_second() / ceiling,
        one_company_to_backlog: one_company.per_second() / backlog.per_second(),
        backlog_to_one_by_one: backlog.per_second() / one_by_one.per_second(),
    })
}

async fn rate(
    settings: &Settings,
    what: &str,
    workload: Workload,
    measurement: impl AsyncFnOnce(&Lab) -> anyhow::Result<Rate>,
) -> anyhow::Result<Rate> {
    let rate = in_lab(settings, what, workload, measurement).await?;
    note(&format!(
        "  {:.0} events/s ({} in {:.1} s)",
        rate.per_second(),
        rate.events,
        rate.seconds
    ));
    Ok(rate)
}

async fn in_lab<T>(
    settings: &Settings,
    what: &str,
    workload: Workload,
    measurement: impl AsyncFnOnce(&Lab) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    note(&format!("{what} …"));
    let lab = Lab::open(settings, workload).await?;
    let measured = measurement(&lab).await;
    lab.close().await;
    measured
}

impl Report {
    fn table(&self) -> String {
        let rate = |value: f64| thousands(value.round() as i64);
        let ms = |value: f64| format!("{value:.1}");
        let mut table = Table::new([text(""), at_right("figure"), text("unit"), text("")]);
        let mut row = |what: &str, figure: String, unit: &str, note: String| {
            table.row([text(what), at_right(&figure), text(unit), text(&note)]);
        };
        let per_s = "events/s";
        row(
            "(a) the function alone, 1 connection",
            rate(self.function_1_connection_per_s),
            per_s,
            String::new(),
        );
        row(
            "    … 2 connections",
            rate(self.function_2_connections_per_s),
            per_s,
            String::new(),
        );
        row(
            "(b) backlog, end to end",
            rate(self.backlog_per_s),
            per_s,
            format!("{:.2} of (a)", self.backlog_to_function),
        );
        row(
            "(c) … of one company",
            rate(self.one_company_per_s),
            per_s,
            format!("{:.2} of (b)", self.one_company_to_backlog),
        );
        row(
            "(d) … one message a transaction",
            rate(self.one_by_one_per_s),
            per_s,
            format!("(b) is {:.1} times that", self.backlog_to_one_by_one),
        );
        row(
            "(e) publish to committed at 500 events/s, median",
            ms(self.latency_p50_ms),
            "ms",
            String::new(),
        );
        row(
            "    … 99 of 100 within",
            ms(self.latency_p99_ms),
            "ms",
            String::new(),
        );
        row(
            "    … longest",
            ms(self.latency_max_ms),
            "ms",
            String::new(),
        );
        row(
            "(f) peak memory during (b)",
            ms(self.peak_memory_mib),
            "MiB",
            "resident, publisher included".to_owned(),
        );
        format!(
            "{} events over {} companies, half of them with a row in article_jobs\n{}",
            thousands(self.events),
            thousands(self.companies),
            table.render()
        )
    }
}

/// Linux: the high-water mark starts again from the present size.
fn forget_peak_memory() {
    // Where that isn't possible the figure is that of the whole run so far, which is no smaller.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

fn peak_memory_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}
