//! Takes messages from one channel to their lanes, and acks what these have processed.
//!
//! If the process dies, whatever isn't acked is delivered again, processed or not: what is committed answers with its
//! first result.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{Consuming, Lanes, NotAcked, Report, Requeue, window::Window};
use crate::broker::{Ack, Consumer, Delivered, SingleFile};

/// What is processed is acked at the latest after this: should the process die, it comes again.
const ACK_WITHIN: Duration = Duration::from_millis(200);

pub(super) struct Reader {
    consumer: Consumer,
    window: Window,
    reports: mpsc::UnboundedReceiver<Report>,
    /// When all that is processed is acked, however little it is. `None`: nothing waits for its ack.
    ack_at: Option<Instant>,
    progressed: Arc<AtomicBool>,
    acks: Arc<AtomicU64>,
}

impl Reader {
    pub(super) fn new(
        consumer: Consumer,
        prefetch: u16,
        reports: mpsc::UnboundedReceiver<Report>,
        of: &Consuming,
    ) -> Self {
        Self {
            consumer,
            window: Window::new(prefetch),
            reports,
            ack_at: None,
            progressed: of.progressed.clone(),
            acks: of.acks.clone(),
        }
    }

    /// Lets messages come.
    pub(super) async fn start(&mut self) -> Result<(), NotAcked> {
        Ok(self.consumer.start().await?)
    }

    /// Reads until `stop`, or until a lane ends.
    pub(super) async fn read(
        &mut self,
        lanes: &mut Lanes,
        stop: &CancellationToken,
    ) -> Result<(), NotAcked> {
        loop {
            let ack_at = self.ack_at;
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    // What is here already is finished too: sent back, each would come as one delivered before, and be
                    // taken one by one.
                    for message in self.consumer.cancel().await? {
                        self.feed(lanes, message);
                    }
                    return Ok(());
                }
                Some(report) = self.reports.recv() => {
                    self.note(report);
                    let acks = self.window.due();
                    self.ack(acks).await?;
                }
                ended = lanes.tasks.join_next() => return ended_early(ended),
                () = until(ack_at) => self.ack_all().await?,
                message = self.consumer.next() => {
                    self.feed(lanes, message?);
                    while let Some(message) = self.consumer.arrived() {
                        self.feed(lanes, message?);
                    }
                }
            }
        }
    }

    /// Takes each message of the file when the one before is processed, or set aside.
    pub(super) async fn one_by_one(
        &mut self,
        file: &mut SingleFile,
        lanes: &mut Lanes,
        stop: &CancellationToken,
    ) -> Result<(), NotAcked> {
        while let Some(message) = file.next(&self.consumer, stop).await? {
            let tag = message.tag;
            self.feed(lanes, message);
            loop {
                let seen = tokio::select! {
                    biased;
                    Some(report) = self.reports.recv() => self.note(report),
                    ended = lanes.tasks.join_next() => return ended_early(ended),
                };
                // At once, whatever waits: if the next one is what kills, it counts a delivery for itself alone.
                self.ack_all().await?;
                if seen.contains(&tag) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// No more messages: waits for the lanes to end, and acks what they have processed. After `patience` they begin
    /// nothing more.
    pub(super) async fn finish(
        mut self,
        lanes: Lanes,
        ending: &CancellationToken,
        patience: Duration,
    ) -> Result<(), NotAcked> {
        let Lanes { feed, mut tasks } = lanes;
        drop(feed);
        let mut ended = Ok(());
        let until_no_more = sleep(patience);
        tokio::pin!(until_no_more);
        loop {
            let step = tokio::select! {
                biased;
                Some(report) = self.reports.recv() => {
                    self.note(report);
                    ControlFlow::Continue(())
                }
                task = tasks.join_next() => match task {
                    None => ControlFlow::Break(()),
                    task => {
                        ended = ended.and(ended_early(task));
                        ControlFlow::Continue(())
                    }
                },
                () = &mut until_no_more, if !ending.is_cancelled() => {
                    ending.cancel();
                    ControlFlow::Continue(())
                }
            };
            if step.is_break() {
                break;
            }
        }
        while let Ok(report) = self.reports.try_recv() {
            self.note(report);
        }
        let acked = self.ack_all().await;
        // What the lanes had not begun goes back to the queue.
        self.consumer.close().await;
        ended.and(acked)
    }

    fn feed(&mut self, lanes: &mut Lanes, message: Delivered) {
        self.window.delivered(message.tag);
        (lanes.feed)(message);
    }

    /// The tags that it is about.
    fn note(&mut self, report: Report) -> Vec<u64> {
        match report {
            Report::Aside(tags) => {
                tags.iter().for_each(|&tag| self.window.aside(tag));
                tags
            }
            Report::Done(tags) => {
                tags.iter().for_each(|&tag| self.window.done(tag));
                self.progressed.store(true, Ordering::Relaxed);
                self.keep_time();
                tags
            }
        }
    }

    async fn ack_all(&mut self) -> Result<(), NotAcked> {
        let acks = self.window.all();
        self.ack(acks).await
    }

    async fn ack(&mut self, acks: Vec<Ack>) -> Result<(), NotAcked> {
        if !acks.is_empty() {
            self.acks.fetch_add(acks.len() as u64, Ordering::Relaxed);
            self.consumer.ack(acks).await?;
            self.ack_at = None;
            self.keep_time();
        }
        Ok(())
    }

    /// While something waits for its ack there is a time for it, and only then: a time that is over and acks nothing
    /// would come again and again, before any message.
    fn keep_time(&mut self) {
        if self.window.has_done() {
            self.ack_at.get_or_insert(Instant::now() + ACK_WITHIN);
        } else {
            self.ack_at = None;
        }
    }
}

/// A lane ends by itself only because it can't go on.
fn ended_early(
    ended: Option<Result<Result<(), Requeue>, tokio::task::JoinError>>,
) -> Result<(), NotAcked> {
    match ended {
        None | Some(Ok(Ok(()))) => Ok(()),
        Some(Ok(Err(requeue))) => Err(requeue.into()),
        Some(Err(panic)) => {
            tracing::error!(error.message = %panic, "a lane panicked");
            Err(Requeue.into())
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
