//! Where events wait that nobody else is to wait for.
//!
//! A company whose row somebody else holds, or of whom the database refuses something, is asked about apart from all
//! others. Its events wait here, also those that come later, so that no batch meets it again.
//!
//! - At first, who was found locked is asked about again with the lane's batches and without waiting, a few times in a
//!   quarter of a second: mostly it was another process's batch, and is over.
//! - Who is still locked is asked about by himself, in turns, each time waiting a moment in the lock's queue: there one
//!   gets the lock even where somebody else takes it again and again.
//! - An event whose patience is over fails as any event does whose charge can't be made now: it goes through the delay
//!   queues. Never before it was asked about.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::in_flight::InFlight;

/// Tries with the lane's batches, before a group is asked about by itself.
const TRIES_TOGETHER: u32 = 5;
/// Between the first two of these; each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// A wait in a lock's queue, at most: meanwhile the others of this room wait.
const MOMENT: Duration = Duration::from_millis(50);
/// A group without events is forgotten after this.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(1);

/// Whom somebody locks again and again is told of once in this time.
const TOLD_AGAIN_AFTER: Duration = Duration::from_mins(1);

/// Who is asked about apart: a company, or a job (somebody holds its row, or the event leaves the company out).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Group {
    Company(Uuid),
    Job(Uuid),
}

/// Why an event has to wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wait {
    pub(super) group: Group,
    pub(super) since: Instant,
    /// Not known to be a row that is locked: whatever it is, it must not fail others with it.
    pub(super) by_itself: bool,
}

/// What to ask the ledger about.
#[derive(Default)]
pub(super) struct Ask {
    pub(super) messages: Vec<InFlight>,
    /// Those that wait here, and of which it asks.
    pub(super) groups: Vec<Group>,
    /// How long to wait for each company's lock; `None`: what is locked is answered as that.
    pub(super) lock_wait: Option<Duration>,
}

/// What came of an ask, beside what is done.
pub(super) struct Processed {
    /// It asked of these, which wait.
    pub(super) asked: Vec<Group>,
    /// These have to wait.
    pub(super) still: Vec<InFlight>,
    /// Of these the database refused something.
    pub(super) refused: Vec<Group>,
}

/// The events of one lane that wait.
pub(super) struct Room {
    groups: HashMap<Group, Apart>,
    /// When the log was told that these are locked.
    told: HashMap<Group, Instant>,
    batch_max: usize,
    lock_timeout: Duration,
    /// Events that wait in the rooms of all lanes.
    waiting: Arc<AtomicUsize>,
}

struct Apart {
    messages: VecDeque<InFlight>,
    /// Answers that it is locked, so far.
    tries: u32,
    by_itself: bool,
    /// Not asked about before.
    next: Instant,
    /// It is being asked about.
    asked: bool,
}

impl Room {
    pub(super) fn new(batch_max: usize, lock_timeout: Duration, waiting: Arc<AtomicUsize>) -> Self {
        Self {
            groups: HashMap::new(),
            told: HashMap::new(),
            batch_max,
            lock_timeout,
            waiting,
        }
    }

