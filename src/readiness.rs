//! Whether this process does what it is for.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{sync::watch, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{
    archivist::{Backlog, Waiting},
    storage::{Storage, Trouble},
    telemetry::metrics::Metrics,
};

/// Between two looks at the database.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What readiness depends on; `None` where this process doesn't have the role.
#[derive(Debug)]
pub struct Signs {
    /// What is wrong with the database.
    pub database: watch::Receiver<Option<Trouble>>,
    /// The worker has consumers.
    pub charging: Option<watch::Receiver<bool>>,
    /// The archivist has one.
    pub archiving: Option<watch::Receiver<bool>>,
    /// What waits for the archivist.
    pub backlog: Option<watch::Receiver<Backlog>>,
    /// Why the broker takes no messages from the worker.
    pub alarm: Option<watch::Receiver<Option<String>>>,
    /// Of each role: why the queues can't be declared.
    pub refused: Vec<watch::Receiver<Option<Arc<str>>>>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unready {
    /// The database can't be worked with.
    Database(Trouble),
    /// The worker takes no events.
    Charging,
    /// The archivist takes no dead letters.
    Archiving,
    /// Dead letters wait.
    Backlog(Waiting),
    /// So many messages are where nobody consumes.
    Unreadable(u32),
    /// The broker takes no messages, in its words.
    Alarm(String),
    /// A queue is not as the settings would declare it; what to do.
    Refused(Arc<str>),
}

impl Unready {
    /// The part of this process that is not ready, as a label.
    fn part(&self) -> &'static str {
        match self {
            Self::Database(_) => "database",
            Self::Charging => "charging",
            Self::Archiving => "archiving",
            Self::Backlog(_) => "backlog",
            Self::Unreadable(_) => "unreadable",
            Self::Alarm(_) => "publishing",
            Self::Refused(_) => "queues",
        }
    }
}

impl fmt::Display for Unready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Database(Trouble::Away) => "the database is away",
            Self::Database(Trouble::ReadOnly) => "the database can only be read",
            Self::Database(Trouble::Full) => "the database has no connection, memory or disk left",
            Self::Database(Trouble::Unprepared(missing)) => {
                return write!(f, "the database is not ready for use: {missing}");
            }
            Self::Unreadable(count) => {
                return write!(
                    f,
                    "no client can read {count} in the queue ….unreadable: doctor says what to do"
                );
            }
            Self::Alarm(reason) => {
                return write!(
                    f,
                    "the broker takes no messages ({reason}): what must be delayed or dead-lettered waits"
                );
            }
            Self::Refused(why) => why,
            Self::Charging => "no events are being taken from the work queue",
            Self::Archiving => "no dead letters are being taken from their queue",
            Self::Backlog(Waiting::Stuck) => {
                "dead letters wait, and none was archived in archivist.backlog_max_age"
            }
            Self::Backlog(_) => "more dead letters than archivist.backlog_max wait to be archived",
        })
    }
}

/// All that is wrong; ready if there is nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Readiness(pub Vec<Unready>);

impl Readiness {
    /// Whether everything is as it should be.
    pub fn is_ready(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((first, others)) = self.0.split_first() else {
            return f.write_str("ready");
        };
        write!(f, "not ready: {first}")?;
        others.iter().try_for_each(|other| write!(f, "; {other}"))
    }
}

impl Signs {
    /// The parts that this process has.
    fn parts(&self) -> Vec<&'static str> {
        let parts = [
            ("database", true),
            ("charging", self.charging.is_some()),
            ("archiving", self.archiving.is_some()),
            ("backlog", self.backlog.is_some()),
            ("unreadable", self.backlog.is_some()),
            ("publishing", self.alarm.is_some()),
            ("queues", !self.refused.is_empty()),
        ];
        let parts = parts.into_iter().filter(|(_, is_here)| *is_here);
        parts.map(|(part, _)| part).collect()
    }

    fn read(&mut self) -> Readiness {
        let is = |sign: &mut Option<watch::Receiver<bool>>| {
            sign.as_mut().is_none_or(|sign| *sign.borrow_and_update())
        };
        let mut wrong = Vec::new();
        if let Some(trouble) = &*self.database.borrow_and_update() {
            wrong.push(Unready::Database(trouble.clone()));
        }
        if !is(&mut self.charging) {
            wrong.push(Unready::Charging);
        }
        if !is(&mut self.archiving) {
            wrong.push(Unready::Archiving);
        }
        if let Some(backlog) = &mut self.backlog {
            let backlog = *backlog.borrow_and_update();
            if backlog.waiting != Waiting::Short {
                wrong.push(Unready::Backlog(backlog.waiting));
            }
            if backlog.unreadable > 0 {
                wrong.push(Unready::Unreadable(backlog.unreadable));
            }
        }
        if let Some(alarm) = &mut self.alarm {
            wrong.extend(alarm.borrow_and_update().clone().map(Unready::Alarm));
        }
        for refused in &mut self.refused {
            let why = refused.borrow_and_update().clone().map(Unready::Refused);
            wrong.extend(why.filter(|why| !wrong.contains(why)));
        }
        Readiness(wrong)
    }

    async fn changed(&mut self) {
        tokio::select! {
            () = change(Some(&mut self.database)) => {}
            () = change(self.charging.as_mut()) => {}
            () = change(self.archiving.as_mut()) => {}
            () = change(self.backlog.as_mut()) => {}
            () = change(self.alarm.as_mut()) => {}
            () = any_change(&mut self.refused) => {}
        }
    }
}

/// The next change; never, where there is nothing that could change.
async fn change<T>(sign: Option<&mut watch::Receiver<T>>) {
    if let Some(sign) = sign
        && sign.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

async fn any_change<T>(signs: &mut [watch::Receiver<T>]) {
    let changes = signs.iter_mut().map(|sign| Box::pin(change(Some(sign))));
    let changes: Vec<_> = changes.collect();
    if changes.is_empty() {
        std::future::pending::<()>().await;
    }
    futures_util::future::select_all(changes).await;
}

/// Looks at the database from time to time until `stop`, so that the storage knows whether it is there also
/// while nobody has anything to ask it, or waits for a connection.
pub async fn watch_database(storage: &Storage, stop: &CancellationToken) {
    let mut every = tokio::time::interval(LOOK_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = every.tick() => {}
        }
        storage.wait_until_available(stop).await;
    }
}

/// Tells `told` and the metrics until `stop`, and the log, one line a change. While it starts, the log hears only of what is
/// worse than not having started yet.
pub async fn watch_readiness(
    mut signs: Signs,
    told: &watch::Sender<Readiness>,
    metrics: &Metrics,
    stop: &CancellationToken,
) {
    let mut known = signs.read();
    let mut starting = true;
    let parts = signs.parts();
    let tell = |known: &Readiness| {
        for part in &parts {
            let is_ready = known.0.iter().all(|wrong| wrong.part() != *part);
            metrics.ready(part, is_ready);
        }
        told.send_replace(known.clone());
    };
    let not_yet = |wrong: &Unready| matches!(wrong, Unready::Charging | Unready::Archiving);
    tell(&known);
    loop {
        let silent = starting && known.0.iter().all(not_yet);
        if known.is_ready() {
            starting = false;
            tracing::info!("ready");
        } else if !silent {
            tracing::warn!("{known}");
        }
        let mut now = known.clone();
        while now == known {
            tokio::select! {
                // Told to stop, that nothing is taken any more is no news.
                biased;
                () = stop.cancelled() => return,
                () = signs.changed() => now = signs.read(),
            }
        }
        known = now;
        tell(&known);
    }
}
