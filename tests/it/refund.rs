//! `refund_tokens`: a charge given back, once, to the buckets it came from.

use serde_json::{Value, json};
use sqlx::PgExecutor;
use token_billing::domain::Reason;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::support::{
    books::{Books, Item, deduct, deduct_batch},
    command::keys,
    eventually::{PATIENCE, eventually},
    ledger::assert_books_add_up,
    site::Site,
};

async fn refund_by(executor: impl PgExecutor<'_>, key: &str, expired: &str) -> sqlx::Result<Value> {
    sqlx::query_scalar("select refund_tokens($1, $2, 'somebody', 'a reason')")
        .bind(key)
        .bind(expired)
        .fetch_one(executor)
        .await
}

async fn refund(books: &Books, key: &str) -> Value {
    let answer = refund_by(books.pool(), key, "forfeit").await;
    answer.expect("a refund never raises")
}

fn refusal(error: &str) -> Value {
    json!({"success": false, "error": error})
}

fn figures(answer: &Value) -> [i64; 3] {
    assert_eq!(answer["success"], true, "{answer:#}");
    let keys = ["monthly_amount", "purchased_amount", "forfeited_amount"];
    keys.map(|key| answer[key].as_i64().expect("a number"))
}

/// Of a company, the sum of its usage logs.
async fn used(books: &Books, company: Uuid) -> i64 {
    let logs = books.usage_logs(company).await;
    logs.iter().map(|log| log.token_amount).sum()
}

#[tokio::test]
async fn tokens_go_back_to_the_buckets_they_came_from() {
    let books = Books::open().await;
    let company = books.company(300, 1000).await;
    let job = books.job(company).await;
    let key = job.to_string();
    let item = Item {
        article_id: Some(Uuid::new_v4()),
        metadata: Some(json!({"model": "x", "usage_type": "translation"})),
        usage_type: Some("translation".to_owned()),
        ..Item::new(job, company, 400)
    };
    books.deduct_batch(&[item]).await;
    let charged = books.record(job).await.expect("charged");
    let answer = refund(&books, &key.to_uppercase()).await;

    assert_eq!(figures(&answer), [300, 100, 0]);
    assert_eq!(answer["idempotent"], false);
    assert_eq!(answer["idempotency_key"], json!(key));
    assert_eq!(answer["deduction_record_id"], json!(charged.id));
    let balances = [
        "monthly_before",
        "monthly_after",
        "purchased_before",
        "purchased_after",
    ];
    let balances = balances.map(|key| answer[key].as_i64().expect("a number"));
    assert_eq!(balances, [0, 300, 900, 1000]);
    assert_eq!(books.balances(company).await, (300, 1000));

    let mut record = books.record(job).await.expect("still there");
    assert_eq!(record.status, "compensated");
    record.status = "completed".to_owned();
    assert_eq!(record, charged, "the record keeps its original figures");
    let logs = books.usage_logs(company).await;
    assert_eq!(logs.len(), 2);
    assert_eq!(Some(logs[1].id), answer["ledger_seq"].as_i64());
    assert_eq!((logs[0].token_amount, logs[1].token_amount), (400, -400));
    let mut opposite = logs[1].clone();
    (opposite.id, opposite.token_amount) = (logs[0].id, 400);
    assert_eq!(opposite, logs[0], "they sum to zero by whatever one groups");
    assert_eq!(
        books.job_status(job).await.0,
        "completed",
        "the job's row is left alone"
    );
    let trail: (String, String, String, Option<String>) =
        sqlx::query_as("select actor, action, subject, reason from operator_actions")
            .fetch_one(books.pool())
            .await
            .expect("one action");
    assert_eq!(
        trail,
        (
            "somebody".into(),
            "refund".into(),
            key,
            Some("a reason".into())
        )
    );
    assert_books_add_up(books.pool(), company, 1300).await;
}

#[tokio::test]
async fn a_second_refund_changes_nothing_and_shows_the_first() {
    let books = Books::open().await;
    let company = books.company(300, 1000).await;
    books.deduct("job", company, 400).await;
    let first = refund(&books, "job").await;
    // The world goes on, and the setting is another one.
    books.deduct("another", company, 350).await;
    books.expire(company).await;
    let before = books.everything().await;
    let mut again = refund_by(books.pool(), "job", "purchased")
        .await
        .expect("answered");
    assert_eq!(again["idempotent"], true);
    again["idempotent"] = json!(false);
    assert_eq!(again, first);
    assert_eq!(books.everything().await, before);
}

