//! The sweeper by hand, and an application's own word on what exists.

use crate::support::{
    owed::{owed, owed_for_nothing},
    site::Site,
};

#[tokio::test]
async fn an_applications_own_query_says_what_exists() {
    let mut site = Site::new().await;
    let company = site.company(0, 1000).await;
    site.db
        .execute("create table posts (job uuid, state text)")
        .await;
    let (written, unwritten, unsure) = (
        owed_for_nothing(&site, company, 90).await,
        owed(&site, company, 10, 90).await,
        owed(&site, company, 10, 90).await,
    );
    site.db
        .execute(format!(
            "insert into posts values ('{written}', 'out'), ('{unwritten}', 'gone'), ('{unsure}', null)"
        ))
        .await;
    let query = "select (select state = 'out' from posts where job = $2 and $1::uuid is not null)";
    site.set("SWEEPER__ARTICLE_EXISTS_QUERY", query);
    let ran = site.run(&["reconcile", "--output", "json"]).await;
    ran.failed(3);
    let report = ran.json();
    for outcome in ["charged", "written_off", "undecidable"] {
        assert_eq!(report[outcome], 1, "{report}");
    }
    assert_eq!(
        site.record(written).await.expect("a record").status,
        "completed"
    );
}

#[tokio::test]
async fn a_query_that_cannot_work_is_refused_at_the_start_by_name() {
    let mut site = Site::new().await;
    for (query, why) in [
        ("select 1", "gives [\"INT4\"], not one boolean"),
        ("select true, false", "not one boolean"),
        (
            "select exists (select from nowhere where id = $1)",
            "\"nowhere\" does not exist",
        ),
        ("select $1 = 5", "not UUIDs"),
        ("delete from articles", "not one boolean"),
    ] {
        site.set("SWEEPER__ARTICLE_EXISTS_QUERY", query);
        for args in [&["serve", "--role", "sweeper"][..], &["reconcile"]] {
            let ran = site.run(args).await;
            let error = ran.failed(1);
            assert!(error.contains("sweeper.article_exists_query: "), "{error}");
            assert!(error.contains(why), "{error}");
        }
    }
    let writes = "with gone as (delete from articles where id = $1 returning id) select exists (select from gone)";
    site.set("SWEEPER__ARTICLE_EXISTS_QUERY", writes);
    let company = site.company(0, 1000).await;
    owed(&site, company, 10, 90).await;
    let ran = site.run(&["reconcile"]).await;
    assert!(ran.failed(1).contains("read-only transaction"), "{ran:#?}");
    assert_eq!(site.number("select count(*) from articles").await, 1);
}

#[tokio::test]
async fn reconcile_shows_first_and_then_does_what_it_showed() {
    let site = Site::new().await;
    let company = site.company(0, 1000).await;
    owed(&site, company, 10, 90).await;
    owed(&site, company, 10, 30).await;
    owed_for_nothing(&site, company, 90).await;
    let before = site.db.everything().await;
    let shown = site
        .run(&["reconcile", "--dry-run", "--output", "json"])
        .await
        .document();
    assert_eq!(site.db.everything().await, before);
    assert_eq!(
        (&shown["charged"], &shown["written_off"]),
        (&1.into(), &1.into())
    );
    let done = site
        .run(&["reconcile", "--output", "json"])
        .await
        .document();
    assert_eq!(
        (&done["charged"], &done["written_off_tokens"]),
        (&1.into(), &70.into())
    );
    assert_eq!(
        site.run(&["reconcile"]).await.done(),
        "nothing is owed longer than 1h\n"
    );
    let rest = site.run(&["reconcile", "--older-than", "10m"]).await;
    assert!(rest.done().contains("charged"), "{rest:#?}");
    assert_eq!(site.balance(company).await, (0, 980));
}
