//! What `article_jobs` is told, and that nothing there can undo a charge.

use uuid::Uuid;

use crate::support::ledger::{Answer, Item, Ledger};

const COMPLETED: (&str, Option<&str>) = ("completed", None);
const RUNNING: (&str, Option<&str>) = ("running", None);

async fn status(ledger: &Ledger, job: Uuid) -> (String, Option<String>) {
    ledger.job_status(job).await
}

fn is(status: &(String, Option<String>), expected: (&str, Option<&str>)) -> bool {
    (status.0.as_str(), status.1.as_deref()) == expected
}

#[tokio::test]
async fn a_charged_job_is_completed() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 100).await;
    let jobs = [ledger.job(company).await, ledger.job(company).await];
    ledger.deduct(jobs[0], company, 10).await;
    ledger
        .deduct_batch(&[Item::new(jobs[1], company, 10)])
        .await;
    for job in jobs {
        assert!(is(&status(&ledger, job).await, COMPLETED));
    }
}

#[tokio::test]
async fn a_job_that_cannot_be_paid_fails_with_a_message_that_a_person_can_read() {
    let ledger = Ledger::open().await;
    let company = ledger.company(60, 40).await;
    let job = ledger.job(company).await;
    ledger.deduct(job, company, 500).await;
    let (status, message) = status(&ledger, job).await;
    assert_eq!(status, "failed");
    assert_eq!(
        message.as_deref(),
        Some("Not enough tokens: the article needs 500 and the company has 100.")
    );
}

#[tokio::test]
async fn a_failed_job_that_is_charged_later_is_completed_without_a_message() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 0).await;
    let job = ledger.job(company).await;
    ledger.deduct(job, company, 500).await;
    ledger
        .execute("update company_subscriptions set purchased_token_balance = 500")
        .await;
    ledger.deduct(job, company, 500).await;
    assert!(is(&status(&ledger, job).await, COMPLETED));
}

#[tokio::test]
async fn only_a_new_outcome_changes_a_job() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 1000).await;
    let job = ledger.job(company).await;
    ledger.deduct(job, company, 10).await;
    ledger
        .execute("update article_jobs set status = 'running'")
        .await;
    let before = ledger.everything().await;
    ledger.deduct(job, company, 10).await;
    ledger.deduct(job, company, 11).await;
    ledger.deduct(job, company, 0).await;
    ledger
        .deduct_batch(&[Item::new(job, company, 10), Item::new(job, company, 12)])
        .await;
    assert_eq!(ledger.everything().await, before);

    ledger
        .execute("update token_deduction_records set status = 'compensated'")
        .await;
    ledger.deduct(job, company, 10).await;
    assert!(is(&status(&ledger, job).await, RUNNING));
}

#[tokio::test]
async fn a_job_of_another_company_is_left_alone() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 100).await;
    let stranger = ledger.company(0, 100).await;
    let jobs = [ledger.job(stranger).await, ledger.job(stranger).await];
    let charged = ledger.deduct(jobs[0], company, 10).await;
    let refused = ledger.deduct(jobs[1], company, 1000).await;
    assert!(charged.success && !refused.success);
    for job in jobs {
        assert!(is(&status(&ledger, job).await, RUNNING));
    }
}

#[tokio::test]
async fn within_one_batch_the_last_new_outcome_for_the_jobs_company_stands() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 100).await;
    let unknown = Uuid::new_v4();
    let (job, misnamed) = (ledger.job(company).await, ledger.job(unknown).await);
    ledger
        .deduct_batch(&[
            Item::new(job, company, 500),
            Item::new(misnamed, unknown, 10),
            Item::new(job, company, 20),
            // Charged, but the job belongs to the company that was named before.
            Item::new(misnamed, company, 10),
            Item::new(job, company, 30),
        ])
        .await;
    assert!(is(&status(&ledger, job).await, COMPLETED));
    assert_eq!(status(&ledger, misnamed).await.0, "failed");
}

