//! A backlog charged by a process that also answers balance reads over HTTP, and the same without reads.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::http1::{SendRequest, handshake},
    header::{AUTHORIZATION, HOST},
};
use hyper_util::rt::TokioIo;
use metrics::HistogramFn as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, interval_at},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    super::output::note,
    children::{Children, PATIENCE},
    lab::{Bench, Lab},
    lag::Lag,
    latency::Latency,
    rate::{Rate, Rates, Ratio},
    throughput::per_second,
    workload::Workload,
};
use crate::{
    config::Settings,
    operations::{Actor, Operations, Scope},
};

/// Reads a second, evenly spaced over all connections.
const READS_PER_S: u32 = 2000;
/// They are kept open.
const CONNECTIONS: u32 = 16;
/// Events of a round at least: the first are charged before the reads are under way.
const EVENTS_MIN: usize = 20_000;

#[derive(Debug, Clone, Serialize)]
pub(super) struct ReadsFigures {
    pub(super) reads_asked_per_s: u32,
    /// Answered while events were charged.
    pub(super) reads_per_s: f64,
    pub(super) rounds_reads_per_s: Vec<f64>,
    /// Of a read, from when it was due until it was answered.
    pub(super) latency: Latency,
    pub(super) with: Rates,
    pub(super) without: Rates,
    pub(super) with_to_without: Ratio,
    /// Linux: processors that this process kept busy meanwhile, so that the measured ones did not have them.
    pub(super) generator_processors: Option<f64>,
}

pub(super) async fn reads(bench: &Bench, workload: &Workload) -> anyhow::Result<ReadsFigures> {
    let rounds = bench.args.rounds as usize;
    let events = workload.events().max(EVENTS_MIN * rounds);
    let workload = Workload {
        numbers: 0..events,
        ..workload.clone()
    };
    let mut without = Charging::open(bench, &workload).await?;
    let mut with = Charging::open(bench, &workload).await?;
    with.reads_per_s = Some(READS_PER_S);
    for round in 0..rounds {
        bench.announce(round);
        // Neither is always the one that comes first.
        let turns = match round % 2 {
            0 => [&mut without, &mut with],
            _ => [&mut with, &mut without],
        };
        for charging in turns {
            charging.round(round, rounds).await?;
        }
    }
    let (reads, busy) = (Rates::of(&with.reads), Rates::of(&with.busy));
    let latency = Latency::of(&with.lag);
    let (with, without) = (Rates::of(&with.rounds), Rates::of(&without.rounds));
    Ok(ReadsFigures {
        reads_asked_per_s: READS_PER_S,
        reads_per_s: reads.events_per_s,
        rounds_reads_per_s: reads.rounds_events_per_s,
        latency,
        with_to_without: with.to(&without),
        with,
        without,
        generator_processors: Some(busy.events_per_s / 1e6).filter(|busy| *busy > 0.0),
    })
}

/// A backlog before `serve --role worker --role http`.
struct Charging {
    lab: Arc<Lab>,
    settings: Settings,
    address: SocketAddr,
    token: SecretString,
    workload: Workload,
    reads_per_s: Option<u32>,
    lag: Arc<Lag>,
    rounds: Vec<Rate>,
    reads: Vec<Rate>,
    /// Microseconds of this process's CPU.
    busy: Vec<Rate>,
}

impl Charging {
    async fn open(bench: &Bench, workload: &Workload) -> anyhow::Result<Self> {
        let lab = bench.lab(&[workload]).await?;
        let operations = Operations::open(&lab.settings).await?;
        let actor = Actor::new("bench")?;
        let key = operations.add_api_key("bench", &[Scope::Read], None, &actor);
        let token = key.await?.token;
        operations.close().await;
        let address = free_address().await?;
        let mut settings = lab.settings.clone();
        settings.http.listen = Some(address);
        settings.http.base_path = "/".to_owned();
        // One key, and no limit.
        (settings.http.requests_per_second, settings.http.burst) = (1_000_000, 1_000_000);
        Ok(Self {
            lab,
            settings,
            address,
            token,
            workload: workload.clone(),
            reads_per_s: None,
            lag: Arc::default(),
            rounds: Vec::new(),
            reads: Vec::new(),
            busy: Vec::new(),
        })
    }

