//! `dlq watch`: nothing that arrives is missed, whatever happens to the database meanwhile.

use serde_json::{Value, json};
use token_billing::{
    operations::{
        Operations,
        dead_letters::{Arrivals, News},
    },
    storage::Selection,
};
use uuid::Uuid;

use crate::support::{
    eventually::{PATIENCE, eventually},
    letters::{malformed, refused},
    proxy::ChaosProxy,
    site::Site,
    stream::Stream,
};

const WATCH: [&str; 4] = ["dlq", "watch", "--output", "json"];

async fn next(stream: &mut Stream) -> Value {
    serde_json::from_str(&stream.line().await).expect("one JSON object a line")
}

/// So many connections listen.
async fn until_listening(site: &Site, connections: i64) {
    let listening = "select count(*) from pg_stat_activity
                     where datname = current_database() and query = 'LISTEN \"token_billing_dead_letters\"'";
    let listening = async || site.number(listening).await;
    eventually("they listen", PATIENCE, listening, |now| {
        *now == connections
    })
    .await;
}

async fn next_id(stream: &mut Stream) -> i64 {
    next(stream).await["id"].as_i64().expect("a number")
}

#[tokio::test]
async fn it_begins_with_the_last_few_and_goes_on_with_each_arrival() {
    let site = Site::new().await;
    let company = site.company(0, 0).await;
    let letters = [1, 2, 3].map(|tokens| refused(Uuid::new_v4(), company, tokens));
    let ids = site.archive(&letters).await;
    let args = [&WATCH[..], &["--tail", "2"]].concat();
    let mut stream = Stream::start(&args, &site.environment());
    assert_eq!(
        [next_id(&mut stream).await, next_id(&mut stream).await],
        ids[1..]
    );

    // It looks now and then, and at once when it is told.
    until_listening(&site, 1).await;
    let new = site.archive(&[malformed(b"{", "line 1")]).await[0];
    assert_eq!(next_id(&mut stream).await, new);
    // The first one again: the same letter.
    site.archive(&letters[..1]).await;
    let again = next(&mut stream).await;
    assert_eq!(
        (&again["id"], &again["occurrences"]),
        (&json!(ids[0]), &json!(2))
    );

    stream.signal("INT").await;
    assert_eq!(stream.end().await, (Some(0), String::new()));
}

