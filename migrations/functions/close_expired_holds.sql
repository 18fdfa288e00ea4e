-- Closes those of the holds that are still open and expired; tells which. p_reasons: `expired` or `event_missing`.
create or replace function close_expired_holds(p_job_ids uuid[], p_reasons text[])
returns table (job_id uuid)
language plpgsql security definer
set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
begin
    perform commit_durably();
    return query
    update token_holds h set status = 'released', reason = i.reason, closed_at = clock_timestamp()
    from (
        select h.job_id, i.reason
        from (select * from unnest(p_job_ids, p_reasons) as u (job_id, reason) order by u.job_id) i
        cross join lateral (
            select h.job_id from token_holds h
            where h.job_id = i.job_id and h.status is not distinct from 'open' and h.expires_at <= clock_timestamp()
            for update skip locked
        ) h
    ) i
    where h.job_id = i.job_id
    returning h.job_id;
end $$;