    async fn round(&mut self, round: usize, rounds: usize) -> anyhow::Result<()> {
        let part = self.workload.part(round, rounds);
        self.lab.publish(&part).await?;
        let before = self.lab.scratch.movements().await?;
        let mut children = Children::default();
        children.start(&self.settings, &["worker", "http"])?;
        drop(connect(self.address, &mut children).await?);
        let mut readers = Readers::default();
        if let Some(per_s) = self.reads_per_s {
            readers.start(self, per_s, &mut children).await?;
        }
        let (first, began) = children.movements(&self.lab, before + 1).await?;
        let (read_before, busy_before) = (readers.answered(), own_cpu_us());
        let events = i64::try_from(part.events())?;
        let (last, ended) = children.movements(&self.lab, before + events).await?;
        let (read, busy) = (readers.answered() - read_before, own_cpu_us() - busy_before);
        readers.stop().await?;
        children.stop().await?;
        let seconds = (ended - began).as_secs_f64();
        let rate = Rate::new(last - first, seconds);
        let (reads, figure) = (Rate::new(read, seconds), per_second(rate));
        note(&format!("  {:.0} reads/s beside: {figure}", reads.per_s()));
        self.rounds.push(rate);
        self.reads.push(reads);
        self.busy.push(Rate::new(busy, seconds));
        self.lab.check(part.events()).await
    }
}

/// Who reads, each on a connection of its own.
#[derive(Default)]
struct Readers {
    running: JoinSet<anyhow::Result<()>>,
    answered: Arc<AtomicU64>,
    stop: CancellationToken,
}

impl Readers {
    /// Returns when as many reads have been answered as there are connections.
    async fn start(
        &mut self,
        charging: &Charging,
        per_s: u32,
        children: &mut Children,
    ) -> anyhow::Result<()> {
        let mut readers = Vec::new();
        for number in 0..CONNECTIONS {
            readers.push(Reader {
                number: number as usize,
                connection: connect(charging.address, children).await?,
                host: charging.address.to_string(),
                authorization: format!("Bearer {}", charging.token.expose_secret()),
                workload: charging.workload.clone(),
                lag: charging.lag.clone(),
                answered: self.answered.clone(),
            });
        }
        let (began, every) = (Instant::now(), Duration::from_secs(1) / per_s);
        for (reader, number) in readers.into_iter().zip(0..) {
            let (first, every) = (began + every * number, every * CONNECTIONS);
            let stop = self.stop.clone();
            let reading = async move {
                let read = reader.read(first, every);
                stop.run_until_cancelled(read).await.unwrap_or(Ok(()))
            };
            self.running.spawn(reading);
        }
        let mut look = interval(Duration::from_millis(1));
        while self.answered() < u64::from(CONNECTIONS) {
            look.tick().await;
            ensure!(began.elapsed() < PATIENCE, "no balance was answered");
            if let Some(ended) = self.running.try_join_next() {
                ended??;
            }
        }
        Ok(())
    }

    fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.running.join_next().await {
            ended??;
        }
        Ok(())
    }
}

struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    /// What moves the bytes.
    _driver: AbortOnDropHandle<hyper::Result<()>>,
}

struct Reader {
    number: usize,
    connection: Connection,
    host: String,
    authorization: String,
    workload: Workload,
    lag: Arc<Lag>,
    answered: Arc<AtomicU64>,
}

impl Reader {
    /// One balance after the other, each when it is due; if the answers are late, those that were missed at once.
    async fn read(mut self, first: Instant, every: Duration) -> anyhow::Result<()> {
        let mut due = interval_at(first, every);
        due.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let sender = &mut self.connection.sender;
        for number in (self.number..).step_by(CONNECTIONS as usize) {
            let company = self.workload.company(number % self.workload.companies);
            let request = Request::get(format!("/v1/companies/{company}/balance"))
                .header(HOST, &self.host)
                .header(AUTHORIZATION, &self.authorization)
                .body(Empty::new())?;
            let due = due.tick().await;
            sender.ready().await?;
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            answer.into_body().collect().await?;
            ensure!(status == StatusCode::OK, "a balance was answered {status}");
            self.lag.record(due.elapsed().as_secs_f64());
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// As soon as it listens.
async fn connect(address: SocketAddr, children: &mut Children) -> anyhow::Result<Connection> {
    let mut look = interval(Duration::from_millis(1));
    let began = Instant::now();
    let stream = loop {
        look.tick().await;
        match TcpStream::connect(address).await {
            Ok(stream) => break stream,
            Err(error) if began.elapsed() > PATIENCE => {
                return Err(error).with_context(|| format!("connecting to {address}"));
            }
            Err(_) => children.check()?,
        }
    };
    stream.set_nodelay(true)?;
    let (sender, driver) = handshake(TokioIo::new(stream)).await?;
    Ok(Connection {
        sender,
        _driver: AbortOnDropHandle::new(tokio::spawn(driver)),
    })
}

/// Of a port that nobody listens on now.
async fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    Ok(listener.local_addr()?)
}

/// Linux: what the threads of this process have used, in microseconds; 0 where that isn't known.
fn own_cpu_us() -> u64 {
    let Ok(threads) = fs::read_dir("/proc/self/task") else {
        return 0;
    };
    let used_ns = threads.filter_map(|thread| {
        let times = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        times.split(' ').next()?.parse::<u64>().ok()
    });
    used_ns.sum::<u64>() / 1000
}
