//! Wrong settings: refused by the binary at once, with the setting's name, whatever the command.

use tempfile::NamedTempFile;
use uuid::Uuid;

use crate::support::{command::Ran, site::Site};

const PASSWORD: &str = "hunter2";
const DATABASE: (&str, &str) = (
    "DATABASE__URL",
    "postgres://billing:hunter2@db.invalid/billing",
);
const BROKER: (&str, &str) = ("BROKER__URL", "amqp://billing:hunter2@mq.invalid/%2f");

/// Runs a command with these settings; none of them may show the password.
async fn run(args: &[&str], settings: &[(&str, &str)]) -> Ran {
    let named: Vec<(String, &str)> = settings
        .iter()
        .map(|(key, value)| (format!("TOKEN_BILLING__{key}"), *value))
        .collect();
    let environment: Vec<(&str, &str)> = named
        .iter()
        .map(|(name, value)| (name.as_str(), *value))
        .collect();
    let ran = Ran::to_its_end(args, &environment, b"").await;
    assert!(!ran.notes().contains(PASSWORD), "the password in {ran:#?}");
    ran
}

/// The only line of a `serve` that refused to start.
async fn refused(args: &[&str], settings: &[(&str, &str)]) -> String {
    let ran = run(&[&["serve"], args].concat(), settings).await;
    let error = ran.refused(1);
    assert_eq!(error.lines().count(), 1, "one line, and no log: {error}");
    error.trim_end().to_owned()
}

fn file(text: &str) -> NamedTempFile {
    let file = NamedTempFile::with_suffix(".toml").expect("a temporary file");
    std::fs::write(file.path(), text).expect("written");
    file
}

fn path(file: &NamedTempFile) -> &str {
    file.path().to_str().expect("UTF-8")
}

/// Variable, value, and what is said of it.
const WRONG_VARIABLES: &[(&str, &str, &str)] = &[
    // A key that there is not, a section that there is not, and no key at all.
    (
        "WORKER__BATCHMAX",
        "7",
        "worker.batchmax: no such setting; there are ",
    ),
    ("WRKER__BATCH_MAX", "7", "wrker: no such setting"),
    ("WORKER", "7", "worker: not a setting"),
    ("worker__batch_max", "7", "worker.batch_max: not a setting"),
    // Numbers.
    (
        "WORKER__BATCH_MAX",
        "many",
        "worker.batch_max: \"many\" is not a whole number",
    ),
    (
        "WORKER__BATCH_MAX",
        "1.5",
        "worker.batch_max: \"1.5\" is not a whole number",
    ),
    (
        "WORKER__BATCH_MAX",
        "",
        "worker.batch_max: \"\" is not a whole number",
    ),
    (
        "WORKER__BATCH_MAX",
        "0",
        "worker.batch_max: 0 is not in 1..=4096",
    ),
    (
        "RETRY__ATTEMPTS",
        "-1",
        "retry.attempts: -1 is not in 0..=20",
    ),
    // Durations.
    ("RETRY__BASE", "5", "retry.base: \"5\" is not a duration"),
    (
        "RETRY__BASE",
        "-1s",
        "retry.base: \"-1s\" is not a duration",
    ),
    (
        "BROKER__HEARTBEAT",
        "1ms",
        "broker.heartbeat: \"1ms\" is not in 1s..=10m",
    ),
    // Words.
    (
        "REFUND__EXPIRED_MONTHLY",
        "keep",
        "refund.expired_monthly: \"keep\" is not forfeit or purchased",
    ),
    (
        "LOG__FORMAT",
        "xml",
        "log.format: \"xml\" is not text or json",
    ),
    (
        "LOG__FILTER",
        "info,=,[",
        "log.filter: \"info,=,[\" is not a filter",
    ),
    ("BROKER__PREFIX", "a b", "broker.prefix: \"a b\" is not "),
    // Impossible together.
    (
        "WORKER__PREFETCH",
        "1",
        "worker.prefetch: 1 is below worker.batch_max, 1024",
    ),
    (
        "RETRY__MAX_DELAY",
        "1ms",
        "retry.max_delay: 1ms is below retry.base, 1s",
    ),
    (
        "RECONNECT__MAX",
        "1ms",
        "reconnect.max: 1ms is below reconnect.initial, 200ms",
    ),
    (
        "DATABASE__LOCK_TIMEOUT",
        "30s",
        "database.lock_timeout: 30s is not below database.statement_timeout",
    ),
    (
        "WORKER__HOLD_MAX",
        "1h",
        "worker.hold_max: 1h is not below half of the broker's consumer timeout",
    ),
    (
        "HTTP__BODY_TIMEOUT",
        "31s",
        "http.body_timeout: 31s is above http.request_timeout, 30s",
    ),
    // Addresses, paths and links.
    (
        "HTTP__LISTEN",
        "8080",
        "http.listen: \"8080\" is not an address and a port",
    ),
    (
        "OPS__LISTEN",
        "localhost:9090",
        "ops.listen: \"localhost:9090\" is not an address and a port",
    ),
    (
        "HTTP__BASE_PATH",
        "billing/",
        "http.base_path: \"billing/\" is not \"/\" or a path",
    ),
    (
        "HTTP__UPGRADE_URL",
        "javascript:alert(1)",
        "http.upgrade_url: not a URL such as ",
    ),
    (
        "HTTP__CORS_ORIGINS",
        "https://app.example.com/",
        "http.cors_origins: a URL is not an origin",
    ),
    // URLs, whose password is nobody's business.
    ("DATABASE__URL", "", "database.url: empty"),
    (
        "DATABASE__URL",
        "billing:hunter2@db/billing",
        "database.url: not a URL",
    ),
    (
        "DATABASE__URL",
        "mysql://billing:hunter2@db/billing",
        "database.url: the URL's scheme is not ",
    ),
    (
        "DATABASE__URL",
        "postgres://billing:hunter2@db:port/billing",
        "database.url: not a valid URL",
    ),
    ("BROKER__URL", "", "broker.url: empty"),
    (
        "BROKER__URL",
        "https://billing:hunter2@mq/",
        "broker.url: the URL's scheme is not amqp or amqps",
    ),
    (
        "BROKER__URL",
        "amqp://billing:hunter2@mq:99999/",
        "broker.url: not a valid URL",
    ),
    ("BROKER__PREFIX", BROKER.1, "broker.prefix: a URL is not "),
];

