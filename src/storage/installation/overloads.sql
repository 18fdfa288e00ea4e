with ours as (
    select p.oid, p.proname, p.pronamespace, p.proargtypes
    from unnest($1::text[]) s (signature)
    join pg_class t on t.oid = to_regclass('token_deduction_records')
    join pg_namespace n on n.oid = t.relnamespace
    join pg_proc p on p.oid = to_regprocedure(format('%I.%s', n.nspname, s.signature))
)
select format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)),
       exists (select from ours o where o.proname = p.proname and o.proargtypes = p.proargtypes)
from pg_proc p join pg_namespace n on n.oid = p.pronamespace
where p.proname in (select o.proname from ours o)
  and p.oid not in (select o.oid from ours o)
  and (pg_function_is_visible(p.oid) or p.pronamespace in (select o.pronamespace from ours o))
  and (p.proname = any ($2)
       or exists (select from ours o where o.proname = p.proname and o.proargtypes = p.proargtypes))
order by 1
