with place as (
    select coalesce((select c.relnamespace from pg_class c where c.oid = to_regclass('token_deduction_records')),
                    (select n.oid from pg_namespace n where n.nspname = current_schema())) as schema,
           (select p.proowner from pg_proc p
            where p.oid = to_regprocedure(
                'deduct_tokens_batch(text[],uuid[],uuid[],bigint[],jsonb[],text[],uuid[])')) as owner
)
select c.relkind::text as relation,
       format_type(coalesce(b.oid, t.oid), null) as type_name,
       coalesce(b.typcategory, t.typcategory)::text as category,
       case when coalesce(b.oid, t.oid) in ('varchar'::regtype, 'bpchar'::regtype)
            then nullif(coalesce(nullif(a.atttypmod, -1), t.typtypmod), -1) - 4 end as length,
       (select array_agg(e.enumlabel::text) from pg_enum e where e.enumtypid = coalesce(b.oid, t.oid)) as labels,
       not coalesce(a.attnotnull, false) as nullable,
       exists (select from pg_index i
               where i.indrelid = c.oid and i.indisunique and i.indisvalid and i.indpred is null
                 and i.indexprs is null and i.indnkeyatts = 1 and i.indkey[0] = a.attnum) as is_unique,
       coalesce(has_column_privilege(c.oid, a.attnum, 'select'), false) as may_read,
       (select array_agg(distinct s.status) from unnest($3::text[]) s (status), pg_constraint k
        where k.conrelid = c.oid and k.contype = 'c' and k.conkey = array[a.attnum]
          and pg_get_constraintdef(k.oid) like '%= ANY (%'
          and position(quote_literal(s.status) in pg_get_constraintdef(k.oid)) = 0) as unlisted,
       array(select r.privilege from unnest(array['select', 'update']) r (privilege)
             where not coalesce(has_any_column_privilege(p.owner, c.oid, r.privilege), true)
               and (r.privilege = 'select' or c.relname <> 'articles')) as owner_lacks,
       pg_get_userbyid(p.owner)::text as functions_owner
from unnest($1::text[], $2::text[]) with ordinality w (relation, col, place)
cross join place p
left join pg_class c on c.relname = w.relation and c.relnamespace = p.schema
left join pg_attribute a on a.attrelid = c.oid and a.attname = w.col and a.attnum > 0 and not a.attisdropped
left join pg_type t on t.oid = a.atttypid
left join pg_type b on b.oid = t.typbasetype and t.typtype = 'd'
order by w.place
