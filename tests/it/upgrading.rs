//! A database between two versions of the product, and processes of either beside it.

use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use token_billing::storage::MIGRATIONS;
use uuid::Uuid;

use crate::{
    migrating::bare,
    support::{
        eventually::{PATIENCE, eventually},
        process::Process,
        role::{TestRole, healthy},
        site::Site,
    },
};

/// Gives these functions the text of another version, and the database its number.
async fn as_of(site: &Site, version: &str, functions: &str) {
    site.db
        .execute(format!(
            r"do $do$ declare f text; begin
                  for f in select pg_get_functiondef(oid) from pg_proc where proname = any ('{functions}') loop
                      execute regexp_replace(f, '(AS \$function\$)', '\1 -- of {version}' || chr(10));
                  end loop;
              end $do$;
              update token_billing_version set version = '{version}'"
        ))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_functions_of_the_version_before_are_replaced_while_serve_goes_on_charging() {
    let (site, _role) = healthy().await;
    // A role of its own migrates.
    let owner = [("TOKEN_BILLING__DATABASE__URL", site.db.url())];
    as_of(
        &site,
        "{0,0,9}",
        "{deduct_tokens_batch,deduct_tokens_segment,update_article_jobs}",
    )
    .await;
    let mut serve = Process::start(&["serve"], &site.environment());
    serve.wait_for_log("started", PATIENCE).await;
    let company = site.company(0, 1000).await;
    let publish = async |events: usize| {
        for _ in 0..events {
            site.publish(site.job(company).await, company, 1).await;
        }
    };
    publish(50).await;

    let said = site.run_in(&owner, &["migrate", "--dry-run"]).await;
    let functions = "3 functions: deduct_tokens_batch, deduct_tokens_segment, update_article_jobs";
    assert_eq!(said.done(), format!("would apply {functions}\n"));
    let (said, ()) = tokio::join!(site.run_in(&owner, &["migrate"]), publish(100));
    assert!(
        said.done().starts_with(&format!("applied {functions}\n")),
        "{said:#?}"
    );
    for args in [&["migrate", "--dry-run"][..], &["migrate"]] {
        let said = site.run_in(&owner, args).await;
        assert_eq!(said.done(), "the database is up to date\n");
    }
    publish(50).await;
    let balance = async || site.balance(company).await;
    eventually("all are charged", PATIENCE, balance, |&left| {
        left == (0, 800)
    })
    .await;
    serve.terminate().await;
    assert_eq!(serve.wait(PATIENCE).await, Some(0));
    let log = serve.log();
    assert!(
        !log.iter().any(|line| line.contains("work pauses")),
        "{log:#?}"
    );
}

#[tokio::test]
async fn an_older_program_leaves_a_newer_database_as_it_is_and_goes_on_charging() {
    let (site, _role) = healthy().await;
    let owner = [("TOKEN_BILLING__DATABASE__URL", site.db.url())];
    as_of(&site, "{99,0,0}", "{deduct_tokens_batch,job_of}").await;
    let by_number =
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
                     values (9999, 'of a newer version', true, '', 0)";
    for (newer, told) in [("", "token-billing 99.0.0"), (by_number, "9999")] {
        site.db.execute(newer).await;
        let before = site.db.everything().await;
        for args in [&["migrate", "--dry-run"][..], &["migrate"]] {
            let ran = site.run_in(&owner, args).await;
            let said = ran.refused(1);
            assert!(
                said.contains("newer than this program") && said.contains(told),
                "{ran:#?}"
            );
        }
        assert_eq!(site.db.everything().await, before);
        let diagnosis = site.doctor().await;
        let (finding, _) = diagnosis.only_failure("migrations");
        assert!(finding.contains(told), "{finding}");
    }
    let left = "select count(*) from pg_proc where prosrc like ' -- of%'";
    assert_eq!(site.number(left).await, 2);

    let mut serve = Process::start(&["serve"], &site.environment());
    serve.wait_for_log("started", PATIENCE).await;
    let company = site.company(0, 10).await;
    let job = site.job(company).await;
    site.publish(job, company, 10).await;
    site.until(job, "completed").await;
    serve.terminate().await;
    assert_eq!(serve.wait(PATIENCE).await, Some(0));
}

#[tokio::test]
async fn a_database_of_an_unreleased_version_is_refused_in_one_sentence() {
    let site = Site::new().await;
    site.db
        .execute(
            "update _sqlx_migrations set checksum = 'another' where version = 2;
             insert into _sqlx_migrations (version, description, success, checksum, execution_time)
             values (15, 'articles of another type', true, '', 0)",
        )
        .await;
    for args in [&["migrate", "--dry-run"][..], &["migrate"]] {
        let ran = site.run(args).await;
        assert!(
            ran.refused(1).contains("made by an unreleased version"),
            "{ran:#?}"
        );
    }
}

#[tokio::test]
async fn what_cannot_be_made_leaves_nothing_behind() {
    let site = bare().await;
    // Somebody's, with another result: it can't be replaced.
    site.db
        .execute("create function job_of(text) returns text language sql as 'select $1'")
        .await;
    let ran = site.run(&["migrate"]).await;
    assert!(
        ran.refused(1).contains("cannot change return type"),
        "{ran:#?}"
    );
    let relations = "select count(*) from pg_class where relnamespace = 'public'::regnamespace";
    assert_eq!(site.number(relations).await, 0);
    site.db.execute("drop function job_of").await;
    site.run(&["migrate"]).await.done();
}

#[tokio::test]
async fn what_somebody_changed_by_hand_is_put_back_and_a_grant_stays() {
    let (site, _role) = healthy().await;
    let operator = TestRole::granted(&site, "operator").await;
    let text = "select md5(string_agg(p.oid::regprocedure || prosrc || prosecdef || coalesce(proconfig::text, '')
                       || coalesce(proacl::text, ''), ' ' order by p.oid::regprocedure::text))
                from pg_proc p where pronamespace = 'public'::regnamespace";
    let all = async || {
        let all: String = sqlx::query_scalar(text)
            .fetch_one(site.db.pool())
            .await
            .expect("read");
        all
    };
    let before = all().await;
    site.db
        .execute(
            "alter function deduct_tokens_atomic security invoker;
             alter function credit_tokens reset search_path;
             create or replace function refund_tokens(
                 p_idempotency_key text, p_expired_monthly text, p_actor text, p_reason text
             ) returns jsonb language sql as $$ select '{}'::jsonb $$;
             drop function is_key;
             drop trigger no_delete on token_credits",
        )
        .await;
    let owner = [("TOKEN_BILLING__DATABASE__URL", site.db.url())];
    let migrate = ["migrate", "--output", "json"];
    let report = site.run_in(&owner, &migrate).await.document();
    assert_eq!(
        report["functions"],
        json!([
            "credit_tokens",
            "deduct_tokens_atomic",
            "is_key",
            "refund_tokens",
            "refuse_change"
        ])
    );
    assert_eq!(all().await, before);
    assert_eq!(site.doctor().await.with("failed"), [""; 0]);
    drop(operator);
}

#[tokio::test]
async fn who_migrates_leaves_everything_to_its_owner() {
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
    MIGRATIONS.run(&mut connection).await.expect("migrated");
    let by_stranger = [("TOKEN_BILLING__DATABASE__URL", stranger.url())];
    let refused = site.run_in(&by_stranger, &["migrate"]).await;
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
    let company = site.company(0, 10).await;
    assert!(site.db.deduct(Uuid::new_v4(), company, 5).await.success);
    // A function of another owner would run with another's rights.
    site.db
        .execute(format!(
            "alter function job_of owner to {}",
            stranger.quoted()
        ))
        .await;
    let finding = site.doctor().await;
    let (finding, _) = finding.failure("functions");
    assert_eq!(finding, "job_of(text) is altered");
    connection.close().await.expect("closed");
}
