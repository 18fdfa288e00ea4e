//! Completion, as the shells themselves do it.

use std::process::Stdio;

use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::support::command::Ran;

/// Asks a real bash, as the Tab key does: the words of each line, and what is offered for the last of them.
const ASK: &str = r#"
source /dev/stdin
asked=$(complete -p token-billing) && [[ $asked =~ -F\ ([^ ]+) ]] || exit 1
while IFS= read -r line; do
    read -ra COMP_WORDS <<<"$line"
    [[ $line == *' ' ]] && COMP_WORDS+=('')
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=()
    "${BASH_REMATCH[1]}" "${COMP_WORDS[0]}" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
    printf '%s\n' "${COMPREPLY[*]}"
done <<<"$LINES_TO_COMPLETE"
"#;

async fn script(shell: &str) -> String {
    let ran = Ran::to_its_end(&["completions", shell], &[], b"").await;
    ran.done().to_owned()
}

/// What standard input means to a program, and what it prints.
async fn fed(mut program: Command, input: &str) -> (bool, String) {
    let mut child = program
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it can be run");
    let mut stdin = child.stdin.take().expect("piped above");
    let written = stdin.write_all(input.as_bytes()).await;
    written.expect("it reads all of it");
    drop(stdin);
    let output = child.wait_with_output().await.expect("it ends");
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    (output.status.success(), printed)
}

/// The words that bash offers for the end of each line.
async fn offered(lines: &[&str]) -> Vec<Vec<String>> {
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", ASK])
        .env("LINES_TO_COMPLETE", lines.join("\n"));
    let (good, printed) = fed(bash, &script("bash").await).await;
    assert!(good, "{printed}");
    let words = |line: &str| line.split(' ').map(str::to_owned).collect();
    let offered: Vec<Vec<String>> = printed.lines().map(words).collect();
    assert_eq!(offered.len(), lines.len(), "{printed}");
    offered
}

#[tokio::test]
async fn bash_completes_commands_flags_and_values_at_every_level() {
    let asked = [
        ("token-billing rec", "reconcile"),
        ("token-billing dlq re", "replay restore"),
        (
            "token-billing dlq ",
            "list edit discard restore history replay groups show watch stats help",
        ),
        ("token-billing dlq help re", "replay restore"),
        ("token-billing help dlq hi", "history"),
        ("token-billing migrate --print-", "--print-grants"),
        ("token-billing reconcile --older", "--older-than"),
        ("token-billing dlq replay --can", "--canary"),
        ("token-billing dlq discard --only", "--only-reason"),
        ("token-billing dlq list --state re", "replayed resolved"),
        ("token-billing balance --output j", "json"),
        ("token-billing dlq list --output j", "json"),
        ("token-billing --output json dlq sta", "stats"),
        ("/usr/local/bin/token-billing dlq edit --se", "--set"),
        ("token-billing completions zs", "zsh"),
        ("token-billing serve --role swe", "sweeper"),
    ];
    let lines: Vec<&str> = asked.iter().map(|(line, _)| *line).collect();
    for ((line, wanted), mut words) in asked.iter().zip(offered(&lines).await) {
        // Beside the words of a command there are its flags.
        words.retain(|word| !word.starts_with('-') || line.contains("--"));
        let mut wanted: Vec<&str> = wanted.split(' ').collect();
        words.sort();
        wanted.sort();
        assert_eq!(words, wanted, "{line}");
    }
}

#[tokio::test]
async fn the_other_shells_can_read_their_scripts_where_they_are_installed() {
    for shell in ["zsh", "fish"] {
        let there = Command::new(shell).arg("--version").output().await;
        if there.is_err() {
            continue;
        }
        let mut read = Command::new(shell);
        read.arg("--no-execute");
        let (good, printed) = fed(read, &script(shell).await).await;
        assert!(good, "{shell}: {printed}");
    }
}
