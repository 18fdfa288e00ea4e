select 'negative_balance' as kind, company_id, company_id::text as subject,
       format('monthly %s, purchased %s', monthly_quota_balance, purchased_token_balance) as detail
from company_subscriptions where monthly_quota_balance < 0 or purchased_token_balance < 0
