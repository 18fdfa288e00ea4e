//! Ten thousand dead letters.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use token_billing::storage::{DeadLetterState, Selection};

use crate::support::{
    eventually::{PATIENCE, eventually},
    site::Site,
};

/// As ten thousand refusals and broken bodies would leave them, with the records of those refused.
async fn ten_thousand(site: &Site) {
    site.db
        .execute(
            "insert into token_deduction_records (
                 idempotency_key, company_id, amount, status, error_code, error_message)
             select md5('job' || n)::uuid, md5('company' || n % 500)::uuid, n, 'failed', 'insufficient_balance', '-'
             from generate_series(1, 10000) n where n % 4 <> 0;
             insert into dead_letters (
                 reason, error, error_signature, body, headers, job_id, company_id, tokens, attempts,
                 first_failed_at, last_failed_at, last_arrival)
             select reason, error, regexp_replace(error, '[0-9]+', '#', 'g'), convert_to(body, 'UTF8'),
                    '{\"attempt\": 0}', case when n % 4 <> 0 then job end, case when n % 4 <> 0 then company end,
                    case when n % 4 <> 0 then n end, 1, at, at, nextval('dead_letter_arrival_seq')
             from generate_series(1, 10000) n
             cross join lateral (select md5('job' || n)::uuid as job, md5('company' || n % 500)::uuid as company,
                                        now() - n * interval '1 second' as at) a
             cross join lateral (
                 select case when n % 4 = 0 then 'malformed' else 'insufficient_balance' end as reason,
                        case when n % 4 = 0 then format('tokens: expected an integer, got \"%s\"', n)
                             else format('Not enough tokens: the article needs %s and the company has %s.', n, n % 7)
                        end as error,
                        format('{\"job_id\":\"%s\",\"tokens\":%s,\"metadata\":{\"prompt\":\"%s\"}}', job, n,
                               repeat(md5(n::text), 10)) as body
             ) b;
             analyze;",
        )
        .await;
}

#[tokio::test]
async fn ten_thousand_dead_letters_are_grouped_and_paged_through_without_missing_one() {
    let site = Site::new().await;
    ten_thousand(&site).await;
    let groups = site
        .run(&["dlq", "groups", "--output", "json"])
        .await
        .document();
    let figures: Vec<[Value; 3]> = groups["groups"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|group| ["reason", "dead_letters", "companies"].map(|key| group[key].clone()))
        .collect();
    assert_eq!(
        figures,
        [
            [json!("insufficient_balance"), json!(7_500), json!(375)],
            [json!("malformed"), json!(2_500), json!(0)]
        ]
    );

    let mut seen = BTreeSet::new();
    let mut before = String::from("1000000");
    for page in 0..5 {
        let list = [
            "dlq", "list", "--limit", "2000", "--before", &before, "--output", "json",
        ];
        let document = site.run(&list).await.document();
        assert_eq!(document["more"], json!(8_000 - page * 2_000));
        for dead_letter in document["dead_letters"].as_array().expect("a list") {
            assert!(seen.insert(dead_letter["id"].as_i64().expect("a number")));
        }
        before = document["next_before"].to_string();
    }
    assert_eq!((seen.len(), before.as_str()), (10_000, "null"));
    let ran = site.run(&["dlq", "list"]).await;
    assert!(
        ran.done().contains("50 dead letters, 9,950 more: "),
        "{ran:#?}"
    );
}

#[tokio::test]
async fn a_page_costs_a_page_however_many_dead_letters_there_are() {
    let site = Site::new().await;
    ten_thousand(&site).await;
    let read = "select seq_tup_read + idx_tup_fetch from pg_stat_user_tables where relname = 'dead_letters'";
    let before = site.number(read).await;
    let storage = site.storage();
    let open = Selection {
        states: vec![DeadLetterState::Open],
        ..Selection::default()
    };
    let page = storage.dead_letters(&open, None, 50).await.expect("a page");
    assert_eq!(page.len(), 50);
    // A session tells what it has read when it ends.
    storage.close().await;
    let look = async || site.number(read).await - before;
    let rows = eventually("the session's figures", PATIENCE, look, |rows| *rows >= 50).await;
    assert!(rows < 500, "{rows}");
}

#[tokio::test]
async fn a_replay_finds_its_dead_letters_by_their_ids_also_where_it_was_planned_when_there_were_none()
 {
    let site = Site::new().await;
    let mut session = site.db.pool().begin().await.expect("begun");
    let run: i64 = sqlx::query_scalar("select begin_replay('me', 'all', null, '{}')")
        .fetch_one(&mut *session)
        .await
        .expect("begun");
    for call in [
        "select count(*) from claim_dead_letters($1, '{1}', '1m')",
        "select mark_dead_letters_replayed($1, '{}', now())",
        "select count(*) from release_dead_letters($1, '{1}')",
    ] {
        sqlx::query(call)
            .bind(run)
            .execute(&mut *session)
            .await
            .expect(call);
        let walks: i64 = sqlx::query_scalar(
            "select pg_stat_get_xact_numscans('idx_dead_letters_open'::regclass)",
        )
        .fetch_one(&mut *session)
        .await
        .expect("counted");
        assert_eq!(walks, 0, "{call}");
    }
}
