//! Where events wait that nobody else is to wait for.
//!
//! A company whose row somebody else holds, or of whom the database refuses something, is asked about apart from all
//! others. Its events wait here, also those that come later, so that no batch meets it again.
//!
//! - At first, all that were found locked are asked about together and without waiting, a few times in a quarter of a
//!   second: mostly it was another process's batch, and is over.
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

/// Tries together with others, before a group is asked about by itself.
const TRIES_TOGETHER: u32 = 5;
/// Between the first two of these; each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// A wait in a lock's queue, at most: meanwhile the others of this room wait.
const MOMENT: Duration = Duration::from_millis(50);
/// A group without events is forgotten after this.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(1);

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
pub(super) struct Ask {
    pub(super) messages: Vec<InFlight>,
    /// How long to wait for each company's lock; `None`: what is locked is answered as that.
    pub(super) lock_wait: Option<Duration>,
}

/// One lane's.
pub(super) struct Room {
    groups: HashMap<Group, Apart>,
    batch_max: usize,
    lock_timeout: Duration,
    /// Events that wait in the rooms of all lanes.
    waiting: Arc<AtomicUsize>,
    /// The last ask was about many: now it is the turn of one.
    was_together: bool,
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
            batch_max,
            lock_timeout,
            waiting,
            was_together: false,
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

    /// Takes events that were asked about and have to wait; they keep their order, and go before those that came later.
    pub(super) fn put_back(&mut self, messages: Vec<InFlight>) {
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
    pub(super) fn suspect(&mut self, groups: &[Group]) {
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

    /// When there will be something to ask about.
    pub(super) fn due(&self) -> Option<Instant> {
        let waits = |apart: &&Apart| !apart.messages.is_empty();
        self.groups.values().filter(waits).map(|one| one.next).min()
    }

    /// What to ask about now. Its answer is awaited before the next is asked for.
    pub(super) fn next_ask(&mut self) -> Option<Ask> {
        let now = Instant::now();
        let due = |apart: &&mut Apart| !apart.messages.is_empty() && apart.next <= now;
        let (mut together, mut alone): (Vec<_>, Vec<_>) = self
            .groups
            .values_mut()
            .filter(due)
            .partition(|apart| !apart.by_itself);
        let mut messages = Vec::new();
        let mut lock_wait = None;
        self.was_together = !together.is_empty() && (!self.was_together || alone.is_empty());
        if self.was_together {
            for apart in &mut together {
                messages.extend(apart.begin(self.batch_max - messages.len()));
            }
        } else {
            let first = alone.iter_mut().min_by_key(|apart| apart.next)?;
            messages.extend(first.begin(self.batch_max));
            lock_wait = Some(MOMENT.min(self.lock_timeout));
        }
        self.waiting.fetch_sub(messages.len(), Ordering::Relaxed);
        Some(Ask {
            messages,
            lock_wait,
        })
    }

    /// What was asked is answered: these still have to wait, and of these groups the database refused something. Gives
    /// the events of all groups that need not be apart any more.
    pub(super) fn answered(&mut self, still: Vec<InFlight>, refused: &[Group]) -> Vec<InFlight> {
        let asked = |groups: &mut HashMap<Group, Apart>| -> Vec<Group> {
            let asked = groups.iter_mut().filter(|(_, apart)| apart.asked);
            asked
                .map(|(group, apart)| {
                    apart.asked = false;
                    *group
                })
                .collect()
        };
        let asked = asked(&mut self.groups);
        let waits: Vec<Group> = still
            .iter()
            .filter_map(|one| Some(one.waits?.group))
            .collect();
        self.put_back(still);
        let mut free = Vec::new();
        for group in asked {
            if waits.contains(&group) {
                if let Some(apart) = self.groups.get_mut(&group) {
                    apart.still_locked(group);
                }
            } else if refused.contains(&group) {
                let apart = self.apart(group, true);
                apart.next = Instant::now();
            } else if let Some(apart) = self.groups.remove(&group) {
                self.waiting
                    .fetch_sub(apart.messages.len(), Ordering::Relaxed);
                free.extend(apart.messages.into_iter().map(InFlight::freed));
            }
        }
        free
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

    fn begin(&mut self, max: usize) -> impl Iterator<Item = InFlight> {
        let many = self.messages.len().min(max);
        self.asked = many > 0;
        self.messages.drain(..many)
    }

    fn still_locked(&mut self, group: Group) {
        self.tries += 1;
        let pauses = self.tries.min(TRIES_TOGETHER) - 1;
        let pause = if self.by_itself {
            FIRST_PAUSE
        } else {
            FIRST_PAUSE * 2_u32.pow(pauses)
        };
        self.next = Instant::now() + pause;
        if self.by_itself || self.tries < TRIES_TOGETHER {
            return;
        }
        self.by_itself = true;
        match group {
            Group::Company(id) => {
                tracing::info!(company.id = %id, "locked by another transaction: its events wait");
            }
            Group::Job(id) => {
                tracing::info!(job.id = %id, "locked by another transaction: its event waits");
            }
        }
    }
}
