select p.privilege, u.name, a.attname::text
from unnest($1::text[]) u (name)
join pg_attribute a on a.attrelid = to_regclass(u.name) and a.attnum > 0 and not a.attisdropped
cross join (values ('insert'), ('update')) p (privilege)
where has_column_privilege(a.attrelid, a.attnum, p.privilege)
union all
select p.privilege, u.name, null
from unnest($1::text[]) u (name)
cross join (values ('delete'), ('truncate'), ('trigger')) p (privilege)
where has_table_privilege(to_regclass(u.name), p.privilege)
union all
select 'trigger', u.name, null from unnest($2::text[]) u (name)
where has_table_privilege(to_regclass(u.name), 'trigger')
union all
select 'update', u.name, null from unnest($3::text[]) u (name)
where has_sequence_privilege(to_regclass(u.name), 'usage, update')
union all
select 'create', 'schema ' || n.nspname, null
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.oid = to_regclass('token_deduction_records') and has_schema_privilege(n.oid, 'create')
