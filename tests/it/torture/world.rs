//! What all the torturers share: one installation, its companies and jobs, and what each was told.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{dice::Dice, servers::PrivateServers, site::Site};

/// Few, so that they are fought over.
const COMPANIES: u64 = 12;
/// Jobs whose rows are there before anybody asks for them.
pub(super) const JOBS_AHEAD: u64 = 400;

pub(super) struct World {
    // Before the servers, since it cleans up on them.
    pub(super) site: Site,
    pub(super) servers: PrivateServers,
    pub(super) stop: CancellationToken,
    pub(super) told: Mutex<Told>,
    run: u64,
    newest: AtomicU64,
    /// How much was done by everybody: the clock of those who wait.
    steps: watch::Sender<u64>,
}

/// What somebody was told and may rely on from then on.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The broker confirmed a message with this body.
    pub(super) published: HashMap<String, Request>,
    /// A call answered that it is charged.
    pub(super) charged: Vec<Request>,
    /// A call answered that it was given back.
    pub(super) refunded: HashSet<Uuid>,
    /// A call answered that it was credited, under this key.
    pub(super) credited: HashSet<String>,
    /// Somebody has asked for it to be recorded as pending, past the worker.
    pub(super) marked: HashSet<Uuid>,
}

/// One charge as somebody asks for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub(super) job: Uuid,
    /// `None`: the job's row is to say.
    pub(super) company: Option<Uuid>,
    pub(super) article: Option<Uuid>,
    pub(super) amount: i64,
}

impl World {
    pub(super) async fn create(run: u64) -> Self {
        let servers = PrivateServers::start("torture").await;
        let mut site = Site::on(servers.servers()).await;
        for (setting, value) in [
            ("DATABASE__LOCK_TIMEOUT", "200ms"),
            ("DATABASE__MAX_CONNECTIONS", "5"),
            ("WORKER__LANES", "2"),
            ("ARCHIVIST__RESOLVE_INTERVAL", "300ms"),
            ("RETRY__BASE", "100ms"),
            ("RECONNECT__INITIAL", "10ms"),
            ("RECONNECT__MAX", "200ms"),
            ("SWEEPER__INTERVAL", "1s"),
            ("SWEEPER__STALE_AFTER", "1s"),
            ("SWEEPER__CLAIM", "1s"),
            // A killed process counts a delivery for all that it had in flight.
            ("BROKER__DELIVERY_LIMIT", "1000"),
        ] {
            site.set(setting, value);
        }
        site.declare().await;
        Self {
            site,
            servers,
            stop: CancellationToken::new(),
            told: Mutex::default(),
            run,
            newest: AtomicU64::new(100),
            steps: watch::Sender::new(0),
        }
    }

    pub(super) fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().expect("no panic while it is held")
    }

    /// Somebody has done something, well or not.
    pub(super) fn step(&self) {
        self.steps.send_modify(|steps| *steps += 1);
    }

    /// Waits until so much more was done by the others, or the load ends.
    pub(super) async fn after(&self, steps: u64) {
        let mut done = self.steps.subscribe();
        let enough = *done.borrow() + steps;
        tokio::select! {
            () = self.stop.cancelled() => {}
            reached = done.wait_for(|&steps| steps >= enough) => { reached.expect("it lives"); }
        }
    }

    pub(super) fn goes_on(&self) -> bool {
        !self.stop.is_cancelled()
    }

    pub(super) fn companies(&self) -> Vec<Uuid> {
        (0..COMPANIES).map(|number| self.company(number)).collect()
    }

    fn company(&self, number: u64) -> Uuid {
        Uuid::from_u64_pair(self.run ^ 1, number % COMPANIES)
    }

    pub(super) fn job(&self, number: u64) -> Uuid {
        Uuid::from_u64_pair(self.run ^ 2, number)
    }

    /// One job in seven names no article: whether it is pending can't be told.
    pub(super) fn article(&self, number: u64) -> Option<Uuid> {
        (!number.is_multiple_of(7)).then(|| Uuid::from_u64_pair(self.run ^ 3, number))
    }

    /// One article in five was never written.
    pub(super) fn is_written(number: u64) -> bool {
        !number.is_multiple_of(5)
    }

    pub(super) fn company_of(&self, number: u64) -> Uuid {
        self.company(number)
    }

    pub(super) fn newest(&self) -> u64 {
        self.newest.load(Ordering::Relaxed)
    }

    /// A new job, or one that others are at or were.
    fn number(&self, dice: &mut Dice) -> u64 {
        match dice.below(3) {
            0 => self.newest.fetch_add(1, Ordering::Relaxed),
            1 => self.newest() - dice.below(30),
            _ => self.newest() - dice.below(100),
        }
    }

    /// What each asks for is mostly the same for the same job, and now and then for another company, another
    /// amount, or more than anybody has.
    pub(super) fn request(&self, dice: &mut Dice) -> Request {
        let number = self.number(dice);
        let mut request = Request {
            job: self.job(number),
            company: Some(self.company(number)),
            article: self.article(number),
            amount: 1 + i64::try_from(number % 50).expect("small"),
        };
        match dice.below(25) {
            0 => {
                request.company = Some(self.company(number + 1));
                // Else it could stay pending for ever: the job's row is of another company.
                request.article = Some(Uuid::from_u64_pair(self.run ^ 3, number));
            }
            1 => request.amount += 1,
            2 => request.amount = 5_000_000,
            _ => {}
        }
        request
    }

    pub(super) fn requests(&self, dice: &mut Dice) -> Vec<Request> {
        (0..=dice.below(24)).map(|_| self.request(dice)).collect()
    }
}

impl Request {
    /// As it is published.
    pub(super) fn event(&self) -> Value {
        let mut event = json!({ "job_id": self.job, "tokens": self.amount });
        if let Some(company) = self.company {
            event["company_id"] = json!(company);
        }
        if let Some(article) = self.article {
            event["article_id"] = json!(article);
        }
        event
    }

    /// The job's id as one caller or the other may write it: all of these are one key.
    pub(super) fn spelled(&self, dice: &mut Dice) -> String {
        let id = self.job;
        match dice.below(12) {
            0 => id.to_string().to_uppercase(),
            1 => id.simple().to_string(),
            2 => id.braced().to_string(),
            3 => format!("  {id} "),
            4 => format!("{id}\n"),
            _ => id.to_string(),
        }
    }
}
