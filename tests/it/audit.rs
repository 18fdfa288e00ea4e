//! The audit: right ledger pass, and each kind of wrong is found.

use serde_json::Value;
use uuid::Uuid;

use crate::support::{
    ledger::{Item, mark_pending},
    site::Site,
};

/// Books with something of everything, all of it right.
async fn ledger(site: &Site) -> (Uuid, Vec<Uuid>) {
    let company = site.company(100, 1000).await;
    let other = site.company(0, 50).await;
    let mut jobs = Vec::new();
    for tokens in [30, 90, 200] {
        let job = site.job(company).await;
        assert!(site.db.deduct(job, company, tokens).await.success);
        jobs.push(job);
    }
    assert!(!site.db.deduct(Uuid::new_v4(), other, 51).await.success);
    let credit = site
        .run(&[
            "credit",
            &other.to_string(),
            "--purchased",
            "5",
            "--key",
            "one",
        ])
        .await;
    credit.done();
    site.db.deduct(Uuid::new_v4(), other, 51).await;
    mark_pending(site.db.pool(), &[Item::new("pending", company, 9)], "busy")
        .await
        .expect("marked");
    (company, jobs)
}

/// A monthly quota of 100.
async fn renew(site: &Site, company: Uuid) {
    let id = company.to_string();
    let renewal = [
        "credit",
        &id,
        "--monthly",
        "100",
        "--period-end",
        "2099-01-01T00:00:00Z",
        "--key",
        "m",
    ];
    site.run(&renewal).await.done();
}

async fn audit(site: &Site) -> Value {
    site.run(&["audit", "--output", "json"]).await.json()
}

#[tokio::test]
async fn a_right_ledger_passes() {
    let site = Site::new().await;
    ledger(&site).await;
    let ran = site.run(&["audit"]).await;
    assert!(
        ran.done().contains("6 records, 4 usage logs, 1 credit "),
        "{ran:#?}"
    );
    assert!(!ran.done().contains('✗'), "{ran:#?}");
    let report = audit(&site).await;
    assert_eq!(report["external_changes_count"], 0, "{report:#}");
    assert_eq!(report["violations"], serde_json::json!([]), "{report:#}");
}

