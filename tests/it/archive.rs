//! The archive's own rules: what is one dead letter, what is another, and what is resolved.

use time::Duration;
use token_billing::storage::{
    Arrival, ChargeState, DeadLetter, DeadLetterState, Selection, Storage,
};
use uuid::Uuid;

use crate::support::{
    dead_letters::refused,
    eventually::{PATIENCE, eventually},
    site::Site,
};

async fn all(storage: &Storage) -> Vec<DeadLetter> {
    let everything = Selection::default();
    let mut dead_letters = storage
        .dead_letters(&everything, None, 100)
        .await
        .expect("read");
    dead_letters.reverse();
    dead_letters
}

#[tokio::test]
async fn the_same_reason_and_body_is_the_same_dead_letter_while_open() {
    let site = Site::new().await;
    let storage = site.storage();
    let (job, company) = (Uuid::new_v4(), site.company(0, 0).await);
    let first = refused(job, company, 500);
    let later = Arrival {
        last_failed_at: first.last_failed_at + Duration::minutes(5),
        first_failed_at: first.first_failed_at - Duration::minutes(5),
        attempts: 3,
        error: "Not enough tokens: the article needs 500 and the company has 7.".to_owned(),
        ..first.clone()
    };
    let other = Arrival {
        reason: "company_not_found".to_owned(),
        ..first.clone()
    };

    let ids = storage
        .archive(&[first.clone(), later.clone(), other])
        .await
        .expect("archived");
    assert_eq!(ids[0], ids[1]);
    assert_ne!(ids[0], ids[2]);
    let dead_letters = all(&storage).await;
    assert_eq!(dead_letters.len(), 2);
    assert_eq!(
        (dead_letters[0].occurrences, dead_letters[0].attempts),
        (2, 3)
    );
    assert_eq!(dead_letters[0].error, later.error);
    assert_eq!(dead_letters[0].first_failed_at, later.first_failed_at);
    assert_eq!(dead_letters[0].last_failed_at, later.last_failed_at);
    assert_eq!(
        (dead_letters[0].state, dead_letters[0].charge_state),
        (DeadLetterState::Open, ChargeState::NeverCharged)
    );
    assert!(dead_letters[1].last_arrival > dead_letters[0].last_arrival);
}

#[tokio::test]
async fn what_the_ledger_has_charged_is_resolved_but_not_a_complaint_about_that_charge() {
    let site = Site::new().await;
    let storage = site.storage();
    let company = site.company(0, 1000).await;
    let (job, other) = (Uuid::new_v4(), Uuid::new_v4());
    let reused = Arrival {
        reason: "idempotency_key_reused".to_owned(),
        ..refused(job, company, 400)
    };
    storage
        .archive(&[
            refused(job, company, 500),
            reused,
            refused(other, company, 9),
        ])
        .await
        .expect("archived");
    assert_eq!(storage.resolve_dead_letters().await.expect("resolved"), 0);

    assert!(site.db.deduct(job, company, 500).await.success);
    assert_eq!(storage.resolve_dead_letters().await.expect("resolved"), 1);
    let dead_letters = all(&storage).await;
    let seen: Vec<_> = dead_letters
        .iter()
        .map(|dead_letter| (dead_letter.state, dead_letter.charge_state))
        .collect();
    assert_eq!(
        seen,
        [
            (DeadLetterState::Resolved, ChargeState::Charged),
            (DeadLetterState::Open, ChargeState::Charged),
            (DeadLetterState::Open, ChargeState::NeverCharged)
        ]
    );
    assert_eq!(dead_letters[1].charged_tokens, Some(500));
    assert!(dead_letters[1].charged_at.is_some());
    let open = Selection {
        states: vec![DeadLetterState::Open],
        ..Selection::default()
    };
    assert_eq!(storage.count_dead_letters(&open).await.expect("counted"), 2);
}

#[tokio::test]
async fn a_replay_that_comes_back_is_another_dead_letter_and_both_know_it() {
    let site = Site::new().await;
    let storage = site.storage();
    let (job, company) = (Uuid::new_v4(), site.company(0, 0).await);
    let first = refused(job, company, 500);
    let id = storage
        .archive(std::slice::from_ref(&first))
        .await
        .expect("archived")[0];
    // Its replayer has published it, and died before it could mark it.
    site.db
        .execute(format!(
            "insert into operator_actions (actor, action, subject) values ('me', 'replay', '{id}');
             update dead_letters set claimed_by = (select max(id) from operator_actions),
                                     claimed_until = clock_timestamp() + interval '1 minute'"
        ))
        .await;
    let back = Arrival {
        replay_of: Some(id),
        ..first.clone()
    };
    let again = storage
        .archive(std::slice::from_ref(&back))
        .await
        .expect("archived")[0];
    assert_ne!(id, again);
    let dead_letters = all(&storage).await;
    assert_eq!(
        (dead_letters[0].state, dead_letters[0].failed_again_as),
        (DeadLetterState::Replayed, Some(again))
    );
    assert_eq!(
        (dead_letters[1].state, dead_letters[1].occurrences),
        (DeadLetterState::Open, 1)
    );

    // The archivist died before its ack.
    assert_eq!(storage.archive(&[back]).await.expect("archived"), [again]);
    // A header that anybody could have made up.
    let forged = Arrival {
        body: b"{}".to_vec(),
        replay_of: Some(again),
        ..first
    };
    storage.archive(&[forged]).await.expect("archived");
    let dead_letters = all(&storage).await;
    assert_eq!(
        (dead_letters[1].state, dead_letters[1].occurrences),
        (DeadLetterState::Open, 2)
    );
}

#[tokio::test]
async fn an_archive_that_grew_from_nothing_is_not_read_through_for_each_dead_letter() {
    let mut site = Site::new().await;
    // One connection, whose plans were made while the table was empty.
    site.set("DATABASE__MAX_CONNECTIONS", "1");
    let storage = site.storage();
    let (batches, size) = (30, 50);
    for _ in 0..batches {
        let batch: Vec<Arrival> = (0..size)
            .map(|_| refused(Uuid::new_v4(), Uuid::nil(), 5))
            .collect();
        storage.archive(&batch).await.expect("archived");
    }
    storage.close().await;
    // A connection tells what it has read when it ends, a moment later.
    let read = "select coalesce(sum(idx_tup_read), 0)::bigint from pg_stat_user_indexes
                where relname = 'dead_letters'";
    let inserted = "select n_tup_ins from pg_stat_user_tables where relname = 'dead_letters'";
    eventually(
        "the statistics are there",
        PATIENCE,
        async || site.number(inserted).await,
        |&rows| rows == batches * size,
    )
    .await;
    let rows = site.number(read).await;
    assert!(rows < 10 * batches * size, "{rows} index entries were read");
}
