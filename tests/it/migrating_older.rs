//! `migrate` on what an older version left behind.

use serde_json::Value;
use sqlx::{Connection as _, PgConnection};
use token_billing::storage::MIGRATIONS;
use uuid::Uuid;

use crate::{
    migrating::{BEFORE, bare, lines, old},
    support::role::TestRole,
};

#[tokio::test]
async fn records_of_before_get_the_one_spelling_of_their_job() {
    let site = old().await;
    let company = site.company(0, 1000).await;
    let [alone, charged_first, taken] = [(); 3].map(|()| Uuid::new_v4());
    let odd = |job: Uuid| format!("{{{}}}", job.simple());
    for (key, tokens) in [
        (odd(alone), 10),
        (odd(charged_first), 20),
        (charged_first.simple().to_string(), 30),
        (taken.to_string(), 40),
        (odd(taken), 50),
    ] {
        assert!(site.db.deduct(key, company, tokens).await.success);
    }
    sqlx::query("select refund_tokens($1, 'forfeit', 'me', 'why')")
        .bind(odd(alone))
        .execute(site.db.pool())
        .await
        .expect("refunded");
    let document = site.run(&["migrate", "--output", "json"]).await.document();
    for (key, amount) in [(alone, 10), (charged_first, 20), (taken, 40)] {
        assert_eq!(site.db.record(key).await.expect("renamed").amount, amount);
    }
    let others = lines(&document, "other_spellings");
    assert_eq!(others.len(), 2, "{others:#?}");
    assert!(
        others.iter().any(|one| one.contains(&odd(taken))),
        "{others:#?}"
    );
    site.run(&["audit"]).await.done();
}

#[tokio::test]
async fn what_two_spellings_left_behind_is_migrated_and_each_can_be_refunded() {
    let site = old().await;
    let company = site.company(0, 1000).await;
    let [refunded, twice, stuck] = [(); 3].map(|()| Uuid::new_v4());
    let odd = |job: Uuid| job.simple().to_string();
    for (key, tokens) in [
        (odd(refunded), 10),
        (twice.to_string(), 20),
        (odd(twice), 30),
        (stuck.to_string(), 40),
    ] {
        assert!(site.db.deduct(key, company, tokens).await.success);
    }
    // A top-up whose key is a job's id; and a job that is pending beside its charge.
    site.db
        .execute(format!(
            "select refund_tokens('{}', 'forfeit', 'me', 'why');
             select credit_tokens('{refunded}', '{company}', 5, null, null, 'me');
             select mark_deductions_pending(array['{}'], array['{company}'::uuid], array[null::uuid], array[40],
                 array['{{}}'::jsonb], array['x'], array[null::uuid], array['busy'])",
            odd(refunded),
            odd(stuck)
        ))
        .await;
    let document = site.run(&["migrate", "--output", "json"]).await.document();
    assert_eq!(lines(&document, "other_spellings").len(), 2, "{document:#}");
    // Each by the key that it has.
    for (key, tokens) in [(odd(twice), 30), (twice.to_string(), 20)] {
        let refund = sqlx::query_scalar("select refund_tokens($1, 'forfeit', 'me', 'why')");
        let answer: Value = refund
            .bind(key)
            .fetch_one(site.db.pool())
            .await
            .expect("answered");
        assert_eq!(answer["amount"], tokens, "{answer}");
    }
    assert_eq!(site.balance(company).await, (0, 1000 + 5 - 40));
    let pending = "select count(*) from token_deduction_records where status = 'pending'";
    assert_eq!(site.number(pending).await, 0);
    site.run(&["audit"]).await.done();
}

#[tokio::test]
async fn who_migrates_an_older_installation_leaves_everything_to_its_owner() {
    let site = bare().await;
    let (owner, stranger) = (TestRole::create(&site).await, TestRole::create(&site).await);
    site.db
        .execute(format!(
            "grant create, usage on schema public to {}, {}",
            owner.quoted(),
            stranger.quoted()
        ))
        .await;
    let mut connection = PgConnection::connect(owner.url()).await.expect("connected");
    MIGRATIONS
        .run_to(BEFORE, &mut connection)
        .await
        .expect("migrated");
    let refused = site
        .run_in(
            &[("TOKEN_BILLING__DATABASE__URL", stranger.url())],
            &["migrate"],
        )
        .await;
    assert!(
        refused.refused(1).contains("run migrate as that role"),
        "{refused:#?}"
    );
    // A superuser does it for the owner.
    site.run(&["migrate"]).await.done();
    let owners: Vec<String> = sqlx::query_scalar(
        "select distinct o.owner::regrole::text
         from (select relowner as owner from pg_class where relnamespace = 'public'::regnamespace
               union all select proowner from pg_proc where pronamespace = 'public'::regnamespace) o",
    )
    .fetch_all(site.db.pool())
    .await
    .expect("read");
    assert_eq!(owners, [owner.quoted()]);
    assert!(
        site.db
            .deduct("job", site.company(0, 10).await, 5)
            .await
            .success
    );
    connection.close().await.expect("closed");
}
