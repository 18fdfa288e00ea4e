select p.oid is not null, coalesce(p.proowner = t.relowner and s.fingerprint = concat_ws('|',
       p.prosrc, l.lanname, p.prosecdef, p.provolatile, (
           select string_agg(f.setting, ',' order by f.setting collate "C")
           from unnest(p.proconfig) c (setting)
           cross join lateral (
               select case when c.setting = format('search_path=%I, pg_temp', n.nspname) then 'search_path pinned'
                           else c.setting end) f (setting))), false)
from unnest($1::text[], $2::text[]) with ordinality s (signature, fingerprint, place)
left join pg_class t on t.oid = to_regclass('token_deduction_records')
left join (pg_proc p join pg_language l on l.oid = p.prolang join pg_namespace n on n.oid = p.pronamespace)
       on p.oid = to_regprocedure(s.signature)
order by s.place
