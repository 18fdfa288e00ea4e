//! This program's own processes, started as a service manager would.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use secrecy::ExposeSecret as _;
use tokio::process::{Child, Command};

use super::lab::Lab;
use crate::config::Settings;

/// Without progress for so long, something is wrong.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);

/// Processes with the same roles.
#[derive(Default)]
pub(super) struct Children(Vec<Child>);

impl Children {
    /// One more `serve` with these roles.
    pub(super) fn start(&mut self, settings: &Settings, roles: &[&str]) -> anyhow::Result<()> {
        let executable = std::env::current_exe().context("finding this program")?;
        let roles = roles.iter().flat_map(|role| ["--role", role]);
        let child = Command::new(executable)
            .arg("serve")
            .args(roles)
            .envs(variables(settings))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("starting a process")?;
        self.0.push(child);
        Ok(())
    }

    /// An error if one of them ended by itself.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        for child in &mut self.0 {
            if let Some(status) = child.try_wait()? {
                bail!("a process ended by itself: {status}");
            }
        }
        Ok(())
    }

    /// What the ledger has come to once it is as far as this. It numbers a movement a moment before it commits it.
    pub(super) async fn movements(
        &mut self,
        lab: &Lab,
        until: i64,
    ) -> anyhow::Result<(i64, Instant)> {
        let mut look = tokio::time::interval(Duration::from_millis(2));
        let (mut last, mut progress_at) = (0, Instant::now());
        loop {
            look.tick().await;
            let now = lab.scratch.movements().await?;
            if now >= until {
                return Ok((now, Instant::now()));
            }
            if now != last {
                (last, progress_at) = (now, Instant::now());
            }
            ensure!(progress_at.elapsed() < PATIENCE, "no charge for a minute");
            self.check()?;
        }
    }

    pub(super) fn pids(&self) -> impl Iterator<Item = String> {
        let pids = self.0.iter().filter_map(Child::id);
        pids.map(|pid| pid.to_string())
    }

    /// Asks them to drain, so that nothing comes again in the next round.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        for mut child in self.0 {
            let pid = child.id().unwrap_or_default().to_string();
            let asked = Command::new("kill").args(["-s", "TERM", &pid]).status();
            let asked = asked.await.context("running kill")?;
            ensure!(asked.success(), "kill -s TERM {pid}: {asked}");
            let ended = tokio::time::timeout(PATIENCE, child.wait()).await;
            let ended = ended.context("a process doesn't end")??;
            ensure!(ended.success(), "a process: {ended}");
        }
        Ok(())
    }
}

/// The settings that matter on these queues, as a process's environment has them.
fn variables(settings: &Settings) -> Vec<(String, String)> {
    let Settings {
        database,
        broker,
        worker,
        retry,
        http,
        ..
    } = settings;
    let ms = |duration: Duration| format!("{}ms", duration.as_millis());
    let listen = http.listen.map(|address| address.to_string());
    [
        ("DATABASE__URL", database.url.expose_secret().to_owned()),
        (
            "DATABASE__MAX_CONNECTIONS",
            database.max_connections.to_string(),
        ),
        ("BROKER__URL", broker.url.expose_secret().to_owned()),
        ("BROKER__PREFIX", broker.prefix.clone()),
        ("BROKER__DELIVERY_LIMIT", broker.delivery_limit.to_string()),
        ("WORKER__LANES", worker.lanes.to_string()),
        ("WORKER__BATCH_MAX", worker.batch_max.to_string()),
        ("WORKER__PREFETCH", worker.prefetch.to_string()),
        ("RETRY__BASE", ms(retry.base)),
        ("RETRY__FACTOR", retry.factor.to_string()),
        ("RETRY__MAX_DELAY", ms(retry.max_delay)),
        ("RETRY__ATTEMPTS", retry.attempts.to_string()),
        ("HTTP__LISTEN", listen.unwrap_or_default()),
        ("HTTP__BASE_PATH", http.base_path.clone()),
        (
            "HTTP__REQUESTS_PER_SECOND",
            http.requests_per_second.to_string(),
        ),
        ("HTTP__BURST", http.burst.to_string()),
        // Whoever has this address has it already.
        ("OPS__LISTEN", String::new()),
        ("LOG__FILTER", "error".to_owned()),
    ]
    .map(|(name, value)| (format!("TOKEN_BILLING__{name}"), value))
    .into()
}
