-- Records events as pending charges (mark_deductions_pending), with company and article found as charge_events finds
-- them. One row per item, in input order: `pending`; `charged`, this very request was meanwhile; `no_company`, there is
-- nothing to record; `decided`, the key has another outcome, which the next try will be answered with.
create or replace function mark_events_pending(
    p_job_ids uuid[], p_company_ids uuid[], p_article_ids uuid[], p_amounts bigint[],
    p_metadata jsonb[], p_usage_types text[], p_error_messages text[]
) returns table (item int, mark text)
language plpgsql security definer
set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
declare
    v_items int[];
    v_company_ids uuid[];
    v_article_ids uuid[];
begin
    -- Of what has a company, and the only one: else there is nothing to record, or nothing to be charged.
    select array_agg(e.n::int order by e.n), array_agg(e.company_id order by e.n), array_agg(e.article_id order by e.n)
    into v_items, v_company_ids, v_article_ids
    from resolve_events(p_job_ids, p_company_ids, p_article_ids) e
    where e.company_id = coalesce(e.jobs_company_id, e.company_id);

    return query
    select r.n::int, coalesce(m.mark, case when r.company_id is null then 'no_company' else 'decided' end)
    from resolve_events(p_job_ids, p_company_ids, p_article_ids) r
    left join (
        select v_items[m.n] as item,
               case when m.status = 'pending' and m.same_request then 'pending'
                    when m.status = 'completed' and m.same_request then 'charged' else 'decided' end as mark
        from mark_deductions_pending(
            array(select p_job_ids[u.i]::text from unnest(v_items) with ordinality u (i, n) order by u.n),
            coalesce(v_company_ids, '{}'), coalesce(v_article_ids, '{}'),
            array(select p_amounts[u.i] from unnest(v_items) with ordinality u (i, n) order by u.n),
            array(select p_metadata[u.i] from unnest(v_items) with ordinality u (i, n) order by u.n),
            array(select p_usage_types[u.i] from unnest(v_items) with ordinality u (i, n) order by u.n),
            array(select p_job_ids[u.i] from unnest(v_items) with ordinality u (i, n) order by u.n),
            array(select p_error_messages[u.i] from unnest(v_items) with ordinality u (i, n) order by u.n)
        ) with ordinality as m (key, status, same_request, n)
    ) m on m.item = r.n
    order by r.n;
end $$;
