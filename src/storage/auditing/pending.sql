select 'pending_too_long' as kind, company_id, idempotency_key as subject,
       format('%s tokens, since %s', amount, coalesce(pending_since, created_at)) as detail
from token_deduction_records
where status = 'pending'
  and coalesce(pending_since, created_at) < clock_timestamp() - make_interval(secs => $1)
