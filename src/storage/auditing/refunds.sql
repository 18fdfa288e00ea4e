select case when c.idempotency_key is null then 'refund_without_credit' else 'refund_credit_wrong' end as kind,
       coalesce(r.company_id, c.company_id) as company_id,
       coalesce(r.idempotency_key, c.idempotency_key) as subject,
       format('record %s of %s tokens; given back %s, forfeited %s', coalesce(r.status, 'not refunded'),
              coalesce(r.amount, 0), coalesce(c.monthly_amount + c.purchased_amount, 0),
              coalesce(c.forfeited_amount, 0)) as detail
from (select * from token_deduction_records where status = 'compensated') r
full join (select * from token_credits where kind = 'refund') c on c.idempotency_key = r.idempotency_key
where r.idempotency_key is null or c.idempotency_key is null or c.company_id <> r.company_id
   or c.monthly_amount + c.purchased_amount + c.forfeited_amount <> r.amount
