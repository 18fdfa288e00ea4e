with object as (
    select case c.relkind when 'S' then 'sequence' else 'table' end as kind, c.oid::regclass::text as shown,
           c.relacl as acl, c.relowner as owner
    from unnest($1::text[]) u (name)
    join pg_class c on c.oid = case when u.name not like '%(%' then to_regclass(u.name) end
    union all
    select 'function', p.oid::regprocedure::text, coalesce(p.proacl, acldefault('f', p.proowner)), p.proowner
    from unnest($1::text[]) u (name)
    join pg_proc p on p.oid = case when u.name like '%(%' then to_regprocedure(u.name) end
)
select string_agg(lower(x.privilege_type), ', ' order by lower(x.privilege_type)) as privileges,
       o.kind, o.shown as object, case x.grantee when 0 then 'public' else x.grantee::regrole::text end as role
from object o cross join lateral aclexplode(o.acl) x
where x.grantee <> o.owner
group by o.kind, o.shown, x.grantee order by role, o.kind, o.shown
