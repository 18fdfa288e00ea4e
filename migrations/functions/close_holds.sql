-- Ends the open holds of jobs about whose charge something was decided in this transaction. The arrays are parallel;
-- p_reasons: why it is released; NULL: the job was charged, which what has expired had no part in.
--
-- A hold of another company than the one that was decided about is left alone: it counts for that one until it expires.
create or replace function close_holds(p_job_ids uuid[], p_company_ids uuid[], p_reasons text[], p_now timestamptz)
returns void
language sql as $$
    update token_holds h
    set status = case when o.reason is null then 'charged' else 'released' end, reason = o.reason, closed_at = p_now
    from (
        select i.job_id, coalesce(i.reason, case when h.expires_at <= p_now then 'expired' end) as reason
        from unnest(p_job_ids, p_company_ids, p_reasons) as i (job_id, company_id, reason)
        cross join lateral (
            select h.expires_at from token_holds h
            -- The status in a form that no index serves: by its key, and not one of all that the company has open.
            where h.job_id = i.job_id and h.company_id = i.company_id and h.status is not distinct from 'open' offset 0
        ) h
    ) o
    where h.job_id = o.job_id and h.status is not distinct from 'open'
$$;
