with place as (
    select c.relnamespace as schema, (
        select p.proowner from pg_proc p
        where p.oid = to_regprocedure('deduct_tokens_batch(text[],uuid[],uuid[],bigint[],jsonb[],text[],uuid[])')
    ) as owner
    from pg_class c where c.oid = to_regclass('token_deduction_records')
)
select c.relname::text, r.rolname::text, w.is_owner
from place p
cross join lateral (
    values (p.owner, true), ((select oid from pg_roles where rolname = current_user), false)
) w (role, is_owner)
join pg_roles r on r.oid = w.role
join pg_class c on c.relnamespace = p.schema and c.relname = any ($1) and c.relrowsecurity
where not r.rolsuper and not r.rolbypassrls
  and not (pg_has_role(r.oid, c.relowner, 'usage') and not c.relforcerowsecurity)
  and (w.is_owner or w.role <> p.owner and has_any_column_privilege(r.oid, c.oid, 'select'))
  and (not exists (
           select from pg_policy y
           where y.polrelid = c.oid and y.polpermissive and pg_get_expr(y.polqual, y.polrelid) = 'true'
             and (y.polcmd = '*' or y.polcmd = 'r' and not w.is_owner)
             and exists (select from unnest(y.polroles) g (role)
                         where g.role = 0 or pg_has_role(r.oid, nullif(g.role, 0), 'usage')))
       or exists (
           select from pg_policy y
           where y.polrelid = c.oid and not y.polpermissive
             and exists (select from unnest(y.polroles) g (role)
                         where g.role = 0 or pg_has_role(r.oid, nullif(g.role, 0), 'usage'))))
order by w.is_owner desc, c.relname
