//! What must be true of the books of a company whoever did what to it at once.

use sqlx::PgPool;
use uuid::Uuid;

/// Holds a company to its books: the first movement starts at `initial`, each other one where the
/// one before it ended, the last ends at today's balance, and each charge has its one usage log.
/// Valid only without changes from outside the functions, and without expired quotas or renewals.
pub(crate) async fn assert_books_add_up(pool: &PgPool, company_id: Uuid, initial: i64) {
    let chain: Vec<(i64, i64, i64)> = sqlx::query_as(
        "select ledger_seq, balance_before, balance_after
         from token_deduction_records where company_id = $1 and status = 'completed'
         union all
         select ledger_seq, monthly_before + purchased_before, monthly_after + purchased_after
         from token_credits where company_id = $1
         order by 1",
    )
    .bind(company_id)
    .fetch_all(pool)
    .await
    .expect("movements can be read");
    let (balance, charged, credited, stray_logs): (i64, i64, i64, i64) = sqlx::query_as(
        "select monthly_quota_balance + purchased_token_balance,
                (select coalesce(sum(amount), 0)::bigint from token_deduction_records
                 where company_id = $1 and status = 'completed'),
                (select coalesce(sum(purchased_amount), 0)::bigint from token_credits where company_id = $1),
                (select count(*) from token_deduction_records r
                 full join token_usage_logs u on u.deduction_record_id = r.id
                 where (r.company_id = $1 or u.company_id = $1)
                   and (r.status = 'completed' or u.id is not null)
                   and (u.id, u.company_id, u.token_amount)
                       is distinct from (r.ledger_seq, r.company_id, r.amount))
         from company_subscriptions where company_id = $1",
    )
    .bind(company_id)
    .fetch_one(pool)
    .await
    .expect("the company is there");

    assert_eq!(
        initial + credited - charged,
        balance,
        "the sum of {company_id}"
    );
    assert_eq!(
        stray_logs, 0,
        "usage logs of {company_id} match its charges"
    );
    let mut expected = initial;
    for (ledger_seq, before, after) in chain {
        assert_eq!(before, expected, "movement {ledger_seq} of {company_id}");
        expected = after;
    }
    assert_eq!(expected, balance, "the last movement of {company_id}");
}
