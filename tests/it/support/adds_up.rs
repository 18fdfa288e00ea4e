//! What must be true of the ledger of a company whoever did what to it at once.

use sqlx::PgPool;
use uuid::Uuid;

/// Holds a company to its ledger: the first movement starts at `initial`, each other one where the
/// one before it ended, the last ends at today's balance, and each charge and each refund has its one
/// usage log.
/// Valid only without changes from outside the functions, and without expired quotas or renewals.
pub(crate) async fn assert_ledger_adds_up(pool: &PgPool, company_id: Uuid, initial: i64) {
    let chain: Vec<(i64, i64, i64)> = sqlx::query_as(
        "select ledger_seq, balance_before, balance_after
         from token_deduction_records where company_id = $1 and status in ('completed', 'compensated')
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
                 where company_id = $1 and status in ('completed', 'compensated')),
                (select coalesce(sum(monthly_amount + purchased_amount), 0)::bigint from token_credits
                 where company_id = $1),
                (select count(*) from (
                     select r.ledger_seq, r.company_id, r.id as record_id, r.amount from token_deduction_records r
                     where r.company_id = $1 and r.status in ('completed', 'compensated')
                     union all
                     select c.ledger_seq, c.company_id, r.id, -r.amount
                     from token_credits c left join token_deduction_records r using (idempotency_key)
                     where c.company_id = $1 and c.kind = 'refund'
                 ) m
                 full join (select * from token_usage_logs u where u.company_id = $1) u on u.id = m.ledger_seq
                 where (u.id, u.company_id, u.deduction_record_id, u.token_amount) is distinct from
                       (m.ledger_seq, m.company_id, m.record_id, m.amount))
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
        "usage logs of {company_id} match its charges and refunds"
    );
    let mut expected = initial;
    for (ledger_seq, before, after) in chain {
        assert_eq!(before, expected, "movement {ledger_seq} of {company_id}");
        expected = after;
    }
    assert_eq!(expected, balance, "the last movement of {company_id}");
}
