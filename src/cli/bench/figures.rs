//! All figures of one run, for programs and for people.

use serde::Serialize;

use super::{
    super::output::thousands,
    args::{BenchArgs, Keys},
    floor::{Floor, FloorFigures},
    holds::HoldsFigures,
    latency::{FloodFigures, LatencyFigures, LockedFigures},
    processes::ProcessesFigures,
    rate::{Rates, Ratio},
    reads::ReadsFigures,
    sheet::{Sheet, decimal},
    throughput::{Backlog, BacklogFigures, Function},
    upkeep::UpkeepFigures,
};

/// What wasn't measured is `null`.
#[derive(Debug, Default, Serialize)]
pub(super) struct Figures {
    pub(super) events: u32,
    pub(super) companies: u32,
    pub(super) rounds: u32,
    pub(super) keys: Keys,
    pub(super) floor: Option<FloorFigures>,
    pub(super) floor_of_one_company: Option<FloorFigures>,
    pub(super) function_1_connection: Option<Rates>,
    pub(super) function_2_connections: Option<Rates>,
    pub(super) backlog: Option<BacklogFigures>,
    pub(super) backlog_of_one_company: Option<BacklogFigures>,
    pub(super) backlog_with_one_locked: Option<BacklogFigures>,
    /// To the floor on one connection.
    pub(super) backlog_to_floor: Option<Ratio>,
    pub(super) one_company_to_backlog: Option<Ratio>,
    pub(super) one_locked_to_backlog: Option<Ratio>,
    pub(super) one_by_one: Option<BacklogFigures>,
    pub(super) latency: Option<LatencyFigures>,
    pub(super) locked: Option<LockedFigures>,
    pub(super) flood: Option<FloodFigures>,
    pub(super) processes: Option<ProcessesFigures>,
    pub(super) reads: Option<ReadsFigures>,
    pub(super) holds: Option<HoldsFigures>,
    pub(super) upkeep: Option<UpkeepFigures>,
    pub(super) records: Option<RecordsFigures>,
    pub(super) batch_sizes: Option<Vec<BatchSize>>,
}

/// A backlog on a ledger with so many records, and on one without.
#[derive(Debug, Serialize)]
pub(super) struct RecordsFigures {
    pub(super) records: u32,
    pub(super) with: Rates,
    pub(super) without: Rates,
    pub(super) with_to_without: Ratio,
}

/// A backlog in batches of at most so many.
#[derive(Debug, Serialize)]
pub(super) struct BatchSize {
    pub(super) batch_max: u16,
    #[serde(flatten)]
    pub(super) backlog: BacklogFigures,
}

impl Figures {
    pub(super) fn new(args: &BenchArgs) -> Self {
        Self {
            events: args.events,
            companies: args.companies,
            rounds: args.rounds,
            keys: args.keys,
            ..Self::default()
        }
    }

    /// Of those that took turns: each all that belong together, or none.
    pub(super) fn set_compared(
        &mut self,
        backlogs: &[Backlog],
        floors: &[Floor],
        functions: &[Function],
    ) {
        if let [floor, one_company] = floors {
            self.floor = Some(floor.figures());
            self.floor_of_one_company = Some(one_company.figures());
        }
        if let [one, two] = functions {
            self.function_1_connection = Some(one.rates());
            self.function_2_connections = Some(two.rates());
        }
        if let [backlog, one_company, one_locked] = backlogs {
            let backlog = backlog.figures();
            let (one_company, one_locked) = (one_company.figures(), one_locked.figures());
            let floor = self.floor.as_ref().map(|floor| &floor.floor.rates);
            self.backlog_to_floor = floor.map(|floor| backlog.rates.to(floor));
            self.one_company_to_backlog = Some(one_company.rates.to(&backlog.rates));
            self.one_locked_to_backlog = Some(one_locked.rates.to(&backlog.rates));
            self.backlog = Some(backlog);
            self.backlog_of_one_company = Some(one_company);
            self.backlog_with_one_locked = Some(one_locked);
        }
    }

    pub(super) fn for_people(&self) -> String {
        let mut sheet = Sheet::default();
        sheet.say(&format!(
            "{} events over {} companies, half of them with a row in article_jobs; {} rounds",
            thousands(self.events),
            thousands(self.companies),
            self.rounds
        ));
        self.floors(&mut sheet);
        self.throughput(&mut sheet);
        self.latencies(&mut sheet);
        self.processes(&mut sheet);
        self.rest(&mut sheet);
        sheet.text()
    }

    fn floors(&self, sheet: &mut Sheet) {
        let floors = [
            ("many companies", &self.floor),
            ("one company", &self.floor_of_one_company),
        ];
        for (name, floor) in floors {
            let Some(floor) = floor else { continue };
            sheet.begin(&format!(
                "Floor, {name}: the same rows, no question asked; batch by batch in turn, 1 connection each"
            ));
            sheet.side("charge_events", &floor.function);
            sheet.side("the floor", &floor.floor);
            sheet.comparison("charge_events to the floor", &floor.function_to_floor);
        }
        if let Some(figures) = &self.holds {
            sheet.begin(
                "charge_events while tokens are held; batch by batch in turn, 1 connection each",
            );
            sheet.side("each event's job has a hold", &figures.with);
            sheet.side("nothing is held", &figures.without);
            sheet.comparison("… with to without", &figures.with_to_without);
        }
    }

    fn throughput(&self, sheet: &mut Sheet) {
        let figures = [
            (
                "(a) the function alone, 1 connection",
                &self.function_1_connection,
            ),
            ("    … 2 connections", &self.function_2_connections),
        ];
        if figures.iter().any(|(_, rates)| rates.is_some()) || self.backlog.is_some() {
            sheet.begin("Throughput");
        }
        for (name, rates) in figures {
            if let Some(rates) = rates {
                sheet.rates(name, rates);
            }
        }
        self.backlogs(sheet);
    }