#[tokio::test]
async fn each_kind_of_wrong_is_found_by_its_name() {
    for (kind, wrong) in [
        (
            "charge_without_log",
            "alter table token_usage_logs disable trigger no_delete; delete from token_usage_logs where token_amount = 30",
        ),
        ("charge_log_wrong", "update token_usage_logs set token_amount = 31 where token_amount = 30"),
        ("charge_log_wrong", "update token_usage_logs set company_id = gen_random_uuid() where token_amount = 30"),
        (
            "charge_log_wrong",
            "insert into token_usage_logs (id, company_id, token_amount, deduction_record_id, usage_type)
             select 1000, company_id, token_amount, deduction_record_id, usage_type
             from token_usage_logs where token_amount = 30",
        ),
        (
            "log_without_record",
            "insert into token_usage_logs (id, company_id, token_amount, deduction_record_id, usage_type)
             values (1000, gen_random_uuid(), 5, gen_random_uuid(), 'x')",
        ),
        (
            "charge_arithmetic",
            "alter table token_deduction_records drop constraint deduction_charged_is_whole;
             update token_deduction_records set monthly_deducted = 29 where amount = 30",
        ),
        (
            "duplicate_position",
            "update token_deduction_records set ledger_seq = (select min(ledger_seq) from token_credits) where amount = 30",
        ),
        ("refund_without_credit", "update token_deduction_records set status = 'compensated' where amount = 30"),
        ("refund_logs_wrong", "update token_deduction_records set status = 'compensated' where amount = 30"),
        ("refund_credit_wrong", "update token_credits set kind = 'refund'"),
        (
            "negative_balance",
            "do $$ declare c text; begin
                 for c in select conname from pg_constraint where conrelid = 'company_subscriptions'::regclass and contype = 'c'
                 loop execute 'alter table company_subscriptions drop constraint ' || c; end loop; end $$;
             update company_subscriptions set purchased_token_balance = -1 where company_id = (select min(company_id::text)::uuid from company_subscriptions)",
        ),
        ("pending_too_long", "update token_deduction_records set pending_since = now() - interval '2 hours'"),
        ("dead_letter_resolved_uncharged", "update dead_letters set state = 'resolved', resolved_at = now() where reason = 'malformed'"),
        ("dead_letter_open_though_charged", "update dead_letters set archived_at = now() - interval '2 hours', job_id = (select idempotency_key::uuid from token_deduction_records where amount = 30);
             update token_deduction_records set completed_at = now() - interval '2 hours' where amount = 30"),
    ] {
        let site = Site::new().await;
        ledger(&site).await;
        site.db
            .execute(
                "insert into dead_letters (reason, error, error_signature, body, attempts, first_failed_at, last_failed_at, last_arrival)
                 values ('malformed', 'e', 'e', '{}', 1, now(), now(), 1)",
            )
            .await;
        assert_eq!(audit(&site).await["violations"], serde_json::json!([]), "before {kind}");
        site.db.execute(wrong).await;
        let ran = site.run(&["audit", "--output", "json"]).await;
        assert!(ran.failed(3).contains("violation"), "{ran:#?}");
        let report = ran.json();
        let violations = report["violations"].as_array().expect("a list");
        assert!(violations.iter().any(|found| found["kind"] == kind), "{kind}: {report:#}");
        let ran = site.run(&["audit"]).await;
        ran.failed(3);
    }
}

#[tokio::test]
async fn what_an_application_changed_is_listed_or_forbidden() {
    let mut site = Site::new().await;
    let (company, _) = ledger(&site).await;
    let give = format!(
        "update company_subscriptions set purchased_token_balance = purchased_token_balance + 77 where company_id = '{company}'"
    );
    site.db.execute(give.clone()).await;
    let last = site
        .number("select max(ledger_seq) from token_deduction_records where amount = 200")
        .await;
    assert!(site.db.deduct(Uuid::new_v4(), company, 1).await.success);
    site.db.execute(give).await;

    let report = site.run(&["audit", "--output", "json"]).await.document();
    let after = site
        .number("select max(ledger_seq) from token_deduction_records")
        .await;
    let company = company.to_string();
    assert_eq!(
        report["external_changes"],
        serde_json::json!([
            { "company_id": company, "tokens": 77, "after_seq": last, "before_seq": after },
            { "company_id": company, "tokens": 77, "after_seq": after, "before_seq": null },
        ])
    );
    let chain = |report: &Value| {
        let checks = report["checks"].as_array().expect("a list");
        let last = checks.last().expect("a check");
        assert_eq!(last["name"], "chain", "{report:#}");
        last["violations"].clone()
    };
    assert_eq!(chain(&report), 0);
    site.set("AUDIT__EXTERNAL_WRITES", "forbidden");
    let ran = site.run(&["audit", "--output", "json"]).await;
    assert!(ran.failed(3).contains("2 violations"), "{ran:#?}");
    assert_eq!(chain(&ran.json()), 2);
    let table = site.run(&["audit"]).await;
    table.failed(3);
    assert!(table.printed().contains("✗  chain"), "{table:#?}");
}

#[tokio::test]
async fn an_expired_quota_is_no_external_change() {
    let site = Site::new().await;
    let company = site.company(0, 500).await;
    renew(&site, company).await;
    assert!(site.db.deduct(Uuid::new_v4(), company, 40).await.success);
    // The quota's end comes: in the ledger as well, or the end would itself be a change from outside.
    site.db
        .execute(
            "update company_subscriptions set current_period_end = now();
             update token_credits set period_end_after = now();
             update token_deduction_records set monthly_period_end = now()",
        )
        .await;
    assert!(site.db.deduct(Uuid::new_v4(), company, 40).await.success);
    assert_eq!(site.balance(company).await, (60, 460));
    let report = audit(&site).await;
    assert_eq!(report["external_changes_count"], 0, "{report:#}");
}

#[tokio::test]
async fn a_ledger_that_is_written_meanwhile_passes_as_well() {
    let site = std::sync::Arc::new(Site::new().await);
    let company = site.company(0, 1_000_000).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let charging = {
        let site = site.clone();
        tokio::spawn(async move {
            while !*stopped.borrow() {
                let items: Vec<Item> = (0..50)
                    .map(|_| Item::new(Uuid::new_v4(), company, 1))
                    .collect();
                site.db.deduct_batch(&items).await;
            }
        })
    };
    for _ in 0..5 {
        let report = audit(&site).await;
        assert_eq!(report["violations"], serde_json::json!([]), "{report:#}");
        assert_eq!(report["external_changes_count"], 0, "{report:#}");
    }
    stop.send_replace(true);
    charging.await.expect("charged on");
    assert!(audit(&site).await["size"]["records"].as_i64() > Some(0));
}

#[tokio::test]
async fn tokens_given_away_are_summed_by_day_and_reason() {
    let site = Site::new().await;
    let company = site.company(70, 0).await;
    renew(&site, company).await;
    site.db
        .execute(format!(
            "insert into token_deduction_records (idempotency_key, company_id, amount, status, error_code, written_off_at)
             select n::text, '{company}', 10, 'failed', 'article_not_found', '2026-01-01'::timestamptz + n % 2 * interval '1 day'
             from generate_series(1, 5) n"
        ))
        .await;
    let report = audit(&site).await;
    let given = report["given_away"].as_array().expect("a list");
    let seen: Vec<(&str, &str, i64)> = given
        .iter()
        .map(|row| {
            let text = |key: &str| row[key].as_str().expect("a text");
            (
                text("day"),
                text("reason"),
                row["tokens"].as_i64().expect("a number"),
            )
        })
        .collect();
    assert_eq!(
        seen[..2],
        [
            ("2026-01-01", "article_not_found", 20),
            ("2026-01-02", "article_not_found", 30)
        ]
    );
    assert_eq!((seen[2].1, seen[2].2), ("forfeited_by_renewal", 70));
    assert_eq!(seen.len(), 3);
}

#[tokio::test]
async fn periods_without_end_and_absurd_amounts_are_borne() {
    let site = Site::new().await;
    let company = site.company(1000, 1000).await;
    site.db
        .execute("update company_subscriptions set current_period_end = 'infinity'")
        .await;
    assert!(site.db.deduct(Uuid::new_v4(), company, 40).await.success);
    for tokens in [i64::MIN, i64::MIN, i64::MAX, i64::MAX] {
        let mut dead_letter = crate::support::dead_letters::refused(Uuid::new_v4(), company, 1);
        dead_letter.tokens = Some(tokens);
        site.archive(&[dead_letter]).await;
    }
    let id = company.to_string();
    for args in [
        &["balance", &id][..],
        &["dlq", "groups"],
        &["dlq", "stats"],
        &["audit"],
    ] {
        site.run(args).await.done();
    }
    site.run(&["dlq", "discard", "--all", "--reason", "absurd", "--yes"])
        .await
        .done();
    let report = audit(&site).await;
    assert_eq!(report["given_away"][0]["tokens"], i64::MAX, "{report:#}");
    assert_eq!(report["external_changes_count"], 0, "{report:#}");
}

#[tokio::test]
async fn what_is_discarded_is_given_away_once_and_only_if_nothing_else_became_of_it() {
    let site = Site::new().await;
    let company = site.company(0, 1000).await;
    let refused = crate::support::dead_letters::refused;
    let (charged, twice) = (Uuid::new_v4(), Uuid::new_v4());
    assert!(site.db.deduct(charged, company, 40).await.success);
    let mut complaint = refused(charged, company, 50);
    complaint.reason = "idempotency_key_reused".to_owned();
    let mut other = refused(twice, company, 70);
    other.reason = "company_mismatch".to_owned();
    site.archive(&[complaint, refused(twice, company, 70), other])
        .await;
    site.run(&["dlq", "discard", "--all", "--reason", "why", "--yes"])
        .await
        .done();
    let report = audit(&site).await;
    let given = report["given_away"].as_array().expect("a list");
    assert_eq!(given.len(), 1, "{report:#}");
    assert_eq!(given[0]["tokens"], 70, "{report:#}");
}

#[tokio::test]
async fn refunds_to_either_bucket_pass() {
    let site = Site::new().await;
    let company = site.company(0, 500).await;
    renew(&site, company).await;
    for tokens in [60, 90, 30] {
        let job = Uuid::new_v4();
        assert!(site.db.deduct(job, company, tokens).await.success);
        let job = job.to_string();
        let refund = ["refund", &job, "--reason", "why"];
        site.run(&refund).await.done();
        if tokens == 60 {
            // Spent for good: the next ones are paid from both buckets, and from one.
            assert!(site.db.deduct(Uuid::new_v4(), company, 70).await.success);
        }
    }
    let ran = site.run(&["audit", "--output", "json"]).await;
    let report = ran.document();
    assert_eq!(report["violations"], serde_json::json!([]), "{report:#}");
    assert_eq!(report["external_changes_count"], 0, "{report:#}");
    assert_eq!(report["size"]["credits"], 4);
    assert_eq!(site.balance(company).await, (30, 500));
}

#[tokio::test]
async fn a_company_that_is_gone_is_no_external_change_and_one_without_a_balance_has_0() {
    let site = Site::new().await;
    let (gone, unset) = (site.company(0, 500).await, site.company(0, 40).await);
    for company in [gone, unset] {
        assert!(site.db.deduct(Uuid::new_v4(), company, 40).await.success);
    }
    site.db
        .execute(format!(
            "delete from company_subscriptions where company_id = '{gone}';
             alter table company_subscriptions alter purchased_token_balance drop not null;
             update company_subscriptions set purchased_token_balance = null"
        ))
        .await;
    let report = audit(&site).await;
    assert_eq!(
        report["external_changes"],
        serde_json::json!([]),
        "{report:#}"
    );
}
