//! Whether an installation is as it should be: settings, database, broker, and what to do about what isn't.
//!
//! Nothing real is changed: the database is only read, queues that are missing stay missing, and what the
//! probe needs is its own and deleted again. No wait is longer than [`PATIENCE`].

mod database;
mod messages;

use std::time::Duration;

use serde::Serialize;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{ConfigError, Exposed, Settings},
    storage::{InstallationStatus, Purpose},
};

/// For one answer of the database or the broker.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How far back "lately" goes in the status.
const WINDOW: Duration = Duration::from_mins(15);

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckOutcome {
    /// As it should be.
    Ok,
    /// To be fixed.
    Failed,
    /// Can't be known from here.
    Unchecked,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What, a stable word.
    pub check: &'static str,
    /// Which one, where there are several.
    pub subject: Option<String>,
    /// How it came out.
    pub verdict: CheckOutcome,
    /// What was found, or why nothing could be.
    pub finding: String,
    /// What to do about it.
    pub fix: Option<String>,
}

impl Check {
    fn ok(check: &'static str, finding: impl Into<String>) -> Self {
        Self {
            check,
            subject: None,
            verdict: CheckOutcome::Ok,
            finding: finding.into(),
            fix: None,
        }
    }

    fn failed(check: &'static str, finding: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            verdict: CheckOutcome::Failed,
            fix: Some(fix.into()),
            ..Self::ok(check, finding)
        }
    }

    fn unchecked(check: &'static str, why: impl Into<String>) -> Self {
        Self {
            verdict: CheckOutcome::Unchecked,
            ..Self::ok(check, why)
        }
    }

    fn of(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }
}

/// All that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// No check failed.
    pub healthy: bool,
    /// In the order in which they were made.
    pub checks: Vec<Check>,
    /// How the installation stands; `None`: can't be read.
    pub status: Option<InstallationStatus>,
}

/// Told to stop before the end.
#[derive(Debug, Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Looks at everything. `settings` may be bad: that is a finding as well.
///
/// # Errors
///
/// [`Interrupted`] by `stop`; what the probe made is deleted all the same.
pub async fn examine(
    settings: Result<Settings, ConfigError>,
    purpose: Purpose,
    stop: &CancellationToken,
) -> Result<Diagnosis, Interrupted> {
    let settings = match settings {
        Ok(settings) => settings,
        Err(error) => return Ok(without_settings(&error)),
    };
    let mut checks = vec![check_settings(&settings)];
    checks.extend(check_encryption(&settings));
    let (database, inspection) = until(stop, database::examine(&settings, purpose)).await?;
    checks.extend(database);
    // The probe ends by itself, and cleans up first.
    let (broker, goes_on) = until(stop, messages::examine(&settings)).await?;
    checks.extend(broker);
    checks.push(if goes_on {
        messages::probe(&settings, stop).await?
    } else {
        Check::unchecked("probe", "not checked: the broker is away")
    });
    let status = match inspection {
        Some(inspection) => until(stop, database::status(inspection, &mut checks)).await?,
        None => None,
    };
    Ok(Diagnosis {
        healthy: checks
            .iter()
            .all(|check| check.verdict != CheckOutcome::Failed),
        checks,
        status,
    })
}

async fn until<T>(
    stop: &CancellationToken,
    work: impl Future<Output = T>,
) -> Result<T, Interrupted> {
    tokio::select! {
        done = work => Ok(done),
        () = stop.cancelled() => Err(Interrupted),
    }
}

fn without_settings(error: &ConfigError) -> Diagnosis {
    let fix = "put it right there; deploy/token-billing.toml has every setting with its range";
    let mut checks = vec![Check::failed("settings", error.to_string(), fix)];
    let rest = database::CHECKS.iter().chain(&messages::CHECKS);
    checks.extend(rest.map(|check| Check::unchecked(check, "not checked: the settings are bad")));
    Diagnosis {
        healthy: false,
        checks,
        status: None,
    }
}

/// Who can read along on that network can't be known from here.
fn check_encryption(settings: &Settings) -> Vec<Check> {
    let exposed = settings.exposed();
    if exposed.is_empty() {
        return vec![Check::ok(
            "encryption",
            "nothing leaves this machine unencrypted",
        )];
    }
    let check = |exposed: &Exposed| Check {
        fix: Some(exposed.fix()),
        ..Check::unchecked("encryption", exposed.finding()).of(exposed.setting)
    };
    exposed.iter().map(check).collect()
}

fn check_settings(settings: &Settings) -> Check {
    let missing: Vec<String> = [
        settings.require_database().err(),
        settings.require_broker().err(),
    ]
    .into_iter()
    .flatten()
    .map(|error| error.to_string())
    .collect();
    if missing.is_empty() {
        let prefix = &settings.broker.prefix;
        return Check::ok("settings", format!("can be worked with; prefix {prefix}"));
    }
    Check::failed("settings", missing.join("; "), "`serve` needs both URLs")
}