    fn backlogs(&self, sheet: &mut Sheet) {
        let backlogs = [
            (
                "(b) backlog, end to end",
                &self.backlog,
                &self.backlog_to_floor,
                "of the floor",
            ),
            (
                "(c) … of one company",
                &self.backlog_of_one_company,
                &self.one_company_to_backlog,
                "of (b)",
            ),
            (
                "    … one company locked: the others",
                &self.backlog_with_one_locked,
                &self.one_locked_to_backlog,
                "of (b)",
            ),
            (
                "(d) … one message a transaction",
                &self.one_by_one,
                &None,
                "",
            ),
        ];
        for (name, backlog, ratio, of) in backlogs {
            let Some(backlog) = backlog else { continue };
            sheet.rates(name, &backlog.rates);
            if let Some(ratio) = ratio {
                sheet.ratio(&format!("    … {of}"), ratio);
            }
            if !name.starts_with("(d)") {
                let acks = format!("{} messages/ack", decimal(backlog.messages_per_ack));
                sheet.row(
                    "    … in batches of",
                    &decimal(backlog.events_per_batch),
                    "events",
                    &acks,
                );
            }
        }
        let peak = self
            .backlog
            .as_ref()
            .and_then(|backlog| backlog.peak_memory_mib);
        if let Some(mib) = peak {
            sheet.row(
                "(f) peak memory during (b)",
                &decimal(mib),
                "MiB",
                "publisher included",
            );
        }
    }

    fn latencies(&self, sheet: &mut Sheet) {
        if let Some(figures) = &self.latency {
            sheet.begin("Latency, publish to committed");
            sheet.latency("(e) at 500 events/s", &figures.latency);
            sheet.row(
                "the disk's own fsync: median",
                &decimal(figures.fsync_p50_ms),
                "ms",
                "",
            );
            sheet.row(
                "… 99 of 100 within",
                &decimal(figures.fsync_p99_ms),
                "ms",
                "",
            );
        }
        if let Some(figures) = &self.locked {
            let companies = figures.companies;
            sheet.begin(&format!(
                "Locked all the time, of {companies} companies at 500 events/s: the others' latency"
            ));
            sheet.latency("1 locked", &figures.locked_1);
            sheet.latency("10 locked", &figures.locked_10);
        }
        if let Some(figures) = &self.flood {
            let events = thousands(i64::try_from(figures.events).unwrap_or(i64::MAX));
            sheet.begin(&format!(
                "Flood: one company has {events} events at once, 100 others 1 event/s each"
            ));
            sheet.row(
                "published within",
                &decimal(figures.published_within_seconds),
                "s",
                "",
            );
            sheet.row(
                "drained within",
                &decimal(figures.drained_within_seconds),
                "s",
                "",
            );
            sheet.latency("the others", &figures.others);
        }
    }

    fn processes(&self, sheet: &mut Sheet) {
        if let Some(figures) = &self.processes {
            sheet.begin(&format!(
                "Processes on one queue, {} lanes in sum",
                figures.lanes
            ));
            sheet.rates("one process", &figures.one);
            sheet.rates("two processes", &figures.two);
            sheet.ratio("… of the one", &figures.two_to_one);
            if let Some(mib) = figures.peak_memory_mib {
                sheet.row(
                    "peak memory of the one",
                    &decimal(mib),
                    "MiB",
                    "serve --role worker",
                );
            }
        }
        if let Some(figures) = &self.reads {
            let asked = thousands(figures.reads_asked_per_s);
            sheet.begin(&format!(
                "Backlog beside {asked} balance reads/s over HTTP: serve --role worker --role http"
            ));
            sheet.rates("without reads", &figures.without);
            sheet.rates("with them", &figures.with);
            sheet.ratio("… of without", &figures.with_to_without);
            let per_s = thousands(figures.reads_per_s.round() as i64);
            sheet.row("reads answered", &per_s, "reads/s", "");
            sheet.latency("a read", &figures.latency);
            if let Some(busy) = figures.generator_processors {
                let busy = format!("{busy:.2}");
                sheet.row("the reading itself keeps busy", &busy, "processors", "");
            }
        }
    }

    fn rest(&self, sheet: &mut Sheet) {
        if let Some(figures) = &self.upkeep {
            sheet.begin(&format!(
                "Upkeep, {} of each",
                thousands(figures.each as i64)
            ));
            let per_s = |value: f64| thousands(value.round() as i64);
            for (name, value, unit) in [
                (
                    "archive",
                    figures.archived_dead_letters_per_s,
                    "dead letters/s",
                ),
                (
                    "replay, until all are charged",
                    figures.replayed_dead_letters_per_s,
                    "dead letters/s",
                ),
                ("sweep", figures.swept_records_per_s, "pending records/s"),
                ("audit", figures.audited_records_per_s, "records/s"),
            ] {
                sheet.row(name, &per_s(value), unit, "");
            }
        }
        if let Some(figures) = &self.records {
            sheet.begin(&format!(
                "Backlog on a ledger with {} records",
                thousands(figures.records)
            ));
            sheet.rates("without them", &figures.without);
            sheet.rates("with them", &figures.with);
            sheet.ratio("… of without", &figures.with_to_without);
        }
        if let Some(sizes) = &self.batch_sizes {
            sheet.begin("Backlog, by batch_max");
            for size in sizes {
                sheet.rates(&thousands(size.batch_max), &size.backlog.rates);
            }
        }
    }
}
