select 'hold_without_charge' as kind, h.company_id, h.job_id::text as subject,
       format('held %s tokens and closed as charged, and there is no charge', h.amount) as detail
from token_holds h
left join token_deduction_records r
    on r.idempotency_key = h.job_id::text collate "C" and r.company_id = h.company_id
    and r.status in ('completed', 'compensated')
where h.status = 'charged' and r.idempotency_key is null
union all
select 'charged_job_held', h.company_id, h.job_id::text, format('%s tokens are held for a job that is charged', h.amount)
from token_holds h
join token_deduction_records r
    on r.idempotency_key = h.job_id::text collate "C" and r.company_id = h.company_id
    and r.status in ('completed', 'compensated')
where h.status = 'open'
union all
select 'hold_not_closed', h.company_id, h.job_id::text, format('%s tokens, expired %s', h.amount, h.expires_at)
from token_holds h
where h.status = 'open' and h.expires_at < clock_timestamp() - make_interval(secs => $1)
