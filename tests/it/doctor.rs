//! What `doctor` says of an installation that is in order, and of each thing that isn't.

use crate::support::{
    command::Ran, db::TestDb, diagnosis::Diagnosis, pending::pending, role::healthy,
    servers::Servers, site::Site,
};

#[tokio::test]
async fn an_installation_in_order_is_healthy_and_stays_as_it_is() {
    let (site, _role) = healthy().await;
    let company = site.company(0, 1000).await;
    pending(&site, company, 10, 90).await;
    let before = site.db.everything().await;
    let diagnosis = site.doctor().await;
    assert_eq!(diagnosis.with("failed"), [""; 0], "{diagnosis:#?}");
    assert_eq!(
        diagnosis.with("unchecked"),
        ["bindings", "policies"],
        "{diagnosis:#?}"
    );
    for check in [
        "settings",
        "database",
        "migrations",
        "functions",
        "clock",
        "rights_enough",
        "application_tables",
        "row_security",
        "triggers",
        "durability",
        "rights_no_more",
        "rights_of_others",
        "encryption",
        "broker",
        "exchange",
        "queue",
        "probe",
    ] {
        assert!(diagnosis.with("ok").contains(&check), "{check}");
    }
    assert!(diagnosis.finding("database").contains("PostgreSQL 1"));
    assert!(diagnosis.finding("broker").starts_with("RabbitMQ "));
    assert_eq!(diagnosis.status()["pending"], 1);
    let age = diagnosis.status()["oldest_pending_age_seconds"].as_i64();
    assert!((5400..5500).contains(&age.expect("an age")), "{age:?}");
    assert_eq!(site.db.everything().await, before);

    // Nothing of the probe is left, not even its exchange, for which a publish would be in order.
    let prefix = diagnosis.find("probe")["subject"].as_str().expect("one");
    assert!(prefix.starts_with(&format!("{}.doctor-", site.broker.prefix())));
    for queue in ["deductions", "deductions.retry.200ms"] {
        let ready = site.broker.ready_count(&format!("{prefix}.{queue}")).await;
        assert_eq!(ready, None, "{queue}");
    }
    let exchange = site.broker.channel().exchange_declare(
        prefix.into(),
        lapin::ExchangeKind::Direct,
        lapin::options::ExchangeDeclareOptions {
            passive: true,
            ..Default::default()
        },
        lapin::types::FieldTable::default(),
    );
    let missing = exchange.await.expect_err("the exchange is gone");
    assert!(missing.to_string().contains("NOT_FOUND"), "{missing}");
}

#[tokio::test]
async fn a_person_reads_a_sign_and_a_fix_below_it() {
    let (site, _role) = healthy().await;
    let ran = site.run(&["doctor"]).await;
    let text = ran.done();
    let words = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let lines: Vec<Vec<String>> = text.lines().map(words).collect();
    assert!(lines.contains(&words("✓ migrations all applied")), "{text}");
    assert!(text.contains("–  policies "), "{text}");
    assert!(!text.contains('✗') && !text.contains('→'), "{text}");
    assert!(text.contains("dead letters     0 open\n"), "{text}");
    let delay = site.broker.delay_queue(std::time::Duration::from_secs(1));
    site.broker.delete(&delay).await;
    let ran = site.run(&["doctor"]).await;
    let error = ran.failed(1);
    assert!(error.contains("1 check failed"), "{error}");
    let lines: Vec<&str> = ran.printed().lines().collect();
    let at = lines.iter().position(|line| line.starts_with('✗'));
    let at = at.expect("a line");
    assert!(
        lines[at].contains(&format!("{delay}: is not there")),
        "{ran:#?}"
    );
    assert!(
        lines[at + 1].contains("→ start token-billing serve"),
        "{ran:#?}"
    );
}

async fn nothing(_: &sqlx::PgPool) {}

#[tokio::test]
async fn a_database_that_is_not_migrated_is_told_how() {
    let site = Site::new().await;
    let empty = TestDb::create(Servers::shared(), nothing).await;
    let url = [("TOKEN_BILLING__DATABASE__URL", empty.url())];
    let diagnosis = site.doctor_in(&url).await;
    let (finding, fix) = diagnosis.failure("migrations");
    assert!(finding.starts_with("not applied: 1, 2, "), "{finding}");
    assert_eq!(fix, "token-billing migrate");
    for check in ["functions", "rights_enough"] {
        let why = diagnosis.finding(check);
        assert_eq!(why, "not checked: the database is not migrated", "{check}");
    }
    assert!(diagnosis.with("unchecked").contains(&"status"));
    assert_eq!(diagnosis.status(), &serde_json::Value::Null);
}

#[tokio::test]
async fn migrations_of_another_version_are_told_from_missing_ones() {
    let (site, _role) = healthy().await;
    let row =
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
               values (9000, 'to come', true, '', 0)";
    site.db.execute(row).await;
    let diagnosis = site.doctor().await;
    let (finding, fix) = diagnosis.only_failure("migrations");
    assert!(
        finding.contains("newer than this program") && finding.ends_with("9000"),
        "{finding}"
    );
    assert!(fix.contains("or a newer one"), "{fix}");
    site.db
        .execute("delete from _sqlx_migrations where version = 9000; update _sqlx_migrations set success = false where version = 3")
        .await;
    let diagnosis = site.doctor().await;
    let (finding, _) = diagnosis.only_failure("migrations");
    assert_eq!(finding, "begun and not finished: 3");
    site.db
        .execute("update _sqlx_migrations set success = true, checksum = 'x' where version = 3")
        .await;
    let diagnosis = site.doctor().await;
    let (finding, _) = diagnosis.only_failure("migrations");
    assert!(finding.contains("with another text"), "{finding}");
}

