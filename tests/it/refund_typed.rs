//! `refund`, as typed: what it prints, and what a replay of the job meets afterwards.

use uuid::Uuid;

use crate::support::{command::keys, site::Site};

#[tokio::test]
async fn a_refund_as_typed_says_where_the_tokens_went_and_is_made_once() {
    let site = Site::new().await;
    let company = site.company(300, 1000).await;
    let job = Uuid::new_v4();
    assert!(site.db.deduct(job, company, 400).await.success);
    let simple = job.simple().to_string().to_uppercase();
    let typed = ["refund", &simple, "--reason", "ticket 7", "--as", "ann"];
    let ran = site.run(&[&typed[..], &["--dry-run"]].concat()).await;
    assert!(
        ran.done().contains("dry run: nothing was changed"),
        "{ran:#?}"
    );
    assert_eq!(site.balance(company).await, (0, 900));

    let ran = site.run(&typed).await;
    let rows: Vec<Vec<&str>> = ran
        .done()
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows[2], ["monthly", "0", "→", "300"]);
    assert_eq!(rows[3], ["purchased", "900", "→", "1,000"]);
    assert_eq!(site.balance(company).await, (300, 1000));
    let ran = site.run(&typed).await;
    assert!(
        ran.done()
            .starts_with("already refunded (by ann: ticket 7)"),
        "{ran:#?}"
    );
    let report = site
        .run(&[&typed[..], &["--output", "json"]].concat())
        .await
        .document();
    assert_eq!(
        keys(&report),
        [
            "actor",
            "amount",
            "charged_at",
            "company_id",
            "deduction_record_id",
            "dry_run",
            "forfeited_amount",
            "idempotent",
            "job_id",
            "ledger_seq",
            "monthly_after",
            "monthly_amount",
            "monthly_before",
            "monthly_deducted",
            "purchased_after",
            "purchased_amount",
            "purchased_before",
            "purchased_deducted",
            "reason",
            "refunded_at"
        ]
    );
    let history = site.run(&["dlq", "history", "--action", "refund"]).await;
    assert!(
        history
            .done()
            .contains(&format!("{job} +300 monthly +100 purchased")),
        "{history:#?}"
    );
}

#[tokio::test]
async fn what_becomes_of_expired_monthly_tokens_is_a_setting_and_is_said() {
    let mut site = Site::new().await;
    for (setting, said) in [
        ("forfeit", "200 monthly tokens forfeited"),
        ("purchased", "200 monthly tokens given as"),
    ] {
        let job = Uuid::new_v4();
        let company = site.company(200, 0).await;
        assert!(site.db.deduct(job, company, 200).await.success);
        site.db.expire(company).await;
        site.set("REFUND__EXPIRED_MONTHLY", setting);
        let ran = site
            .run(&["refund", &job.to_string(), "--reason", "late"])
            .await;
        assert!(ran.done().contains(said), "{ran:#?}");
    }
}

#[tokio::test]
async fn a_refund_needs_a_charged_job_and_a_reason() {
    let site = Site::new().await;
    let unknown = Uuid::new_v4().to_string();
    for (args, code, problem) in [
        (
            &["refund", &unknown, "--reason", "why"][..],
            1,
            "nothing was charged for it",
        ),
        (&["refund", &unknown], 2, "--reason"),
        (&["refund", &unknown, "--reason", " "], 2, "--reason"),
    ] {
        let ran = site.run(args).await;
        assert!(ran.refused(code).contains(problem), "{ran:#?}");
    }
}

#[tokio::test]
async fn a_replayed_event_of_a_refunded_job_is_dead_and_moves_nothing() {
    let site = Site::new().await;
    let company = site.company(0, 1000).await;
    let job = Uuid::new_v4();
    let running = site.start().await;
    site.publish(job, company, 70).await;
    site.until(job, "completed").await;
    site.run(&["refund", &job.to_string(), "--reason", "why"])
        .await
        .done();
    site.publish(job, company, 70).await;
    let dead_letter = site.dead_letter().await;
    running.stop().await;
    assert_eq!(
        dead_letter.header("reason").as_deref(),
        Some("already_compensated")
    );
    assert_eq!(site.balance(company).await, (0, 1000));
}
