mod names;

use std::collections::HashMap;
use std::path::Path;

use secrecy::ExposeSecret;
use tempfile::NamedTempFile;

use super::*;
use names::every_key;

const DATABASE_URL: &str = "postgres://billing:hunter2@db:5432/billing";
const BROKER_URL: &str = "amqp://billing:hunter2@mq:5672/%2f";

fn env(more: &[(&str, &str)]) -> HashMap<String, String> {
    [("DATABASE__URL", DATABASE_URL), ("BROKER__URL", BROKER_URL)]
        .iter()
        .chain(more)
        .map(|(name, value)| (format!("TOKEN_BILLING__{name}"), (*value).to_owned()))
        .collect()
}

fn file(text: &str) -> NamedTempFile {
    let file = NamedTempFile::with_suffix(".toml").unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

/// The error for `env` and a file holding `text`, with the file's name made stable.
fn refused(text: &str, env: HashMap<String, String>) -> String {
    let file = file(text);
    let error = Settings::load_from(Some(file.path()), env).unwrap_err();
    let error = error
        .to_string()
        .replace(&file.path().display().to_string(), "FILE");
    assert!(!error.contains("hunter2"), "a secret in: {error}");
    error
}

#[test]
fn the_urls_are_enough() {
    let settings = Settings::load_from(None, env(&[])).unwrap();
    assert_eq!(settings.database.url.expose_secret(), DATABASE_URL);
    assert_eq!(settings.broker.url.expose_secret(), BROKER_URL);
    assert_eq!(settings.worker.batch_max, 1024);
    assert_eq!(settings.worker.hold_max, Duration::from_secs(600));
}

#[test]
fn the_environment_goes_before_the_file_and_the_file_before_the_defaults() {
    let file = file("[worker]\nbatch_max = 7\nlanes = 3\n[retry]\nbase = \"2s\"\n");
    let env = env(&[("WORKER__BATCH_MAX", "9")]);
    let settings = Settings::load_from(Some(file.path()), env).unwrap();
    assert_eq!(settings.worker.batch_max, 9);
    assert_eq!(settings.worker.lanes, 3);
    assert_eq!(settings.retry.base, Duration::from_secs(2));
    assert_eq!(settings.retry.factor, 2);
}

#[test]
fn a_text_setting_of_digits_stays_text() {
    let env = env(&[
        ("BROKER__PREFIX", "007"),
        ("DATABASE__URL", "postgres://1:2@3.example:4/5"),
    ]);
    let settings = Settings::load_from(None, env).unwrap();
    assert_eq!(settings.broker.prefix, "007");
    assert_eq!(
        settings.database.url.expose_secret(),
        "postgres://1:2@3.example:4/5"
    );
}

#[test]
fn variables_of_other_programs_are_left_alone() {
    let mut env = env(&[]);
    env.insert("TOKEN_BILLING_PORT".into(), "tcp://10.0.0.1:80".into());
    env.insert("PATH".into(), "/bin".into());
    Settings::load_from(None, env).unwrap();
}

#[test]
fn debug_and_redacted_urls_show_no_secret() {
    let env = env(&[(
        "DATABASE__URL",
        "postgres://u:hunter2@db/b?password=hunter2",
    )]);
    let settings = Settings::load_from(None, env).unwrap();
    assert!(!format!("{settings:?}").contains("hunter2"));
    assert_eq!(
        redacted_url(&settings.database.url),
        "postgres://u:***@db/b"
    );
    assert_eq!(
        redacted_url(&settings.broker.url),
        "amqp://billing:***@mq:5672/%2f"
    );
    assert_eq!(redacted_url(&"hunter2".into()), "(not a URL)");
}

const BAD_VALUES: &[(&str, &str, &str)] = &[
    ("WORKER__BATCH_MAX", "0", "0 is not in 1..=4096"),
    ("WORKER__BATCH_MAX", "70000", "70000 is not in 1..=4096"),
    ("WORKER__BATCH_MAX", "-1", "-1 is not in 1..=4096"),
    ("WORKER__BATCH_MAX", "", "\"\" is not a whole number"),
    (
        "WORKER__BATCH_MAX",
        "true",
        "\"true\" is not a whole number",
    ),
    ("WORKER__BATCH_MAX", "1.5", "\"1.5\" is not a whole number"),
    ("RETRY__ATTEMPTS", "21", "21 is not in 0..=20"),
    (
        "RETRY__BASE",
        "5",
        "\"5\" is not a duration such as \"500ms\", \"30s\" or \"10m\"",
    ),
    (
        "RETRY__BASE",
        "1500us",
        "\"1500us\" is finer than a millisecond",
    ),
    ("RETRY__BASE", "0s", "\"0s\" is not in 1ms..=1day"),
    (
        "BROKER__PREFIX",
        "a b",
        "\"a b\" is not 1 to 64 of A-Z a-z 0-9 . _ -",
    ),
    (
        "BROKER__PREFIX",
        "",
        "\"\" is not 1 to 64 of A-Z a-z 0-9 . _ -",
    ),
    (
        "BROKER__HEARTBEAT",
        "1500ms",
        "1s 500ms is not in whole seconds",
    ),
    ("LOG__FORMAT", "xml", "\"xml\" is not text or json"),
    ("DATABASE__URL", "", "empty"),
    (
        "DATABASE__URL",
        "mysql://u:hunter2@db/b",
        "the URL's scheme is not postgres or postgresql",
    ),
    (
        "DATABASE__URL",
        "hunter2:hunter2@db",
        "not a URL, which starts with postgres://",
    ),
    (
        "DATABASE__URL",
        "postgres://u:hunter2@db:99999/b",
        "not a valid URL: invalid port number",
    ),
    ("BROKER__URL", "amqp:///hunter2", "the URL names no host"),
    (
        "BROKER__PREFIX",
        BROKER_URL,
        "a URL is not 1 to 64 of A-Z a-z 0-9 . _ -",
    ),
    (
        "DATABASE__LOCK_TIMEOUT",
        "30s",
        "30s is not below database.statement_timeout, 30s: it would never fire",
    ),
    (
        "WORKER__HOLD_MAX",
        "15m",
        "15m is not below half of the broker's consumer timeout of 30m",
    ),
    ("RETRY__MAX_DELAY", "999ms", "999ms is below retry.base, 1s"),
    (
        "RECONNECT__MAX",
        "100ms",
        "100ms is below reconnect.initial, 200ms",
    ),
    (
        "WORKER__PREFETCH",
        "100",
        "100 is below worker.batch_max, 1024: no batch could fill",
    ),
];

#[test]
fn a_bad_value_is_refused_with_its_key_and_variable() {
    for (name, value, problem) in BAD_VALUES {
        let key = name.to_lowercase().replace("__", ".");
        assert_eq!(
            refused("", env(&[(name, value)])),
            format!("{key}: {problem} (set by TOKEN_BILLING__{name})")
        );
    }
    let filter = refused("", env(&[("LOG__FILTER", "info,=,[")]));
    assert!(filter.starts_with("log.filter: \"info,=,[\" is not a filter such as info"));
}

#[test]
fn a_bad_value_in_the_file_is_refused_with_its_key_and_the_file() {
    let rows = [
        (
            "[worker]\nbatch_max = 0",
            "worker.batch_max: 0 is not in 1..=4096",
        ),
        (
            "[worker]\nbatch_max = 1.5",
            "worker.batch_max: 1.5 is not a whole number",
        ),
        (
            "[worker]\nbatch_max = [1]",
            "worker.batch_max: expected a whole number",
        ),
        (
            "[worker]\nbatch_max = true",
            "worker.batch_max: expected a whole number",
        ),
        ("[broker]\nprefix = [1]", "broker.prefix: expected a string"),
        ("database = \"hunter2\"", "database: expected a section"),
    ];
    for (text, problem) in rows {
        let mut env = env(&[]);
        env.retain(|name, _| name.contains("BROKER") || !text.contains("database"));
        let error = refused(text, env);
        assert!(
            error.starts_with(&format!("{problem} (look in FILE, or set TOKEN_BILLING__")),
            "{error}"
        );
    }
}

#[test]
fn an_unknown_key_is_refused_with_its_full_name() {
    let known = "there are base, factor, max_delay, attempts";
    assert_eq!(
        refused("[retry]\nbogus = 1", env(&[])),
        format!(
            "retry.bogus: no such setting; {known} \
             (look in FILE, or set TOKEN_BILLING__RETRY__BOGUS)"
        )
    );
    assert_eq!(
        refused("", env(&[("RETRY__BOGUS", "hunter2")])),
        format!("retry.bogus: no such setting; {known} (set by TOKEN_BILLING__RETRY__BOGUS)")
    );
    assert!(refused("[retyr]\nbase = 1", env(&[])).starts_with("retyr: no such setting"));
    assert!(refused("", env(&[("RETYR__BASE", "1s")])).starts_with("retyr: no such setting"));
    for name in [
        "WORKER",
        "WORKER__",
        "",
        "__",
        "A__B__C",
        "worker__batch_max",
    ] {
        let error = refused("", env(&[(name, "hunter2")]));
        assert!(
            error.contains("not a setting: variables are named"),
            "{error}"
        );
        assert!(
            error.ends_with(&format!("(set by TOKEN_BILLING__{name})")),
            "{error}"
        );
    }
}

#[test]
fn a_missing_url_is_refused_by_name_to_those_who_need_it() {
    let mut env = env(&[]);
    env.remove("TOKEN_BILLING__DATABASE__URL");
    let settings = Settings::load_from(None, env).unwrap();
    assert_eq!(
        settings.require_database().unwrap_err().to_string(),
        "database.url: missing (set TOKEN_BILLING__DATABASE__URL, or database.url in a file given \
         with --config)"
    );
    assert!(settings.require_broker().is_ok());
    assert!(Settings::default().require_broker().is_err());
}

#[test]
fn an_unreadable_file_is_refused_by_name() {
    let error = Settings::load_from(Some(Path::new("/nowhere/x.toml")), env(&[])).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("/nowhere/x.toml: can't be read: ")
    );
}

