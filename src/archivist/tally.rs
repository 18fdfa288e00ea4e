//! Counts of what became of dead letters, since the start of the process.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

#[derive(Debug, Default)]
pub struct Tally {
    pub(super) archived: AtomicU64,
    pub(super) bare: AtomicU64,
    pub(super) copied: AtomicU64,
    pub(super) copies_lost: AtomicU64,
    pub(super) resolved: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tallied {
    /// Arrivals committed to the archive, each time one was.
    pub archived: u64,
    /// Those among them that the database took only without their headers and properties.
    pub bare: u64,
    /// Copies written to the broker for the watchers.
    pub copied: u64,
    /// Copies that were not.
    pub copies_lost: u64,
    /// Dead letters whose jobs were found charged.
    pub resolved: u64,
}

impl Tally {
    pub(super) fn add(counter: &AtomicU64, count: usize) {
        counter.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The counters now.
    pub fn read(&self) -> Tallied {
        Tallied {
            archived: self.archived.load(Ordering::Relaxed),
            bare: self.bare.load(Ordering::Relaxed),
            copied: self.copied.load(Ordering::Relaxed),
            copies_lost: self.copies_lost.load(Ordering::Relaxed),
            resolved: self.resolved.load(Ordering::Relaxed),
        }
    }
}

impl fmt::Display for Tallied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} archived, {} resolved", self.archived, self.resolved)?;
        for (count, what) in [
            (self.bare, "archived bare"),
            (self.copies_lost, "copies lost"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}
