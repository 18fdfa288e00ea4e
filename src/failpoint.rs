//! Dying on purpose at a chosen step, so that tests can show what a crash there does. Debug builds
//! only; a release build holds none of it.
//!
//! `TOKEN_BILLING_FAILPOINT=after_charge:8b0c…` aborts the process when it comes to that step with that
//! job in flight.

use uuid::Uuid;

/// Aborts if the environment names this step and one of these jobs.
pub fn hit(step: &str, jobs: impl IntoIterator<Item = Uuid>) {
    #[cfg(debug_assertions)]
    if let Some((named_step, named_job)) = armed()
        && named_step == step
        && jobs.into_iter().any(|job| job == *named_job)
    {
        tracing::error!(step, job.id = %named_job, "failpoint: aborting");
        std::process::abort();
    }
    #[cfg(not(debug_assertions))]
    let _ = (step, jobs);
}

#[cfg(debug_assertions)]
fn armed() -> Option<&'static (String, Uuid)> {
    static ARMED: std::sync::LazyLock<Option<(String, Uuid)>> = std::sync::LazyLock::new(|| {
        let named = std::env::var("TOKEN_BILLING_FAILPOINT").ok()?;
        let (step, job) = named.split_once(':')?;
        Some((step.to_owned(), job.parse().ok()?))
    });
    ARMED.as_ref()
}
