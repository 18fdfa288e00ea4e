//! Checks the ledger: every rule that must hold of it is checked against every row, in one consistent look, and
//! whatever contradicts one is named.

use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::watch;
use uuid::Uuid;

use super::{OperationError, Operations};
use crate::{
    config::ExternalWrites,
    domain::{Chain, Gap},
    storage::{CHECKS, GivenAway, LedgerLine, LedgerSize, Violation},
};

/// Violations and external changes of which the details are kept; all are counted.
const KEPT: usize = 1000;

/// The name of the check that follows the movements of each company.
pub(crate) const CHAIN: &str = "chain";

/// What it proves where changes from outside are forbidden, and where they are not.
const CHAIN_PROVES: [&str; 2] = [
    "each movement starts where the one before it ended",
    "each movement starts where the one before it ended; changes from outside are only listed",
];

/// A change of a balance that no movement explains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub(crate) struct ExternalChange {
    pub(crate) company_id: Uuid,
    /// Tokens that came or, negative, went.
    pub(crate) tokens: i64,
    /// The movement before it, by its `ledger_seq`.
    pub(crate) after_seq: Option<i64>,
    /// The movement after it; `None`: there is none yet.
    pub(crate) before_seq: Option<i64>,
}

/// What one rule's check came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub(crate) struct Checked {
    pub(crate) name: &'static str,
    pub(crate) proves: &'static str,
    pub(crate) violations: u64,
}

/// What an audit found.
#[derive(Debug, Clone, Default, Serialize, utoipa::ToSchema)]
pub(crate) struct AuditReport {
    pub(crate) size: LedgerSize,
    /// Each rule; the last is [`CHAIN`].
    pub(crate) checks: Vec<Checked>,
    /// What contradicts one, the first thousand.
    pub(crate) violations: Vec<Violation>,
    /// Changes from outside, the first thousand.
    pub(crate) external_changes: Vec<ExternalChange>,
    pub(crate) external_changes_count: u64,
    pub(crate) external_changes_tokens: i64,
    /// They are violations.
    pub(crate) external_changes_forbidden: bool,
    pub(crate) given_away: Vec<GivenAway>,
    pub(crate) seconds: f64,
}

impl AuditReport {
    /// All violations, those beyond the first thousand too.
    #[must_use]
    pub(crate) fn violations_count(&self) -> u64 {
        self.checks.iter().map(|check| check.violations).sum()
    }
}

/// What an audit is at: the check, and how far it is of how much, in rows.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AuditProgress {
    pub(crate) check: &'static str,
    pub(crate) done: u64,
    pub(crate) of: u64,
}

impl Operations {
    pub(crate) async fn audit(
        &self,
        progress: watch::Sender<AuditProgress>,
    ) -> Result<AuditReport, OperationError> {
        let at = |check, done, of| {
            progress.send_replace(AuditProgress { check, done, of });
        };
        let began = Instant::now();
        let mut snapshot = self.storage.snapshot().await?;
        let size = snapshot.size().await?;
        let forbidden = self.settings.audit.external_writes == ExternalWrites::Forbidden;
        let mut report = AuditReport {
            size,
            external_changes_forbidden: forbidden,
            ..AuditReport::default()
        };
        // A record that became stale just after a pass waits for the next one, and for its claim.
        let sweeper = &self.settings.sweeper;
        let pending_allowed = sweeper.stale_after + 2 * (sweeper.interval + sweeper.claim);
        for (name, proves, query) in CHECKS {
            at(name, 0, 0);
            let mut violations = 0;
            let kept = &mut report.violations;
            let found = |violation| {
                violations += 1;
                keep(kept, violation);
            };
            snapshot.violations(query, pending_allowed, found).await?;
            report.checks.push(Checked {
                name,
                proves,
                violations,
            });
        }
        let mut follower = Follower::default();
        let of = u64::try_from(size.records + size.credits).unwrap_or_default();
        let follow = |line| {
            follower.follow(&line, &mut report);
            if follower.lines.is_multiple_of(4096) {
                at(CHAIN, follower.lines, of);
            }
        };
        snapshot.ledger(follow).await?;
        // Each change from outside breaks the chain, which is a violation where that is forbidden.
        let (proves, violations) = match forbidden {
            true => (CHAIN_PROVES[0], report.external_changes_count),
            false => (CHAIN_PROVES[1], 0),
        };
        report.checks.push(Checked {
            name: CHAIN,
            proves,
            violations,
        });
        report.given_away = snapshot.given_away().await?;
        snapshot.close().await?;
        let took = began.elapsed().max(Duration::from_millis(1));
        report.seconds = (took.as_secs_f64() * 1000.0).round() / 1000.0;
        if let Some(metrics) = &self.metrics {
            metrics.audited(report.violations_count());
        }
        Ok(report)
    }
}

/// Follows the movements of one company after the other.
#[derive(Default)]
struct Follower {
    company: Option<Uuid>,
    chain: Chain,
    lines: u64,
}

impl Follower {
    fn follow(&mut self, line: &LedgerLine, report: &mut AuditReport) {
        self.lines += 1;
        if self.company != Some(line.company_id) {
            self.company = Some(line.company_id);
            self.chain = Chain::default();
        }
        let gap = match (&line.movement, &line.now) {
            (Some((seq, movement)), _) => self.chain.follow(*seq, line.at, movement),
            (None, Some(now)) => self.chain.end(now, line.at),
            // The company is gone, and with it what could be compared.
            (None, None) => None,
        };
        let Some(Gap {
            tokens,
            after_seq,
            before_seq,
        }) = gap
        else {
            return;
        };
        report.external_changes_count += 1;
        report.external_changes_tokens = report.external_changes_tokens.saturating_add(tokens);
        keep(
            &mut report.external_changes,
            ExternalChange {
                company_id: line.company_id,
                tokens,
                after_seq,
                before_seq,
            },
        );
    }
}

fn keep<T>(kept: &mut Vec<T>, one: T) {
    if kept.len() < KEPT {
        kept.push(one);
    }
}