#[tokio::test]
async fn a_function_that_was_altered_in_any_way_is_named_with_where_its_text_is() {
    let (site, _role) = healthy().await;
    let signature = "job_of(text)";
    for (alter, back) in [
        (
            "create or replace function job_of(p_idempotency_key text) returns uuid language sql immutable parallel safe
             as $$ select null::uuid $$",
            None,
        ),
        ("drop function job_of(text)", None),
        (
            "alter function deduct_tokens_batch(text[],uuid[],uuid[],bigint[],jsonb[],text[],uuid[]) set search_path = public",
            Some("set search_path = public, pg_temp"),
        ),
        (
            "alter function deduct_tokens_batch(text[],uuid[],uuid[],bigint[],jsonb[],text[],uuid[]) security invoker",
            Some("security definer"),
        ),
        (
            "alter function deduct_tokens_batch(text[],uuid[],uuid[],bigint[],jsonb[],text[],uuid[]) reset enable_seqscan",
            Some("set enable_seqscan = off"),
        ),
    ] {
        site.db.execute(format!("begin; {alter}; commit")).await;
        let diagnosis = site.doctor().await;
        let (finding, fix) = diagnosis.failure("functions");
        if back.is_none() {
            assert!(finding.contains(signature), "{alter}: {finding}");
            assert!(fix.contains("migrations/functions/: job_of.sql"), "{fix}");
        }
        if let Some(back) = back {
            assert!(finding.contains("deduct_tokens_batch("), "{alter}: {finding}");
            assert!(fix.contains("deduct_tokens_batch.sql"), "{fix}");
            let of = "deduct_tokens_batch(text[],uuid[],uuid[],bigint[],jsonb[],text[],uuid[])";
            site.db.execute(format!("alter function {of} {back}")).await;
        }
    }
    let diagnosis = site.doctor().await;
    let (finding, _) = diagnosis.only_failure("functions");
    assert_eq!(finding, "job_of(text) is missing");
}

#[tokio::test]
async fn clocks_that_differ_too_much_are_found() {
    let (site, role) = healthy().await;
    let name = role.quoted();
    for (shift, way) in [
        ("+ interval '6 s'", "ahead of"),
        ("- interval '1 h'", "behind"),
    ] {
        site.db
            .execute(format!(
                "create schema if not exists shifted; grant usage on schema shifted to {name};
                 create or replace function shifted.clock_timestamp() returns timestamptz language sql as
                     'select pg_catalog.clock_timestamp() {}';
                 alter role {name} set search_path = public, shifted, pg_catalog",
                shift.replace('\'', "''")
            ))
            .await;
        let diagnosis = site.doctor().await;
        let (finding, fix) = diagnosis.only_failure("clock");
        assert!(
            finding.contains(way) && finding.contains("the limit is 5 s"),
            "{finding}"
        );
        assert!(fix.contains("NTP"), "{fix}");
    }
}

#[tokio::test]
async fn a_database_that_cannot_be_written_is_found() {
    let (site, role) = healthy().await;
    let name = role.quoted();
    site.db
        .execute(format!(
            "alter role {name} set default_transaction_read_only = on"
        ))
        .await;
    let diagnosis = site.doctor().await;
    let (finding, fix) = diagnosis.only_failure("database");
    assert!(finding.contains("can only be read"), "{finding}");
    assert!(fix.contains("primary"), "{fix}");
}

#[tokio::test]
async fn an_article_query_that_this_role_may_not_run_is_found() {
    let (mut site, role) = healthy().await;
    site.db.execute("create table posts (id uuid)").await;
    let query = "select exists (select from posts where id = $1)";
    site.set("SWEEPER__ARTICLE_EXISTS_QUERY", query);
    let diagnosis = site.doctor().await;
    let (finding, fix) = diagnosis.only_failure("article_query");
    assert!(
        finding.contains("permission denied for table posts"),
        "{finding}"
    );
    assert!(fix.contains("sweeper.article_exists_query"), "{fix}");
    site.db
        .execute(format!("grant select on posts to {}", role.quoted()))
        .await;
    assert!(site.doctor().await.with("ok").contains(&"article_query"));
}

#[tokio::test]
async fn a_bad_or_missing_setting_is_a_finding_with_its_key() {
    let (site, _role) = healthy().await;
    let diagnosis = site
        .doctor_in(&[("TOKEN_BILLING__WORKER__BATCH_MAX", "many")])
        .await;
    let (finding, fix) = diagnosis.only_failure("settings");
    assert!(finding.starts_with("worker.batch_max: "), "{finding}");
    assert!(
        finding.contains("TOKEN_BILLING__WORKER__BATCH_MAX"),
        "{finding}"
    );
    assert!(fix.contains("token-billing.toml"), "{fix}");
    assert_eq!(
        diagnosis.finding("probe"),
        "not checked: the settings are bad"
    );
    assert_eq!(diagnosis.with("ok"), [""; 0]);

    let environment = site.environment();
    let without: Vec<(&str, &str)> = environment
        .into_iter()
        .filter(|(key, _)| !key.ends_with("DATABASE__URL"))
        .collect();
    let args = ["doctor", "--output", "json"];
    let diagnosis = Diagnosis::of(Ran::to_its_end(&args, &without, b"").await);
    let (finding, _) = diagnosis.only_failure("settings");
    assert!(finding.starts_with("database.url: missing"), "{finding}");
    assert_eq!(
        diagnosis.finding("functions"),
        "not checked: database.url is missing"
    );
    assert!(diagnosis.with("ok").contains(&"probe"));
}
