with place as (
    select relnamespace as schema from pg_class where oid = to_regclass('token_deduction_records')
)
select c.relname::text, t.tgname::text, t.tgfoid::regproc::text, t.tginitdeferred
from place p
join pg_class c on c.relnamespace = p.schema and c.relname in ('company_subscriptions', 'article_jobs')
join pg_trigger t on t.tgrelid = c.oid
where not t.tgisinternal and t.tgenabled in ('O', 'A') and t.tgtype::int & 16 <> 0
union all
select c.relname::text, r.rulename::text, '', false
from place p
join pg_class c on c.relnamespace = p.schema and c.relname in ('company_subscriptions', 'article_jobs')
join pg_rewrite r on r.ev_class = c.oid
where r.ev_type = '2' and c.relkind in ('r', 'p')
order by 1, 2
