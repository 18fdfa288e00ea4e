//! What a process has done so far, for its log and for whoever waits for it.

use std::fmt;

/// What became of events; each counts once per time it was processed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkerCounts {
    /// Charged by this process.
    pub charged: u64,
    /// Had been charged before.
    pub duplicates: u64,
    /// Sent to a delay queue.
    pub delayed: u64,
    /// Sent to the dead-letter exchange.
    pub dead_lettered: u64,
    /// A charge's outcome that `article_jobs` refused as the job's new status.
    pub job_status_errors: u64,
}

impl fmt::Display for WorkerCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} charged, {} duplicates, {} delayed, {} dead-lettered",
            self.charged, self.duplicates, self.delayed, self.dead_lettered
        )
    }
}

/// What became of dead letters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ArchivistCounts {
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

impl fmt::Display for ArchivistCounts {
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
