//! Whether the installation is complete, found out before anything is consumed and whenever there is reason to
//! doubt it, never at each look.

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use time::OffsetDateTime;

use super::{Fault, Finding, Look, Preflight, Severity, Storage, StorageError};

/// So long an examination that cleared the installation of one failure clears it of others: one company's events
/// may fail by the hundred.
const CLEARED_LATELY: Duration = Duration::from_secs(1);

/// So long an examination is believed where nothing fails: a policy that hides rows makes no error.
const BELIEVED_FOR: Duration = Duration::from_mins(5);

fn is_believed(examined_at: Instant) -> bool {
    examined_at.elapsed() < BELIEVED_FOR
}

impl Storage {
    /// [`probe`](Self::probe), and unless that was found lately and since the last trouble, whether the installation is
    /// complete: migrated, with the functions and rights that are needed, on tables that they can work with.
    /// Returns when the server was started.
    ///
    /// # Errors
    ///
    /// [`StorageError::Unprepared`] says what is missing; or the database can't be asked.
    pub async fn examine(&self) -> Result<OffsetDateTime, StorageError> {
        let probed = self.probe().await;
        match &probed {
            Ok(_) if self.seen().examined_at.is_some_and(is_believed) => return probed,
            Err(error) if error.fault() != Fault::Installation => return probed,
            // Not examined yet, or the probe itself failed for want of something.
            _ => {}
        }
        let look = Look {
            purpose: Some(self.purpose),
            articles: false,
            rows: false,
        };
        let found = self.preflight(look).await?;
        let (blocking, others): (Vec<Finding>, Vec<Finding>) = found
            .findings
            .into_iter()
            .partition(|finding| finding.severity == Severity::Blocking);
        if !blocking.is_empty() {
            return Err(StorageError::Unprepared(blocking));
        }
        let started_at = probed?;
        self.note(|seen| seen.examined_at = Some(Instant::now()));
        self.tolerate(others);
        Ok(started_at)
    }

    /// Looks at everything that charging rests on, on a connection of its own.
    ///
    /// # Errors
    ///
    /// The database can't be asked. What is forbidden or missing is a finding.
    pub async fn preflight(&self, look: Look) -> Result<Preflight, StorageError> {
        let mut inspection = self.inspect().await?;
        let found = inspection.preflight(look).await;
        inspection.close().await;
        found
    }

    /// Logs what is to be fixed and no reason to stop, if that is news.
    fn tolerate(&self, mut findings: Vec<Finding>) {
        findings.retain(|finding| finding.severity == Severity::Fault);
        let mut known = self
            .tolerated
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for finding in findings.iter().filter(|finding| !known.contains(finding)) {
            tracing::warn!("to be fixed: {finding}");
        }
        *known = findings;
    }

    /// A statement failed for want of something: the next look examines the installation. `false`: that was done
    /// for another one a moment ago, and all was well.
    pub fn doubt(&self) -> bool {
        let seen = self.seen();
        let lately = |at: Instant| at.elapsed() < CLEARED_LATELY;
        if seen.examined_at.is_some() && seen.doubted_at.is_some_and(lately) {
            return false;
        }
        self.note(|seen| {
            seen.examined_at = None;
            seen.doubted_at = Some(Instant::now());
        });
        true
    }
}