#[tokio::test]
async fn a_wrong_variable_keeps_the_service_from_starting() {
    for &(name, value, problem) in WRONG_VARIABLES {
        let others = [DATABASE, BROKER]
            .into_iter()
            .filter(|(key, _)| *key != name);
        let settings: Vec<_> = others.chain([(name, value)]).collect();
        let error = refused(&[], &settings).await;
        assert!(
            error.starts_with(&format!("error: {problem}")),
            "{name}={value}: {error}"
        );
        let place = format!("(set by TOKEN_BILLING__{name})");
        assert!(error.ends_with(&place), "{name}={value}: {error}");
    }
}

#[tokio::test]
async fn a_wrong_file_keeps_the_service_from_starting() {
    let rows = [
        (
            "[worker]\nbatchmax = 7",
            "worker.batchmax: no such setting; there are ",
        ),
        ("[wrker]\nbatch_max = 7", "wrker: no such setting"),
        ("batch_max = 7", "batch_max: no such setting"),
        (
            "[worker]\nbatch_max = \"many\"",
            "worker.batch_max: \"many\" is not a whole number",
        ),
        (
            "[worker]\nbatch_max = 1.5",
            "worker.batch_max: 1.5 is not a whole number",
        ),
        (
            "[retry]\nbase = \"5\"",
            "retry.base: \"5\" is not a duration",
        ),
        (
            "[worker]\nprefetch = 1",
            "worker.prefetch: 1 is below worker.batch_max, 1024",
        ),
        (
            "[worker]\nprefetch = []",
            "worker.prefetch: expected a whole number",
        ),
        ("worker = 7", "worker: expected a section"),
        (
            "[log]\nfilter = \"amqp://u:hunter2@mq/=[\"",
            "log.filter: a URL is not a filter",
        ),
    ];
    for (text, problem) in rows {
        let file = file(text);
        let error = refused(&["--config", path(&file)], &[DATABASE, BROKER]).await;
        assert!(
            error.starts_with(&format!("error: {problem}")),
            "{text}: {error}"
        );
        assert!(error.contains(path(&file)), "which file: {error}");
    }
    for url in [
        "url = \"mysql://billing:hunter2@db/billing\"",
        "url = [\"postgres://billing:hunter2@db/billing\"]",
    ] {
        let file = file(&format!("[database]\n{url}"));
        let error = refused(&["--config", path(&file)], &[BROKER]).await;
        assert!(error.starts_with("error: database.url: "), "{error}");
    }
    let broken = file("[database]\nurl = \"postgres://billing:hunter2@db/billing");
    let error = refused(&["--config", path(&broken)], &[BROKER]).await;
    let place = format!("error: {}: TOML parse error at line 2", path(&broken));
    assert!(error.starts_with(&place), "{error}");
    let error = refused(&["--config", "/nowhere/x.toml"], &[DATABASE, BROKER]).await;
    assert!(
        error.starts_with("error: /nowhere/x.toml: can't be read: "),
        "{error}"
    );
}

