//! Commands of the real binary that run to their end, as a person or a CI step types them.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::AsyncWriteExt;

use super::process::command;
use super::site::Site;

/// How a command ended, and what it said.
#[derive(Debug)]
pub(crate) struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    /// Runs it with these variables and nothing else of ours in its environment, and with `input` on
    /// its standard input.
    ///
    /// # Panics
    ///
    /// When it shows a password of its own settings, or panics.
    pub(crate) async fn to_its_end(
        args: &[&str],
        environment: &[(&str, &str)],
        input: &[u8],
    ) -> Self {
        let mut child = command(args, environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary can be run");
        let mut stdin = child.stdin.take().expect("piped above");
        let input = input.to_vec();
        // Beside it: one that refuses its arguments reads nothing, and that is fine.
        tokio::spawn(async move { stdin.write_all(&input).await });
        let output = child.wait_with_output().await.expect("it can be awaited");
        let ran = Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("standard output is UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("standard error is UTF-8"),
        };
        let passwords = environment.iter().filter_map(|(_, url)| password(url));
        for password in passwords {
            let shown = format!(":{password}@");
            assert!(!ran.stdout.contains(&shown), "a password in {ran:#?}");
            assert!(!ran.stderr.contains(&shown), "a password in {ran:#?}");
        }
        assert!(!ran.stderr.contains("panicked at"), "{ran:#?}");
        ran
    }

    /// What it printed, having done what was asked.
    pub(crate) fn done(&self) -> &str {
        assert_eq!(self.code, Some(0), "{self:#?}");
        &self.stdout
    }

    /// The one JSON document that it printed, having done what was asked.
    pub(crate) fn document(&self) -> Value {
        self.done();
        self.json()
    }

    /// Why it ended with `code`, which is not 0. Standard output was left alone.
    pub(crate) fn refused(&self, code: i32) -> &str {
        assert_eq!(self.stdout, "", "{self:#?}");
        self.failed(code)
    }

    /// Why it ended with `code`, which is not 0.
    pub(crate) fn failed(&self, code: i32) -> &str {
        assert_ne!(code, 0);
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert!(!self.stderr.trim().is_empty(), "not a word: {self:#?}");
        &self.stderr
    }

    /// The one JSON document that it printed.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    /// What it printed, however it ended.
    pub(crate) fn printed(&self) -> &str {
        &self.stdout
    }

    /// What it said beside its result.
    pub(crate) fn notes(&self) -> &str {
        &self.stderr
    }
}

impl Site {
    /// Runs a command with this installation's settings.
    pub(crate) async fn run(&self, args: &[&str]) -> Ran {
        self.run_in(&[], args).await
    }

    /// Runs a command with these variables as well, or in place of its own.
    pub(crate) async fn run_in(&self, variables: &[(&str, &str)], args: &[&str]) -> Ran {
        let environment = [&self.environment(), variables].concat();
        Ran::to_its_end(args, &environment, b"").await
    }

    /// Exactly what a command wrote to its standard output, having done what was asked.
    pub(crate) async fn bytes_of(&self, args: &[&str]) -> Vec<u8> {
        let output = command(args, &self.environment())
            .stdin(Stdio::null())
            .output();
        let output = output.await.expect("the binary can be run");
        assert!(output.status.success(), "{output:#?}");
        output.stdout
    }

    /// Runs a command that reads its standard input.
    pub(crate) async fn run_with_input(&self, args: &[&str], input: impl AsRef<[u8]>) -> Ran {
        Ran::to_its_end(args, &self.environment(), input.as_ref()).await
    }
}

/// The names of an object's members, in alphabetical order.
pub(crate) fn keys(document: &Value) -> Vec<&str> {
    let members = document.as_object().expect("an object");
    let mut keys: Vec<&str> = members.keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// `scheme://user:password@…` → `password`.
fn password(url: &str) -> Option<&str> {
    let (user, _) = url.split_once("://")?.1.split_once('@')?;
    Some(user.split_once(':')?.1).filter(|password| !password.is_empty())
}