#[tokio::test]
async fn a_refunded_job_is_never_charged_again() {
    let books = Books::open().await;
    let (company, other) = (books.company(0, 1000).await, books.company(0, 1000).await);
    books.deduct("job", company, 400).await;
    refund(&books, "job").await;
    let before = books.everything().await;
    for (company, amount) in [(company, 400), (company, 1), (other, 400)] {
        let answer = books.deduct("job", company, amount).await;
        assert_eq!(answer.error(), Reason::AlreadyCompensated.as_str());
    }
    assert_eq!(books.everything().await, before);
}

/// Charges 400 of a company of 300 and 1000, does `between`, refunds; what went where, and the balances.
async fn after(between: &str, expired: &str) -> ([i64; 3], (i64, i64)) {
    let books = Books::open().await;
    let company = books.company(300, 1000).await;
    if between.contains("never expires") {
        books
            .execute("update company_subscriptions set current_period_end = null")
            .await;
    }
    books.deduct("job", company, 400).await;
    books
        .execute(between.replace("COMPANY", &company.to_string()))
        .await;
    let answer = refund_by(books.pool(), "job", expired)
        .await
        .expect("answered");
    let unchanged =
        "select period_end_before is not distinct from period_end_after from token_credits
                     where kind = 'refund'";
    let unchanged: bool = sqlx::query_scalar(unchanged)
        .fetch_one(books.pool())
        .await
        .expect("one refund");
    assert!(unchanged);
    assert_eq!(used(&books, company).await, 0);
    (figures(&answer), books.balances(company).await)
}

#[tokio::test]
async fn the_monthly_share_goes_back_only_into_the_period_it_came_from() {
    let renewed = "select credit_tokens('next', 'COMPANY', null, 250, '2100-01-01', 'me')";
    let expired = "update company_subscriptions set current_period_end = clock_timestamp()";
    let moved = "update company_subscriptions set current_period_end = '2100-01-01'";
    let unlimited = "update company_subscriptions set current_period_end = null";
    // What has no end is the current period for as long as it has none.
    let endless = "select 'never expires'";
    let endless_before =
        "update company_subscriptions set current_period_end = '2100-01-01' -- never expires";
    for (between, setting, given, balances) in [
        ("select 1", "forfeit", [300, 100, 0], (300, 1000)),
        ("select 1", "purchased", [300, 100, 0], (300, 1000)),
        (renewed, "forfeit", [0, 100, 300], (250, 1000)),
        (renewed, "purchased", [0, 400, 0], (250, 1300)),
        (expired, "forfeit", [0, 100, 300], (0, 1000)),
        (expired, "purchased", [0, 400, 0], (0, 1300)),
        (moved, "forfeit", [0, 100, 300], (0, 1000)),
        (unlimited, "forfeit", [0, 100, 300], (0, 1000)),
        (endless, "forfeit", [300, 100, 0], (300, 1000)),
        (endless_before, "forfeit", [0, 100, 300], (0, 1000)),
    ] {
        assert_eq!(
            after(between, setting).await,
            (given, balances),
            "{between}: {setting}"
        );
    }
}

#[tokio::test]
async fn a_period_that_ends_while_a_refund_waits_has_ended() {
    let books = Books::open().await;
    let company = books.company(300, 100).await;
    books.deduct("job", company, 350).await;
    let mut holder = books.pool().begin().await.expect("begun");
    sqlx::query("select from company_subscriptions for update")
        .execute(&mut *holder)
        .await
        .expect("locked");
    let pool = books.pool().clone();
    let waiter = tokio::spawn(async move { refund_by(&pool, "job", "forfeit").await });
    waiting_for_a_lock(&books).await;
    // After the refund was asked for, and before it gets the lock.
    let ended: String = sqlx::query_scalar("select clock_timestamp()::text")
        .fetch_one(&mut *holder)
        .await
        .expect("the time");
    for column in [
        "company_subscriptions set current_period_end",
        "token_deduction_records set monthly_period_end",
    ] {
        let sql = format!("update {column} = '{ended}'");
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .execute(&mut *holder)
            .await
            .expect("the period ends");
    }
    holder.commit().await.expect("committed");
    let answer = waiter.await.expect("joined").expect("answered");
    assert_eq!(figures(&answer), [0, 50, 300]);
}