#[tokio::test]
async fn a_missing_url_is_named_with_its_variable_to_whoever_needs_it() {
    for (missing, present) in [("database", BROKER), ("broker", DATABASE)] {
        let error = refused(&[], &[present]).await;
        let variable = format!("TOKEN_BILLING__{}__URL", missing.to_uppercase());
        assert!(
            error.starts_with(&format!("error: {missing}.url: missing (set {variable}, ")),
            "{error}"
        );
    }
    let company = Uuid::new_v4().to_string();
    let publish = ["publish", "--job-id", &company, "--tokens", "1"];
    let credit = ["credit", &company, "--purchased", "1", "--key", "k"];
    for (args, missing, present) in [
        (&publish[..], "broker.url", DATABASE),
        (&["balance", &company], "database.url", BROKER),
        (&credit, "database.url", BROKER),
        (&["migrate"], "database.url", BROKER),
        (&["bench"], "database.url", BROKER),
        (&["bench"], "broker.url", DATABASE),
    ] {
        let ran = run(args, &[present]).await;
        assert!(
            ran.refused(1)
                .starts_with(&format!("error: {missing}: missing ")),
            "{ran:#?}"
        );
    }
}

#[tokio::test]
async fn every_command_refuses_wrong_settings() {
    let company = Uuid::new_v4().to_string();
    let publish = ["publish", "--job-id", &company, "--tokens", "1"];
    let credit = ["credit", &company, "--purchased", "1", "--key", "k"];
    for args in [
        &["serve"][..],
        &["migrate"],
        &publish,
        &["balance", &company],
        &credit,
        &["bench"],
    ] {
        let ran = run(args, &[DATABASE, BROKER, ("WORKER__PREFETCH", "1")]).await;
        assert!(
            ran.refused(1).starts_with("error: worker.prefetch: "),
            "{ran:#?}"
        );
    }
}

#[tokio::test]
async fn the_environment_goes_before_the_file() {
    let site = Site::new().await;
    let company = site.company(7, 8).await.to_string();
    let (database, balance) = (site.db.url(), ["balance", &company]);
    let good = file(&format!("[database]\nurl = \"{database}\"\n"));
    let away = file(&format!("[database]\nurl = \"{}\"\n", DATABASE.1));
    let ran = run(&[&balance[..], &["--config", path(&good)]].concat(), &[]).await;
    assert!(ran.done().contains("15"), "{ran:#?}");
    let settings = [("DATABASE__URL", database)];
    run(
        &[&["--config", path(&away)][..], &balance].concat(),
        &settings,
    )
    .await
    .done();
}

#[tokio::test]
async fn variables_with_one_underscore_are_somebody_elses() {
    // Kubernetes adds these for a Service of the name token-billing.
    let variables = [
        ("TOKEN_BILLING_PORT", "tcp://10.0.0.1:80"),
        ("TOKEN_BILLING_SERVICE_HOST", "10.0.0.1"),
    ];
    let site = Site::new().await;
    let company = site.company(7, 8).await.to_string();
    site.run_in(&variables, &["balance", &company]).await.done();
}
