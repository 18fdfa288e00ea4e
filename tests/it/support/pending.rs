//! Charges that are pending.

use uuid::Uuid;

use super::{
    ledger::{Item, mark_pending},
    site::Site,
};

/// A job with an article of `articles`, pending for `minutes`.
pub(crate) async fn pending(site: &Site, company: Uuid, tokens: i64, minutes: i64) -> Uuid {
    let (job, article) = (site.job(company).await, Uuid::new_v4());
    site.db
        .execute(format!(
            "insert into articles (id, company_id) values ('{article}', '{company}')"
        ))
        .await;
    let item = Item {
        article_id: Some(article),
        ..Item::new(job, company, tokens)
    };
    mark(site, &[item], minutes).await;
    job
}

/// The same without its article being anywhere.
pub(crate) async fn pending_for_nothing(site: &Site, company: Uuid, minutes: i64) -> Uuid {
    let job = site.job(company).await;
    let item = Item {
        article_id: Some(Uuid::new_v4()),
        ..Item::new(job, company, 70)
    };
    mark(site, &[item], minutes).await;
    job
}

pub(crate) async fn mark(site: &Site, items: &[Item], minutes: i64) {
    mark_pending(site.db.pool(), items, "the database was busy")
        .await
        .expect("marked");
    for key in items.iter().filter_map(|item| item.key.as_ref()) {
        site.db
            .execute(format!(
                "update token_deduction_records set pending_since = now() - interval '{minutes} min'
                 where idempotency_key = '{key}'"
            ))
            .await;
    }
}
