-- Charges completion events, each once: what the worker calls. A row only for an item that is an exception; every item
-- without one was newly charged by this call.
--
-- `outcome`: `charged_before`; `insufficient_balance`, `company_not_found`, `idempotency_key_reused`,
-- `already_compensated`, `company_mismatch`: refused; `job_not_found`: the event names no company, and neither its job's
-- row nor its record is there; `company_locked`, `job_locked`: somebody holds that row, and nothing was done about this
-- item; `charged`: it was, but article_jobs refused the new status.
--
-- p_lock_wait_ms NULL: rows of companies and jobs that can't be locked at once are skipped. Else each is waited for at
-- most so long, and then the whole call fails (55P03).
create or replace function charge_events(
    p_job_ids uuid[], p_company_ids uuid[], p_article_ids uuid[], p_amounts bigint[],
    p_metadata jsonb[], p_usage_types text[], p_lock_wait_ms int
) returns table (item int, outcome text, error_message text, job_status_error text)
language plpgsql security definer
set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
declare
    v_lock_timeout constant text := current_setting('lock_timeout');
    v_companies uuid[];
    v_jobs uuid[];
    v_items int[];
    v_company_ids uuid[];
    v_article_ids uuid[];
begin
    if p_lock_wait_ms is not null then
        -- 0 would wait for ever.
        perform set_config('lock_timeout', greatest(p_lock_wait_ms, 1)::text, true);
    else
        v_companies := array(
            select c.company_id from (
                select distinct e.company_id from resolve_events(p_job_ids, p_company_ids, p_article_ids) e
            ) e
            cross join lateral (
                select s.company_id from company_subscriptions s where s.company_id = e.company_id
                for no key update skip locked
            ) c);
        v_jobs := array(
            select j.id from (select distinct u.id from unnest(p_job_ids) u (id)) i
            cross join lateral (
                select a.id from article_jobs a where a.id = i.id for no key update skip locked
            ) j);
    end if;

    for item, outcome, error_message in
        select e.n,
               case
                   when e.jobs_company_id <> e.company_id then 'company_mismatch'
                   when e.company_id is null then 'job_not_found'
                   when p_lock_wait_ms is not null then null
                   when e.company_id <> all (v_companies)
                        and exists (select from company_subscriptions s where s.company_id = e.company_id)
                       then 'company_locked'
                   when e.jobs_company_id is not null and e.job_id <> all (v_jobs) then 'job_locked'
               end as outcome,
               case when e.jobs_company_id <> e.company_id then
                   format('company_id: the event names %s, article_jobs names %s', e.company_id, e.jobs_company_id)
               end
        from resolve_events(p_job_ids, p_company_ids, p_article_ids) e
        order by e.n
    loop
        if outcome is null then
            v_items := v_items || item;
        else
            return next;
        end if;
    end loop;

    select array_agg(e.company_id order by e.n), array_agg(e.article_id order by e.n) into v_company_ids, v_article_ids
    from resolve_events(p_job_ids, p_company_ids, p_article_ids) e;
    return query
    select v_items[d.item],
           case when d.idempotent then 'charged_before' else coalesce(d.error, 'charged') end,
           d.error_message, d.job_status_error
    from deduct_tokens_batch(
        array(select p_job_ids[u.i]::text from unnest(v_items) with ordinality u (i, n) order by u.n),
        array(select v_company_ids[u.i] from unnest(v_items) with ordinality u (i, n) order by u.n),
        array(select v_article_ids[u.i] from unnest(v_items) with ordinality u (i, n) order by u.n),
        array(select p_amounts[u.i] from unnest(v_items) with ordinality u (i, n) order by u.n),
        array(select p_metadata[u.i] from unnest(v_items) with ordinality u (i, n) order by u.n),
        array(select p_usage_types[u.i] from unnest(v_items) with ordinality u (i, n) order by u.n),
        array(select p_job_ids[u.i] from unnest(v_items) with ordinality u (i, n) order by u.n)) d
    where d.idempotent or d.error is not null or d.job_status_error is not null;
    perform set_config('lock_timeout', v_lock_timeout, true);
end $$;
