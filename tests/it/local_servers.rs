//! `deploy/local.sh`, as far as it can be tried without its servers.

use std::path::Path;
use std::process::{Command, Output};

use uuid::Uuid;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Runs it for a directory that isn't there, and holds it to not making one.
fn local_sh(args: &[&str]) -> Output {
    let nowhere = std::env::temp_dir().join(format!("token-billing-{}", Uuid::new_v4()));
    let output = Command::new(Path::new(ROOT).join("deploy/local.sh"))
        .args(args)
        .env("TOKEN_BILLING_LOCAL_DIR", &nowhere)
        .output()
        .expect("it can be run");
    assert!(!nowhere.exists(), "{args:?} did something: {output:?}");
    output
}

#[test]
fn what_a_verb_does_not_know_is_refused_before_anything_is_done() {
    for (args, named) in [
        (&["down", "--bogus"][..], "down does not know --bogus"),
        (&["down", "--purge", "now"], "down does not know now"),
        (&["up", "--help"], "up does not know --help"),
        (&["env", "bash"], "env does not know bash"),
        (&["status", "--json"], "status does not know --json"),
        (&["demo", "--fast"], "demo does not know --fast"),
        (&["test", "crashes"], "test does not know crashes"),
        (
            &["stop-postgres", "fast"],
            "stop-postgres does not know fast",
        ),
        (&["start-postgres", "x"], "start-postgres does not know x"),
        (
            &["restart-postgres", "x"],
            "restart-postgres does not know x",
        ),
        (&["kill-rabbitmq", "-9"], "kill-rabbitmq does not know -9"),
        (&["start-rabbitmq", "x"], "start-rabbitmq does not know x"),
        (&["schemathesis", "x"], "schemathesis does not know x"),
        (&["restart"], "there is no restart"),
    ] {
        let output = local_sh(args);
        let said = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(named), "{args:?}: {said}");
    }
    assert!(local_sh(&["down", "--purge"]).status.success());
}

#[test]
fn the_brokers_name_tells_nothing_of_its_password() {
    let made = Command::new("bash")
        .args([
            "-euc",
            ". deploy/dev/servers.sh; new_settings; echo \"$PASSWORD $NODE\"",
        ])
        .current_dir(ROOT)
        .output()
        .expect("bash can be run");
    assert!(made.status.success(), "{made:?}");
    let made = String::from_utf8(made.stdout).expect("UTF-8");
    let (password, node) = made.trim().split_once(' ').expect("two words");
    let digits = node
        .strip_prefix("token-billing-")
        .and_then(|node| node.strip_suffix("@localhost"))
        .expect("a name on this machine");
    assert_eq!((password.len(), digits.len()), (32, 8), "{made}");
    assert!(!password.contains(digits), "{made}");
}