    /// Takes an event that has to wait behind others; gives back any other.
    pub(super) fn take(&mut self, mut message: InFlight) -> Option<InFlight> {
        if self.groups.is_empty() {
            return Some(message);
        }
        for group in message.groups().into_iter().flatten() {
            let Some(apart) = self.groups.get_mut(&group) else {
                continue;
            };
            if apart.is_forgotten() {
                self.groups.remove(&group);
                continue;
            }
            message.waits = Some(Wait {
                group,
                since: Instant::now(),
                by_itself: apart.by_itself,
            });
            apart.messages.push_back(message);
            self.waiting.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(message)
    }

    /// When there will be something to ask about: with a batch, by itself.
    pub(super) fn due(&self) -> [Option<Instant>; 2] {
        [false, true].map(|by_itself| {
            let waits = |apart: &&Apart| apart.waits() && apart.by_itself == by_itself;
            self.groups.values().filter(waits).map(|one| one.next).min()
        })
    }

    /// Those to be asked about with the next batch.
    pub(super) fn with_batch(&mut self) -> Ask {
        let now = Instant::now();
        let mut ask = Ask::default();
        for (group, apart) in &mut self.groups {
            let room = self.batch_max - ask.messages.len();
            if !apart.by_itself && apart.waits() && apart.next <= now && room > 0 {
                ask.messages.extend(apart.begin(room));
                ask.groups.push(*group);
            }
        }
        self.waiting
            .fetch_sub(ask.messages.len(), Ordering::Relaxed);
        ask
    }

    /// Whom to ask about by himself now.
    pub(super) fn by_itself(&mut self) -> Option<Ask> {
        let now = Instant::now();
        let due = |apart: &Apart| apart.by_itself && apart.waits() && apart.next <= now;
        let due = self.groups.iter_mut().filter(|(_, apart)| due(apart));
        let (group, apart) = due.min_by_key(|(_, apart)| apart.next)?;
        let messages: Vec<InFlight> = apart.begin(self.batch_max).collect();
        self.waiting.fetch_sub(messages.len(), Ordering::Relaxed);
        Some(Ask {
            messages,
            groups: vec![*group],
            lock_wait: Some(MOMENT.min(self.lock_timeout)),
        })
    }

    /// What was asked is answered: these have to wait, and of these groups the database refused something. Gives the
    /// events of all groups of which was asked and that need not be apart any more.
    pub(super) fn answered(&mut self, answer: Processed) -> Vec<InFlight> {
        let Processed {
            asked,
            still,
            refused,
        } = answer;
        let waits = |one: &InFlight| Some(one.waits?.group);
        let waits: Vec<Group> = still.iter().filter_map(waits).collect();
        self.put_back(still);
        let mut free = Vec::new();
        for group in asked {
            let Some(apart) = self.groups.get_mut(&group) else {
                continue;
            };
            apart.asked = false;
            if waits.contains(&group) {
                if apart.still_locked() {
                    self.tell(group);
                }
            } else if refused.contains(&group) {
                apart.next = Instant::now();
            } else if let Some(apart) = self.groups.remove(&group) {
                self.waiting
                    .fetch_sub(apart.messages.len(), Ordering::Relaxed);
                free.extend(apart.messages.into_iter().map(InFlight::freed));
            }
        }
        self.suspect(&refused);
        free
    }

    fn tell(&mut self, group: Group) {
        self.told
            .retain(|_, told| told.elapsed() < TOLD_AGAIN_AFTER);
        if self.told.contains_key(&group) {
            return;
        }
        self.told.insert(group, Instant::now());
        match group {
            Group::Company(id) => {
                tracing::info!(company.id = %id, "locked by another transaction: its events wait");
            }
            Group::Job(id) => {
                tracing::info!(job.id = %id, "locked by another transaction: its event waits");
            }
        }
    }

    /// They keep their order, and go before those that came later.
    fn put_back(&mut self, messages: Vec<InFlight>) {
        self.waiting.fetch_add(messages.len(), Ordering::Relaxed);
        for message in messages.into_iter().rev() {
            let Some(wait) = message.waits else {
                continue;
            };
            let apart = self.apart(wait.group, wait.by_itself);
            apart.messages.push_front(message);
        }
    }

    /// The database refused something of these groups: each is asked about by itself for a while.
    fn suspect(&mut self, groups: &[Group]) {
        if !groups.is_empty() {
            self.groups.retain(|_, apart| !apart.is_forgotten());
        }
        for group in groups {
            self.apart(*group, true);
        }
    }

    fn apart(&mut self, group: Group, by_itself: bool) -> &mut Apart {
        let apart = self.groups.entry(group).or_insert_with(|| Apart {
            messages: VecDeque::new(),
            tries: 0,
            by_itself,
            next: Instant::now(),
            asked: false,
        });
        apart.by_itself |= by_itself;
        apart
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let left = self.groups.values().map(|apart| apart.messages.len()).sum();
        self.waiting.fetch_sub(left, Ordering::Relaxed);
    }
}

impl Apart {
    fn is_forgotten(&self) -> bool {
        self.messages.is_empty() && !self.asked && self.next.elapsed() > FORGOTTEN_AFTER
    }

    /// Whether there is something to ask of it.
    fn waits(&self) -> bool {
        !self.asked && !self.messages.is_empty()
    }

    fn begin(&mut self, max: usize) -> impl Iterator<Item = InFlight> {
        let many = self.messages.len().min(max);
        self.asked = many > 0;
        self.messages.drain(..many)
    }

    /// Whether it is asked about by itself from now on.
    fn still_locked(&mut self) -> bool {
        self.tries += 1;
        let pauses = self.tries.min(TRIES_TOGETHER) - 1;
        let pause = if self.by_itself {
            FIRST_PAUSE
        } else {
            FIRST_PAUSE * 2_u32.pow(pauses)
        };
        self.next = Instant::now() + pause;
        if self.by_itself || self.tries < TRIES_TOGETHER {
            return false;
        }
        self.by_itself = true;
        true
    }
}
