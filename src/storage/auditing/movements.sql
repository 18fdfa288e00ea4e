select company_id, ledger_seq, coalesce(completed_at, created_at) as at, 'charge' as kind,
       balance_before, balance_after, purchased_deducted,
       monthly_period_end as period_end_before,
       null::bigint as monthly_before, null::bigint as monthly_after, null::bigint as purchased_before,
       null::bigint as purchased_after, null::timestamptz as period_end_after
from token_deduction_records where status in ('completed', 'compensated')
union all
select company_id, ledger_seq, created_at, 'credit', null, null, null, period_end_before,
       monthly_before, monthly_after, purchased_before, purchased_after, period_end_after
from token_credits
union all
select m.company_id, null, clock_timestamp(), case when c.company_id is null then 'gone' else 'now' end,
       null, null, null, c.current_period_end,
       -- A NULL balance counts as 0 everywhere.
       case when c.company_id is not null then coalesce(c.monthly_quota_balance, 0) end, null,
       case when c.company_id is not null then coalesce(c.purchased_token_balance, 0) end, null, null
from (select company_id from token_deduction_records where status in ('completed', 'compensated')
      union select company_id from token_credits) m
left join company_subscriptions c on c.company_id = m.company_id
order by company_id, ledger_seq nulls last