/// Charges one job, fails to charge another, and charges a third whose row is not there: the charges
/// stand, and each refused job's answer says so.
async fn refused_by_article_jobs(ledger: &Ledger, sql: &str, expected: &str) {
    let company = ledger.company(0, 100).await;
    let (paid, unpaid) = (ledger.job(company).await, ledger.job(company).await);
    let alone = ledger.job(company).await;
    ledger.execute(sql).await;

    let answers = ledger
        .deduct_batch(&[
            Item::new(paid, company, 40),
            Item::new(unpaid, company, 400),
            Item::new("no job", company, 10),
            Item::new(paid, company, 40),
        ])
        .await;
    let told = |answer: &Answer| {
        answer
            .job_status_error
            .as_ref()
            .is_some_and(|error| error.contains(expected))
    };
    assert!(answers[0].success && told(&answers[0]), "{answers:#?}");
    assert_eq!(answers[1].error(), "insufficient_balance");
    assert!(told(&answers[1]), "{answers:#?}");
    assert!(answers[2].success && answers[3].idempotent);
    assert_eq!(answers[2].job_status_error, None);
    assert_eq!(answers[3].job_status_error, None);

    let single = ledger.deduct(alone, company, 50).await;
    assert!(single.success && told(&single), "{single:#?}");
    assert_eq!(ledger.balances(company).await, (0, 0));
    assert_eq!(ledger.usage_logs(company).await.len(), 3);
    for job in [paid, unpaid, alone] {
        assert!(is(&status(ledger, job).await, RUNNING));
    }
}

#[tokio::test]
async fn a_check_that_refuses_our_status_does_not_undo_a_charge() {
    let ledger = Ledger::open().await;
    let sql =
        "alter table article_jobs add constraint theirs check (status in ('running', 'done'))";
    refused_by_article_jobs(&ledger, sql, "\"theirs\" (SQLSTATE 23514)").await;
}

#[tokio::test]
async fn an_enum_without_our_status_does_not_undo_a_charge() {
    let ledger = Ledger::open().await;
    let sql = "create type job_status as enum ('running', 'done');
               alter table article_jobs alter column status type job_status using status::job_status";
    refused_by_article_jobs(&ledger, sql, "enum job_status").await;
}

#[tokio::test]
async fn a_trigger_that_raises_does_not_undo_a_charge() {
    let ledger = Ledger::open().await;
    let sql = "create function refuse() returns trigger language plpgsql as
                   $$ begin raise exception 'jobs are frozen'; end $$;
               create trigger refuse before update on article_jobs
                   for each row execute function refuse()";
    refused_by_article_jobs(&ledger, sql, "jobs are frozen (SQLSTATE P0001)").await;
}

#[tokio::test]
async fn only_the_jobs_that_are_refused_keep_their_status() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 100).await;
    let (frozen, free) = (ledger.job(company).await, ledger.job(company).await);
    ledger
        .execute(format!(
            "alter table article_jobs add constraint theirs
                 check (status = 'running' or id <> '{frozen}')"
        ))
        .await;
    let answers = ledger
        .deduct_batch(&[Item::new(frozen, company, 10), Item::new(free, company, 10)])
        .await;
    assert!(answers.iter().all(|answer| answer.success));
    assert!(answers[0].job_status_error.is_some() && answers[1].job_status_error.is_none());
    assert!(is(&status(&ledger, frozen).await, RUNNING));
    assert!(is(&status(&ledger, free).await, COMPLETED));
}

#[tokio::test]
async fn an_enum_that_knows_our_status_takes_it() {
    let ledger = Ledger::open().await;
    let company = ledger.company(0, 100).await;
    let (paid, unpaid) = (ledger.job(company).await, ledger.job(company).await);
    ledger
        .execute(
            "create type job_status as enum ('running', 'completed', 'failed');
             alter table article_jobs alter column status type job_status using status::job_status",
        )
        .await;
    ledger
        .deduct_batch(&[
            Item::new(paid, company, 10),
            Item::new(unpaid, company, 1000),
        ])
        .await;
    assert!(is(&status(&ledger, paid).await, COMPLETED));
    assert_eq!(status(&ledger, unpaid).await.0, "failed");
}
