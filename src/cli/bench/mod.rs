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
    output::{Format, note, thousands},
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
struct Figures {
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
    let figures = tokio::select! {
        figures = measure_all(settings, &args) => figures?,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted; scratch data named token_billing_bench_* may be left"),
    };
    output.print(&figures, Figures::for_people)?;
    Ok(Ended::Done)
}

async fn measure_all(settings: &Settings, args: &BenchArgs) -> anyhow::Result<Figures> {
    let of = |events: u32, companies: u32| Workload {
        events: events as usize,
        companies: companies as usize,
    };
    let spread = of(args.events, args.companies);
    let single = of(args.events, 1);
    let few = of((args.events / 20).max(1000), args.companies);
    let steady = of(args.steady * STEADY_RATE, args.companies);

    let work = async |lab: &Lab| lab.function(spread, 1).await;
    let function_1 = rate(settings, "function alone, 1 connection", spread, work).await?;
    // Beside the workers, a second connection of the pool must not be the limit.
    let work = async |lab: &Lab| lab.function(spread, 2).await;
    let function_2 = rate(settings, "function alone, 2 connections", spread, work).await?;
    let work = async |lab: &Lab| {
        forget_peak_memory();
        lab.backlog(spread, None).await
    };
    let backlog = rate(settings, "backlog, end to end", spread, work).await?;
    let peak_memory_mib = peak_memory_mib().unwrap_or(f64::NAN);
    let work = async |lab: &Lab| lab.backlog(single, None).await;
    let one_company = rate(settings, "backlog of one company", single, work).await?;
    let work = async |lab: &Lab| lab.backlog(few, Some(1)).await;
    let one_by_one = rate(settings, "one message a transaction", few, work).await?;
    let work = async |lab: &Lab| lab.steady(steady, STEADY_RATE).await;
    let latency: Latency = in_lab(settings, "steady traffic", steady, work).await?;

    Ok(Figures {
        events: args.events,
        companies: args.companies,
        function_1_connection_per_s: function_1,
        function_2_connections_per_s: function_2,
        backlog_per_s: backlog,
        one_company_per_s: one_company,
        one_by_one_per_s: one_by_one,
        latency_p50_ms: latency.p50.as_secs_f64() * 1e3,
        latency_p99_ms: latency.p99.as_secs_f64() * 1e3,
        latency_max_ms: latency.max.as_secs_f64() * 1e3,
        peak_memory_mib,
        backlog_to_function: backlog / function_1.max(function_2),
        one_company_to_backlog: one_company / backlog,
        backlog_to_one_by_one: backlog / one_by_one,
    })
}

/// Events a second.
async fn rate(
    settings: &Settings,
    what: &str,
    workload: Workload,
    measurement: impl AsyncFnOnce(&Lab) -> anyhow::Result<Rate>,
) -> anyhow::Result<f64> {
    let rate = in_lab(settings, what, workload, measurement).await?;
    note(&format!(
        "  {:.0} events/s ({} in {:.1} s)",
        rate.per_second(),
        rate.events,
        rate.seconds
    ));
    Ok(rate.per_second())
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

impl Figures {
    fn for_people(&self) -> String {
        let rate = |value: f64| format!("{:>9} events/s", thousands(value.round() as i64));
        format!(
            "{} events over {} companies, half of them with a row in article_jobs\n\n\
             (a) the function alone, 1 connection             {}\n    \
                 … 2 connections                              {}\n\
             (b) backlog, end to end                          {}  {:.2} of (a)\n\
             (c) … of one company                             {}  {:.2} of (b)\n\
             (d) … one message a transaction                  {}  (b) is {:.1} times that\n\
             (e) publish to committed at 500 events/s, median {:>9.1} ms\n    \
                 … 99 of 100 within                           {:>9.1} ms\n    \
                 … longest                                    {:>9.1} ms\n\
             (f) peak memory during (b)                       {:>9.1} MiB, resident, publisher included",
            thousands(self.events),
            thousands(self.companies),
            rate(self.function_1_connection_per_s),
            rate(self.function_2_connections_per_s),
            rate(self.backlog_per_s),
            self.backlog_to_function,
            rate(self.one_company_per_s),
            self.one_company_to_backlog,
            rate(self.one_by_one_per_s),
            self.backlog_to_one_by_one,
            self.latency_p50_ms,
            self.latency_p99_ms,
            self.latency_max_ms,
            self.peak_memory_mib,
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