/// The ids of what arrived.
async fn arrived(arrivals: &mut Arrivals) -> Vec<i64> {
    match arrivals.next().await {
        News::Arrived(arrived) => arrived.iter().map(|dead_letter| dead_letter.id).collect(),
        News::Away(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn all_who_watch_in_one_process_share_a_connection_that_ends_with_the_last_of_them() {
    let site = Site::new().await;
    let company = site.company(0, 0).await;
    let archive = async || site.archive(&[refused(Uuid::new_v4(), company, 1)]).await;
    let before = archive().await;
    let operations = Operations::open(&site.settings()).await.expect("reached");
    let all = Selection::default();
    let watch = async |tail| {
        operations
            .watch_dead_letters(&all, tail)
            .await
            .expect("begun")
    };
    let (mut one, mut other) = (watch(1).await, watch(0).await);
    assert_eq!(arrived(&mut one).await, before);
    until_listening(&site, 1).await;
    let first = archive().await;
    // Owned: a task of its own may hold it, as a server's answer does.
    let watching = tokio::spawn(async move { (arrived(&mut one).await, one) });
    assert_eq!(arrived(&mut other).await, first);
    let (seen, one) = watching.await.expect("it watched");
    assert_eq!(seen, first);
    until_listening(&site, 1).await;

    drop(one);
    let second = archive().await;
    assert_eq!(arrived(&mut other).await, second);
    until_listening(&site, 1).await;
    drop(other);
    until_listening(&site, 0).await;
    let _another = watch(0).await;
    until_listening(&site, 1).await;
    operations.close().await;
}

#[tokio::test]
async fn a_look_that_is_dropped_halfway_loses_no_arrival() {
    let site = Site::new().await;
    let operations = Operations::open(&site.settings()).await.expect("reached");
    let all = Selection::default();
    let watch = operations.watch_dead_letters(&all, 0);
    let mut arrivals = watch.await.expect("begun");
    let company = site.company(0, 0).await;
    for _ in 0..20 {
        let new = site.archive(&[refused(Uuid::new_v4(), company, 1)]).await;
        // As whoever waits for other things beside it drops it, at any moment.
        let mut patience = std::time::Duration::from_micros(100);
        let seen = loop {
            match tokio::time::timeout(patience, arrived(&mut arrivals)).await {
                Ok(seen) => break seen,
                Err(_) => patience = patience * 5 / 4,
            }
            assert!(patience < PATIENCE, "{new:?} is never seen");
        };
        assert_eq!(seen, new);
    }
    operations.close().await;
}

#[tokio::test]
async fn it_shows_only_what_is_selected() {
    let site = Site::new().await;
    let company = site.company(0, 0).await;
    let args = [&WATCH[..], &["--reason", "malformed"]].concat();
    site.archive(&[refused(Uuid::new_v4(), company, 1)]).await;
    let first = site.archive(&[malformed(b"{", "line 1")]).await[0];
    let mut stream = Stream::start(&args, &site.environment());
    assert_eq!(next_id(&mut stream).await, first);
    site.archive(&[refused(Uuid::new_v4(), company, 1)]).await;
    let second = site.archive(&[malformed(b"}", "line 1")]).await[0];
    assert_eq!(next_id(&mut stream).await, second);
}

#[tokio::test]
async fn what_nobody_was_notified_of_is_found_all_the_same() {
    let site = Site::new().await;
    let company = site.company(0, 0).await;
    let archive = async || site.archive(&[refused(Uuid::new_v4(), company, 1)]).await[0];
    let first = archive().await;
    let mut stream = Stream::start(&WATCH, &site.environment());
    assert_eq!(next_id(&mut stream).await, first);
    let second = archive().await;
    assert_eq!(next_id(&mut stream).await, second);
    // The first of these may still be met by the look for which the letters were the occasion.
    for occurrences in [7, 8] {
        site.db
            .execute(format!(
                "update dead_letters set occurrences = {occurrences},
                                         last_arrival = nextval('dead_letter_arrival_seq') where id = {first}"
            ))
            .await;
        assert_eq!(next(&mut stream).await["occurrences"], json!(occurrences));
    }
}

#[tokio::test]
async fn connections_that_break_and_a_database_that_is_away_cost_no_letter() {
    let mut site = Site::new().await;
    let company = site.company(0, 0).await;
    let proxy = ChaosProxy::start(site.db.url()).await;
    let direct = site.storage();
    site.set("DATABASE__URL", &proxy.url());
    site.set("RECONNECT__MAX", "1s");
    let archive = async |tokens: i64| {
        let letter = [refused(Uuid::new_v4(), company, tokens)];
        direct.archive(&letter).await.expect("archived")[0]
    };
    let first = archive(1).await;
    let mut stream = Stream::start(&WATCH, &site.environment());
    assert_eq!(next_id(&mut stream).await, first);

    for tokens in 2..6 {
        proxy.cut();
        let id = archive(tokens).await;
        assert_eq!(next_id(&mut stream).await, id);
    }
    proxy.refuse().await;
    let missed = [archive(6).await, archive(7).await];
    proxy.restore().await;
    let last = archive(8).await;
    for id in missed.into_iter().chain([last]) {
        assert_eq!(next_id(&mut stream).await, id);
    }
    stream.signal("TERM").await;
    assert_eq!(stream.end().await.0, Some(0));
}

#[tokio::test]
async fn it_ends_when_nobody_reads_it_any_more() {
    let site = Site::new().await;
    let company = site.company(0, 0).await;
    let first = site.archive(&[refused(Uuid::new_v4(), company, 1)]).await[0];
    for format in ["json", "table"] {
        let args = ["dlq", "watch", "--output", format];
        let mut stream = Stream::start(&args, &site.environment());
        if format == "table" {
            assert!(stream.line().await.starts_with("failed"));
        }
        assert!(stream.line().await.contains(&first.to_string()));
        // Like `| head -1`: no other letter comes.
        stream.close();
        assert_eq!(stream.end().await, (Some(0), String::new()));
    }
}