async fn waiting_for_a_lock(books: &Books) {
    let sql = "select count(*) from pg_stat_activity
               where datname = current_database() and wait_event_type = 'Lock'";
    eventually(
        "a session waits for a lock",
        PATIENCE,
        async || {
            let waiting: i64 = sqlx::query_scalar(sql)
                .fetch_one(books.pool())
                .await
                .expect("read");
            waiting
        },
        |&waiting| waiting == 1,
    )
    .await;
}

#[tokio::test]
async fn what_cannot_be_refunded_is_refused_and_changes_nothing() {
    let books = Books::open().await;
    let company = books.company(0, i64::MAX - 10).await;
    books.deduct("failed", Uuid::new_v4(), 5).await;
    books.deduct("by hand", company, 20).await;
    books.deduct("too much", company, 30).await;
    books.deduct("taken", company, 40).await;
    let gone = books.company(0, 100).await;
    books.deduct("gone", gone, 5).await;
    books
        .execute(format!(
            "update token_deduction_records set status = 'compensated' where idempotency_key = 'by hand';
             select credit_tokens('taken', '{company}', 50, null, null, 'me');
             update company_subscriptions set purchased_token_balance = 9223372036854775807 - 29
             where company_id = '{company}';
             delete from company_subscriptions where company_id = '{gone}'"
        ))
        .await;
    let before = books.everything().await;
    let not_charged = json!({"success": false, "error": "not_charged", "status": "failed"});
    for (key, answer) in [
        ("unknown", refusal("not_found")),
        ("failed", not_charged),
        ("by hand", refusal("compensated_elsewhere")),
        ("too much", refusal("balance_too_large")),
        // The key of a top-up: what it says is not an answer to this.
        ("taken", refusal("idempotency_key_reused")),
        ("gone", refusal("company_not_found")),
    ] {
        assert_eq!(refund(&books, key).await, answer, "{key}");
    }
    for arguments in [
        "null, 'forfeit', 'me', 'why'",
        "'too much', 'keep', 'me', 'why'",
        "'too much', null, 'me', 'why'",
        "'too much', 'forfeit', null, 'why'",
        "'too much', 'forfeit', 'me', null",
        "'too much', 'forfeit', 'me', '  '",
    ] {
        let sql = format!("select refund_tokens({arguments})");
        let answer: Value = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .fetch_one(books.pool())
            .await
            .expect("answered");
        assert_eq!(answer, refusal("invalid_request"), "{arguments}");
    }
    assert_eq!(books.everything().await, before);

    // To the brim.
    books
        .execute(
            "update company_subscriptions set purchased_token_balance = 9223372036854775807 - 30",
        )
        .await;
    assert_eq!(figures(&refund(&books, "too much").await), [0, 30, 0]);
    assert_eq!(books.balances(company).await, (0, i64::MAX));
}

#[tokio::test]
async fn a_top_up_under_the_key_of_a_refund_is_refused_as_reused() {
    let books = Books::open().await;
    let company = books.company(0, 100).await;
    books.deduct("job", company, 60).await;
    refund(&books, "job").await;
    let before = books.everything().await;
    let answer: Value = sqlx::query_scalar("select credit_tokens('job', $1, 60, null, null, 'me')")
        .bind(company)
        .fetch_one(books.pool())
        .await
        .expect("answered");
    assert_eq!(answer, refusal("idempotency_key_reused"));
    assert_eq!(books.everything().await, before);
}

#[tokio::test]
async fn a_refund_that_was_rolled_back_was_never_made() {
    let books = Books::open().await;
    let company = books.company(300, 100).await;
    books.deduct("job", company, 350).await;
    let before = books.everything().await;
    let mut transaction = books.pool().begin().await.expect("begun");
    refund_by(&mut *transaction, "job", "forfeit")
        .await
        .expect("refunded");
    transaction.rollback().await.expect("rolled back");
    assert_eq!(books.everything().await, before);
    assert_eq!(figures(&refund(&books, "job").await), [300, 50, 0]);
}