#[test]
fn a_file_that_is_not_toml_is_refused_without_repeating_its_lines() {
    let error = refused("[database]\nurl = \"postgres://u:hunter2@db", env(&[]));
    assert!(
        error.starts_with("FILE: TOML parse error at line 2, column "),
        "{error}"
    );
    assert!(error.len() > "FILE: TOML parse error at line 2, column 37: ".len());
}

const SAMPLE: &str = include_str!("../../deploy/token-billing.toml");

fn is_setting(line: &str) -> bool {
    let key = line
        .strip_prefix("# ")
        .and_then(|line| line.split_once(" = "));
    key.is_some_and(|(key, _)| key.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'_')))
}

/// The sample file with its settings no longer commented out.
fn uncommented() -> String {
    let uncomment = |line| if is_setting(line) { &line[2..] } else { line };
    SAMPLE
        .lines()
        .map(|line| uncomment(line).to_owned() + "\n")
        .collect()
}

#[test]
fn the_sample_file_shows_the_defaults() {
    let file = file(&uncommented());
    let mut shown = Settings::load_from(Some(file.path()), HashMap::new()).unwrap();
    let defaults = Settings::load_from(None, env(&[])).unwrap();
    // The one that depends on the machine.
    assert_eq!(shown.worker.lanes, 4);
    shown.worker.lanes = defaults.worker.lanes;
    assert_eq!(format!("{shown:#?}"), format!("{defaults:#?}"));
    // As it is delivered it sets nothing.
    let commented = self::file(SAMPLE);
    let settings = Settings::load_from(Some(commented.path()), env(&[])).unwrap();
    assert_eq!(settings.database.url.expose_secret(), DATABASE_URL);
}

#[test]
fn the_sample_file_names_every_setting() {
    let mut shown = Vec::new();
    let mut section = "";
    for line in SAMPLE.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        } else if is_setting(line) {
            let (key, _) = line[2..].split_once(" = ").unwrap();
            shown.push(format!("{section}.{key}"));
        }
    }
    assert_eq!(shown, every_key());
}
