select case when r.id is null then 'log_without_record'
            when l.n is null then 'charge_without_log'
            when r.status = 'compensated' then 'refund_logs_wrong'
            else 'charge_log_wrong' end as kind,
       coalesce(r.company_id, l.company_id) as company_id,
       coalesce(r.idempotency_key, 'record ' || l.deduction_record_id) as subject,
       format('record %s of %s tokens; %s logs that sum to %s', coalesce(r.status, 'missing'),
              coalesce(r.amount, 0), coalesce(l.n, 0), coalesce(l.total, 0)) as detail
from (select * from token_deduction_records where status in ('completed', 'compensated')) r
full join (
    select deduction_record_id, count(*) as n, sum(token_amount) as total, min(company_id::text)::uuid as company_id,
           count(distinct company_id) as companies, min(id) as first_id, max(token_amount) as largest
    from token_usage_logs group by deduction_record_id
) l on l.deduction_record_id = r.id
where r.id is null or l.n is null or l.companies <> 1 or l.company_id <> r.company_id
   or l.largest <> r.amount or l.first_id <> r.ledger_seq
   or (r.status = 'completed' and (l.n <> 1 or l.total <> r.amount))
   or (r.status = 'compensated' and (l.n <> 2 or l.total <> 0))
