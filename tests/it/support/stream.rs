//! A command of the real binary that prints as it goes, read line by line.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::eventually::PATIENCE;
use super::process::command;

/// A running command, killed on drop.
#[derive(Debug)]
pub(crate) struct Stream {
    child: Child,
    lines: Option<Lines<BufReader<ChildStdout>>>,
}

impl Stream {
    /// Starts it with these settings and nothing else of ours in its environment.
    pub(crate) fn start(args: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child = command(args, environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary can be run");
        let stdout = child.stdout.take().expect("piped above");
        let lines = Some(BufReader::new(stdout).lines());
        Self { child, lines }
    }

    /// The next line of its standard output.
    ///
    /// # Panics
    ///
    /// When there is none in time.
    pub(crate) async fn line(&mut self) -> String {
        let lines = self.lines.as_mut().expect("still read");
        let line = timeout(PATIENCE, lines.next_line()).await;
        let line = line.expect("a line in time").expect("UTF-8");
        line.expect("not the end yet")
    }

    /// Reads its standard output no longer: a closed pipe.
    pub(crate) fn close(&mut self) {
        self.lines = None;
    }

    /// Sends a signal, by name.
    pub(crate) async fn signal(&self, name: &str) {
        let pid = self.child.id().expect("it still runs").to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().await;
        assert!(sent.expect("kill can be run").success());
    }

    /// Its exit code, and what it said on standard error.
    pub(crate) async fn end(mut self) -> (Option<i32>, String) {
        let status = timeout(PATIENCE, self.child.wait()).await;
        let status = status.expect("it ends").expect("it can be awaited");
        let mut stderr = String::new();
        let mut pipe = self.child.stderr.take().expect("piped above");
        let read = pipe.read_to_string(&mut stderr).await;
        read.expect("UTF-8");
        (status.code(), stderr)
    }
}
