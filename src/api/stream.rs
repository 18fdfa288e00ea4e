//! What happens, as it happens: server-sent events.
//!
//! One task of the process asks, however many listen, and ends with the last of them. A listener that is too slow is
//! let go: it comes back with `Last-Event-ID`, and is told what it missed.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::sse::{Event, KeepAlive, Sse},
};
use futures_util::{Stream, StreamExt as _, stream};
use serde::Serialize;
use tokio::sync::broadcast::{self, error::RecvError};
use uuid::Uuid;

use super::{Api, gate::Caller, problem::Problem};
use crate::{
    operations::{
        OperationError,
        dead_letters::{Arrivals, MISSED, News},
        replay::{ReplayProgress, RunningReplay},
    },
    storage::{DeadLetter, OpenByReason, Selection},
};

/// Between two looks at what can only be asked.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// What a listener may be behind.
const BEHIND: usize = 1024;
/// To a listener who is told nothing, so that proxies don't hang up.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

type Tell = broadcast::Sender<Arc<Told>>;

/// What listeners are told.
#[derive(Debug)]
enum Told {
    Arrived(Box<DeadLetter>),
    Counts(Vec<OpenByReason>),
    Replay(Box<ReplayProgress>),
    /// The database can't be asked for dead letters; later they are all told.
    Away,
}

/// The task that asks, while anybody listens, and how many listen with each key.
#[derive(Default)]
pub(super) struct Feed {
    asking: tokio::sync::Mutex<Option<Tell>>,
    listeners: Arc<Mutex<HashMap<Uuid, u32>>>,
}

/// A listener's place among those of its key.
struct Place {
    listeners: Arc<Mutex<HashMap<Uuid, u32>>>,
    key: Uuid,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = listeners.get_mut(&self.key) {
            *number -= 1;
            if *number == 0 {
                listeners.remove(&self.key);
            }
        }
    }
}

impl Feed {
    fn place(&self, key: Uuid, most: u32) -> Result<Place, Problem> {
        let mut listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let number = listeners.entry(key).or_default();
        if *number >= most {
            let detail = format!("{most} streams are open with this key already");
            let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_streams", detail);
            return Err(problem.retry_after(KEEP_ALIVE));
        }
        *number += 1;
        let listeners = self.listeners.clone();
        Ok(Place { listeners, key })
    }

    /// From the moment when this returns.
    async fn listen(&self, api: &Api) -> Result<broadcast::Receiver<Arc<Told>>, OperationError> {
        let mut asking = self.asking.lock().await;
        if let Some(tell) = &*asking {
            return Ok(tell.subscribe());
        }
        let all = Selection::default();
        let arrivals = api.operations.watch_dead_letters(&all, 0).await?;
        let (tell, told) = broadcast::channel(BEHIND);
        *asking = Some(tell.clone());
        let api = api.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = tell_arrivals(arrivals, &tell) => {}
                () = look(&api, &tell) => {}
            }
        });
        Ok(told)
    }

    /// Whether nobody listens any more; then whoever comes starts another task.
    async fn is_over(&self, tell: &Tell) -> bool {
        let mut asking = self.asking.lock().await;
        let is_over = tell.receiver_count() == 0;
        if is_over {
            *asking = None;
        }
        is_over
    }
}

async fn tell_arrivals(mut arrivals: Arrivals, tell: &Tell) {
    loop {
        match arrivals.next().await {
            News::Arrived(arrived) => {
                for dead_letter in arrived {
                    let _ = tell.send(Arc::new(Told::Arrived(dead_letter.into())));
                }
            }
            News::Away(_) => {
                let _ = tell.send(Arc::new(Told::Away));
            }
        }
    }
}

