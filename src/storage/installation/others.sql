with place as (
    select c.relnamespace as schema, n.nspname, c.relowner as owner
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.oid = to_regclass('token_deduction_records')
),
relation as (
    select c.oid, c.relname::text as name, c.relowner, case c.relkind when 'S' then 'sequence' else 'table' end as kind,
           coalesce(c.relacl, acldefault((case c.relkind when 'S' then 's' else 'r' end)::"char", c.relowner)) as acl
    from place p join pg_class c on c.relnamespace = p.schema and c.relname = any ($1 || $2)
),
granted (kind, object, owner, grantee, privilege, col) as (
    select r.kind, r.name, r.relowner, a.grantee, lower(a.privilege_type), null
    from relation r cross join aclexplode(r.acl) a
    union all
    select r.kind, r.name, r.relowner, a.grantee, lower(a.privilege_type), c.attname::text
    from relation r join pg_attribute c on c.attrelid = r.oid and not c.attisdropped
    cross join aclexplode(c.attacl) a
    union all
    select 'function', s.signature, f.proowner, a.grantee, lower(a.privilege_type), null
    from place p cross join unnest($3::text[]) s (signature)
    join pg_proc f on f.oid = to_regprocedure(format('%I.%s', p.nspname, s.signature))
    cross join aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) a
    union all
    select 'role', 'pg_write_all_data', p.owner, r.oid, 'member', null
    from place p cross join pg_roles r
    where r.oid >= 16384 and pg_has_role(r.oid, 'pg_write_all_data', 'member')
)
select r.rolname::text as role, g.kind, g.object, g.privilege, g.col as "column",
       exists (select from pg_default_acl d cross join aclexplode(d.defaclacl) a, place p
               where a.grantee = g.grantee and a.grantee <> d.defaclrole and d.defaclnamespace in (0, p.schema)
                 and d.defaclobjtype in ('r', 'S', 'f')) as by_default
from granted g
left join pg_roles r on r.oid = g.grantee
where g.privilege in ('insert', 'update', 'delete', 'truncate', 'trigger', 'execute', 'usage', 'member')
  and g.grantee <> g.owner and r.rolname is distinct from current_user
  and (g.grantee = 0 or r.oid is not null and not r.rolsuper and not pg_has_role(r.oid, g.owner, 'member'))
order by r.rolname nulls first, g.kind desc, g.object, g.privilege
