//! The real binary, run as a person or a service manager would.

use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

/// One running `token-billing`, killed on drop. Its log is shown when the test fails.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    /// Changes with every line; closed when there will be no more.
    lines: watch::Receiver<()>,
}

impl Process {
    /// Starts it with these arguments and settings (`TOKEN_BILLING__SECTION__KEY`, value), and no
    /// settings of the test's own environment.
    pub(crate) fn start(args: &[&str], settings: &[(&str, &str)]) -> Self {
        let mut child = command(args, settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary can be run");
        let stderr = child.stderr.take().expect("piped above");
        let log = Arc::new(Mutex::new(Vec::new()));
        let (told, lines) = watch::channel(());
        let kept = Arc::clone(&log);
        tokio::spawn(async move {
            let mut stderr = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = stderr.next_line().await {
                kept.lock().expect("no panic while it is held").push(line);
                told.send_replace(());
            }
        });
        Self { child, log, lines }
    }

    /// The first line of its log that contains `text`, now or within `patience`.
    pub(crate) async fn wait_for_log(&mut self, text: &str, patience: Duration) -> String {
        let mut seen = 0;
        let found = timeout(patience, async {
            loop {
                // Before the look, so that what comes during it wakes us again.
                self.lines.borrow_and_update();
                let is_complete = self.lines.has_changed().is_err();
                if let Some(line) = self.find(text, &mut seen) {
                    return Some(line);
                }
                if is_complete {
                    return None;
                }
                let _ = self.lines.changed().await;
            }
        });
        match found.await {
            Ok(Some(line)) => line,
            Ok(None) => panic!("it ended without logging {text:?}"),
            Err(_) => panic!("nothing with {text:?} was logged within {patience:?}"),
        }
    }

    /// Every line of its log so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().expect("no panic while it is held").clone()
    }

    /// Of the operating system; `None` once it was waited for.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// SIGKILL; returns when it is gone.
    pub(crate) async fn kill9(&mut self) {
        self.child.kill().await.expect("our child can be killed");
    }

    /// SIGTERM: asks it to drain and leave, once it is so far that it listens.
    pub(crate) async fn terminate(&mut self) {
        self.wait_for_log("started", super::eventually::PATIENCE)
            .await;
        self.signal("TERM").await;
    }

    /// Any signal, by name (`STOP` and `CONT` make it hang for a while).
    pub(crate) async fn signal(&self, name: &str) {
        let pid = self.id().expect("it still runs").to_string();
        let status = Command::new("kill")
            .args(["-s", name, &pid])
            .status()
            .await
            .expect("kill can be run");
        assert!(status.success(), "kill -s {name} {pid}");
    }

    /// Its exit code, or `None` where a signal ended it. Its log is complete then.
    ///
    /// # Panics
    ///
    /// When it has not ended after `patience`.
    pub(crate) async fn wait(&mut self, patience: Duration) -> Option<i32> {
        let ended = async {
            let status = self.child.wait().await;
            // It may be known to have ended before its last line was read.
            while self.lines.changed().await.is_ok() {}
            status
        };
        timeout(patience, ended)
            .await
            .unwrap_or_else(|_| panic!("it did not end within {patience:?}"))
            .expect("our child can be waited for")
            .code()
    }

    fn find(&self, text: &str, seen: &mut usize) -> Option<String> {
        let log = self.log.lock().expect("no panic while it is held");
        let line = log[*seen..]
            .iter()
            .find(|line| line.contains(text))
            .cloned();
        *seen = log.len();
        line
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of token-billing\n{}", self.log().join("\n"));
        }
    }
}

/// What the binary reads besides its settings; a CI job that runs these tests may have them.
const VARIABLES: [&str; 6] = [
    "JOB_ID",
    "TOKEN_AMOUNT",
    "COMPANY_ID",
    "ARTICLE_ID",
    "TRACEPARENT",
    "TRACESTATE",
];

pub(super) fn command(args: &[&str], settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_token-billing"));
    for (name, _) in std::env::vars_os() {
        let (name, ours) = (name.to_string_lossy(), ["TOKEN_BILLING__", "OTEL_"]);
        if ours.iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(&*name);
        }
    }
    for name in VARIABLES {
        command.env_remove(name);
    }
    command
        .args(args)
        .env("NO_COLOR", "1")
        .envs(settings.iter().copied());
    command
}

mod tests {
    use super::super::eventually::PATIENCE;
    use super::*;

    #[tokio::test]
    async fn the_binary_runs_and_ends() {
        let mut process = Process::start(&["--version"], &[]);
        assert_eq!(process.wait(PATIENCE).await, Some(0));
    }
}