/// At what can only be asked, until nobody listens.
async fn look(api: &Api, tell: &Tell) {
    let mut every = tokio::time::interval(LOOK_EVERY);
    let mut replays: HashMap<i64, RunningReplay> = HashMap::new();
    loop {
        every.tick().await;
        if api.feed.is_over(tell).await {
            return;
        }
        if let Ok(counts) = api.operations.open_dead_letters().await {
            let _ = tell.send(Arc::new(Told::Counts(counts)));
        }
        let running = api.operations.running_replays().into_iter();
        replays.extend(running.map(|replay| (replay.action_id, replay)));
        // Of one that is over the report, once.
        replays.retain(|_, replay| {
            let progress = replay.progress.borrow().clone();
            let goes_on = progress.report.is_none() && replay.progress.has_changed().is_ok();
            let _ = tell.send(Arc::new(Told::Replay(progress.into())));
            goes_on
        });
    }
}

/// What happens, as it happens
///
/// Server-sent events: `dead_letter` (one arrived; its `id:` is what `Last-Event-ID` takes up again), `counts` (how many
/// are open, by reason, every two seconds), `replay` (how far one of this process is), `away` (the database can't be
/// asked).
#[utoipa::path(
    get,
    path = "/v1/stream",
    tag = "dead letters",
    params(("Last-Event-ID" = Option<i64>, Header, description = "What was told last: goes on behind it")),
    responses((status = 200, description = "Does not end by itself", body = String, content_type = "text/event-stream"))
)]
pub(super) async fn stream(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let last = match headers.get("last-event-id") {
        None => None,
        Some(id) => {
            let id = id
                .to_str()
                .ok()
                .and_then(|id| id.trim().parse::<i64>().ok());
            let no_number = || {
                let why = "is not a number that this stream has told";
                Problem::invalid(StatusCode::BAD_REQUEST, "Last-Event-ID", why)
            };
            Some(id.ok_or_else(no_number)?)
        }
    };
    let most = api.settings.http.streams_per_key;
    let place = api.feed.place(caller.key.key.id, most)?;
    // Before the look at what was missed, so that nothing falls between the two.
    let live = api.feed.listen(&api).await?;
    let missed = match last {
        Some(last) => api.operations.dead_letters_since(last).await?,
        None => Vec::new(),
    };
    let is_all = (missed.len() as i64) < MISSED;
    let told_last = missed.last().map_or(last, |last| Some(last.last_arrival));
    let missed = missed.into_iter().map(|one| Told::Arrived(one.into()));
    let missed: Vec<Event> = missed.filter_map(|told| told.event().ok()).collect();
    let live = stream::unfold((live, place), move |(mut live, place)| async move {
        loop {
            match live.recv().await {
                Ok(told) if told.is_news_after(told_last) => {
                    let event = told.event().ok()?;
                    return Some((event, (live, place)));
                }
                Ok(_) => {}
                // It comes back and is told what it missed.
                Err(RecvError::Lagged(_) | RecvError::Closed) => return None,
            }
        }
    });
    // Whoever missed very much comes back for the rest.
    let live = stream::iter(is_all.then_some(live)).flatten();
    let events = stream::iter(missed).chain(live).map(Ok);
    let key = caller.key.key.id;
    let events = events.take_until(async move {
        tokio::select! {
            () = api.stop.cancelled() => {}
            () = api.keyring.revoked(key) => {}
        }
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

impl Told {
    fn is_news_after(&self, last: Option<i64>) -> bool {
        match (self, last) {
            (Self::Arrived(dead_letter), Some(last)) => dead_letter.last_arrival > last,
            _ => true,
        }
    }

    fn event(&self) -> Result<Event, axum::Error> {
        #[derive(Serialize)]
        struct Counts<'a> {
            open: i64,
            by_reason: &'a [OpenByReason],
        }
        match self {
            Self::Arrived(dead_letter) => Event::default()
                .event("dead_letter")
                .id(dead_letter.last_arrival.to_string())
                .json_data(dead_letter),
            Self::Counts(by_reason) => {
                let open = by_reason.iter().map(|one| one.open).sum();
                let counts = Counts { open, by_reason };
                Event::default().event("counts").json_data(counts)
            }
            Self::Replay(progress) => Event::default().event("replay").json_data(progress),
            Self::Away => Ok(Event::default().event("away").data("{}")),
        }
    }
}
