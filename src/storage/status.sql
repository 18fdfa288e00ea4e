select extract(epoch from w.length)::bigint as window_seconds,
       due.pending, due.oldest_pending_age_seconds, holds.open_holds, logged.charged, logged.refunded, refused.refused,
       dead.open_dead_letters, dead.oldest_dead_letter_age_seconds
from (select make_interval(secs => $1::float8) as length) w
cross join lateral (
    select count(*) as pending,
           (select greatest(extract(epoch from clock_timestamp() - coalesce(r.pending_since, r.created_at)), 0)
            from token_deduction_records r where r.status = 'pending'
            order by coalesce(r.pending_since, r.created_at) limit 1)::bigint
               as oldest_pending_age_seconds
    from token_deduction_records r where r.status = 'pending'
) due
cross join (
    select count(*) as open_holds from token_holds h where h.status = 'open' and h.expires_at > now()
) holds
cross join lateral (
    select count(*) filter (where l.token_amount > 0) as charged,
           count(*) filter (where l.token_amount < 0) as refunded
    from token_usage_logs l where l.created_at > now() - make_interval(secs => $1::float8)
) logged
cross join lateral (
    select coalesce(jsonb_object_agg(f.error_code, f.records), '{}') as refused
    from (
        select r.error_code, count(*) as records
        from token_deduction_records r
        where r.status = 'failed' and r.created_at > now() - make_interval(secs => $1::float8)
        group by r.error_code
    ) f
) refused
cross join lateral (
    select o.open_dead_letters,
           (select greatest(extract(epoch from clock_timestamp() - d.archived_at), 0)
            from dead_letters d where d.id = o.oldest)::bigint as oldest_dead_letter_age_seconds
    from (select count(*) as open_dead_letters, min(d.id) as oldest from dead_letters d where d.state = 'open') o
) dead
