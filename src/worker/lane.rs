//! One lane: the events of some companies, a batch at a time, and beside it those that have to wait.
//!
//! No two lanes of a process have a company in common, so that no batch waits for another's lock, and the database
//! works for all of them at once.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::sync::mpsc;

use super::{
    Worker,
    in_flight::InFlight,
    room::{Ask, Processed, Room},
};
use crate::consuming::{Requeue, Session};

pub(super) struct Lane {
    worker: Arc<Worker>,
    session: Session,
    input: mpsc::UnboundedReceiver<InFlight>,
    /// Not begun, in the order in which they came.
    ready: VecDeque<InFlight>,
    room: Room,
    batch_max: usize,
}

/// What is being processed.
type Work = BoxFuture<'static, Result<Processed, Requeue>>;

impl Lane {
    pub(super) fn new(
        worker: &Arc<Worker>,
        session: Session,
        input: mpsc::UnboundedReceiver<InFlight>,
    ) -> Self {
        let batch_max = usize::from(worker.settings.worker.batch_max);
        let lock_timeout = worker.settings.database.lock_timeout;
        Self {
            room: Room::new(batch_max, lock_timeout, worker.waiting.clone()),
            worker: worker.clone(),
            session,
            input,
            ready: VecDeque::new(),
            batch_max,
        }
    }

    /// Until no more come and all is processed, but for what has to wait; or until something else ends the session.
    pub(super) async fn run(mut self) -> Result<(), Requeue> {
        let (mut batch, mut apart): (Option<Work>, Option<Work>) = (None, None);
        let (mut more, ending) = (true, self.session.ending.clone());
        loop {
            let goes_on = !ending.is_cancelled();
            if goes_on && batch.is_none() {
                batch = self.next_batch(more).map(|ask| self.process(ask));
            }
            if goes_on && more && apart.is_none() {
                apart = self.room.by_itself().map(|ask| self.process(ask));
            }
            if batch.is_none() && apart.is_none() && !(goes_on && more) {
                return Ok(());
            }
            let [with_batch, by_itself] = self.room.due();
            let with_batch = with_batch.filter(|_| batch.is_none());
            let by_itself = by_itself.filter(|_| apart.is_none());
            let due = with_batch.into_iter().chain(by_itself).min();
            tokio::select! {
                biased;
                processed = work(&mut batch) => {
                    batch = None;
                    self.answered(processed?);
                }
                processed = work(&mut apart) => {
                    apart = None;
                    self.answered(processed?);
                }
                message = self.input.recv(), if more && goes_on => match message {
                    Some(message) => self.ready.push_back(message),
                    None => more = false,
                },
                () = until(due), if goes_on && more => {}
                () = ending.cancelled(), if goes_on => {}
            }
        }
    }

    fn process(&self, ask: Ask) -> Work {
        let (worker, session) = (self.worker.clone(), self.session.clone());
        async move { worker.process(ask, &session).await }.boxed()
    }

    fn answered(&mut self, processed: Processed) {
        let still = processed.still.iter();
        let aside: Vec<u64> = still.map(|one| one.message.tag).collect();
        if !aside.is_empty() {
            self.session.aside(aside);
        }
        for message in self.room.answered(processed).into_iter().rev() {
            self.ready.push_front(message);
        }
    }

    /// Whatever has arrived, up to the limit, and who is to be asked about with it. A message that was delivered before
    /// comes alone: should it be what killed its worker, it drags nobody along.
    fn next_batch(&mut self, more: bool) -> Option<Ask> {
        while let Ok(message) = self.input.try_recv() {
            self.ready.push_back(message);
        }
        let mut ask = match more {
            true => self.room.with_batch(),
            false => Ask::default(),
        };
        let messages = &mut ask.messages;
        while messages.len() < self.batch_max
            && let Some(message) = self.ready.pop_front()
        {
            let tag = message.message.tag;
            let Some(message) = self.room.take(message) else {
                self.session.aside(vec![tag]);
                continue;
            };
            let alone = message.message.redelivered;
            if alone && !messages.is_empty() {
                self.ready.push_front(message);
                break;
            }
            messages.push(message);
            if alone {
                break;
            }
        }
        (!messages.is_empty()).then_some(ask)
    }
}

async fn work(work: &mut Option<Work>) -> Result<Processed, Requeue> {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