#[tokio::test]
async fn a_charge_that_comes_during_a_refund_waits_and_finds_it_refunded() {
    let books = Books::open().await;
    let company = books.company(0, 100).await;
    books.deduct("job", company, 60).await;
    let mut refunding = books.pool().begin().await.expect("begun");
    refund_by(&mut *refunding, "job", "forfeit")
        .await
        .expect("refunded");
    let pool = books.pool().clone();
    let charge =
        tokio::spawn(async move { deduct_batch(&pool, &[Item::new("job", company, 60)]).await });
    waiting_for_a_lock(&books).await;
    refunding.commit().await.expect("committed");
    let answers = charge.await.expect("joined").expect("answered");
    assert_eq!(answers[0].error(), Reason::AlreadyCompensated.as_str());
    assert_eq!(books.balances(company).await, (0, 100));
}

#[tokio::test]
async fn a_refund_that_comes_during_a_charge_finds_nothing_or_the_whole_of_it() {
    let books = Books::open().await;
    let company = books.company(0, 100).await;
    let mut charging = books.pool().begin().await.expect("begun");
    deduct(&mut *charging, "job", company, 60)
        .await
        .expect("charged");
    assert_eq!(refund(&books, "job").await, refusal("not_found"));
    charging.commit().await.expect("committed");
    assert_eq!(figures(&refund(&books, "job").await), [0, 60, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_refunds_and_charges_at_once_leave_each_job_charged_or_refunded_once() {
    let books = Books::open().await;
    let (company, other) = (books.company(500, 2000).await, books.company(0, 2500).await);
    let jobs: Vec<(String, Uuid)> = (0..12)
        .map(|n| {
            (
                Uuid::new_v4().to_string(),
                if n % 3 == 0 { other } else { company },
            )
        })
        .collect();
    let mut tasks = JoinSet::new();
    for round in 0..8 {
        let (pool, jobs) = (books.pool().clone(), jobs.clone());
        tasks.spawn(async move {
            let mut refunded = 0;
            for at in 0..jobs.len() {
                let (key, company) = &jobs[(at + round) % jobs.len()];
                let item = Item::new(key, *company, 100);
                if round % 2 == 0 {
                    deduct_batch(&pool, &[item]).await.expect("no deadlock");
                }
                let answer = refund_by(&pool, key, "forfeit").await.expect("no deadlock");
                refunded += usize::from(answer["idempotent"] == false);
            }
            refunded
        });
    }
    let refunded: usize = tasks.join_all().await.into_iter().sum();
    // Each was charged by somebody before he asked for its refund.
    assert_eq!(refunded, jobs.len());
    for (key, _) in &jobs {
        assert_eq!(
            books.record(key).await.expect("there").status,
            "compensated"
        );
    }
    assert_eq!(books.balances(company).await, (500, 2000));
    for (company, tokens) in [(company, 2500), (other, 2500)] {
        assert_books_add_up(books.pool(), company, tokens).await;
        assert_eq!(used(&books, company).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_refunded_and_credited_at_once_is_one_of_the_two() {
    let books = Books::open().await;
    let (company, other) = (books.company(0, 100).await, books.company(0, 0).await);
    for round in 0..20 {
        let key = format!("job {round}");
        assert!(books.deduct(&key, company, 5).await.success);
        let (refunded, credited) = tokio::join!(
            refund(&books, &key),
            sqlx::query_scalar::<_, Value>("select credit_tokens($1, $2, 5, null, null, 'me')")
                .bind(&key)
                .bind(other)
                .fetch_one(books.pool())
        );
        let won = [refunded, credited.expect("answered")].map(|answer| answer["success"] == true);
        assert_ne!(won[0], won[1], "{key}");
    }
    assert_books_add_up(books.pool(), company, 100).await;
    assert_books_add_up(books.pool(), other, 0).await;
}

#[tokio::test]
async fn a_refund_as_typed_says_where_the_tokens_went_and_is_made_once() {
    let mut site = Site::new().await;
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

    let late = Uuid::new_v4();
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
    let late = late.to_string();
    for (args, code, problem) in [
        (
            &["refund", &late, "--reason", "why"][..],
            1,
            "nothing was charged for it",
        ),
        (&["refund", &late], 2, "--reason"),
        (&["refund", &late, "--reason", " "], 2, "--reason"),
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
    let letter = site.dead_letter().await;
    running.stop().await;
    assert_eq!(
        letter.header("reason").as_deref(),
        Some("already_compensated")
    );
    assert_eq!(site.balance(company).await, (0, 1000));
}
