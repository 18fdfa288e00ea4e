select 'charge_arithmetic' as kind, company_id, idempotency_key as subject,
       format('%s = %s + %s monthly and purchased; %s -> %s', amount, monthly_deducted, purchased_deducted,
              balance_before, balance_after) as detail
from token_deduction_records
where case when status in ('completed', 'compensated')
           then (balance_before - amount = balance_after and balance_after >= 0
                 and monthly_deducted + purchased_deducted = amount
                 and monthly_deducted >= 0 and purchased_deducted >= 0
                 and completed_at is not null and ledger_seq is not null) is not true
           else monthly_deducted <> 0 or purchased_deducted <> 0 or ledger_seq is not null end
union all
select 'duplicate_position', null, 'ledger_seq ' || ledger_seq, format('%s movements have it', count(*))
from (select ledger_seq from token_deduction_records where ledger_seq is not null
      union all select ledger_seq from token_credits) movements
group by ledger_seq having count(*) > 1
