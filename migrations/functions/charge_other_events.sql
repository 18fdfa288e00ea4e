-- Charges completion events of any kind, each decided by itself: charge_events, which calls this, says what is answered.
create or replace function charge_other_events(
    p_job_ids uuid[], p_company_ids uuid[], p_article_ids uuid[], p_amounts bigint[],
    p_metadata jsonb[], p_usage_types text[], p_lock_wait_ms int
) returns table (item int, outcome text, error_message text, job_status_error text)
language plpgsql as $$
#variable_conflict use_column
declare
    v_lock_timeout constant text := current_setting('lock_timeout');
    -- Of each item.
    v_company_ids uuid[];
    v_article_ids uuid[];
    v_jobs_company_ids uuid[];
    v_outcomes text[];
    -- Those that are there and locked by this call.
    v_companies uuid[];
    v_jobs uuid[];
    v_items int[];
begin
    select array_agg(e.company_id order by e.n), array_agg(e.article_id order by e.n),
           array_agg(e.jobs_company_id order by e.n)
    into v_company_ids, v_article_ids, v_jobs_company_ids
    from resolve_events(p_job_ids, p_company_ids, p_article_ids) e;

    if p_lock_wait_ms is null then
        v_companies := array(
            select c.company_id
            from (select distinct u.id from unnest(v_company_ids) u (id) order by u.id) i
            cross join lateral (
                select s.company_id from company_subscriptions s where s.company_id = i.id
                for no key update skip locked
            ) c);
    else
        -- 0 would wait for ever.
        perform set_config('lock_timeout', greatest(p_lock_wait_ms, 1)::text, true);
        v_companies := array(
            select c.company_id
            from (select distinct u.id from unnest(v_company_ids) u (id) order by u.id) i
            cross join lateral (
                select s.company_id from company_subscriptions s where s.company_id = i.id for no key update
            ) c);
    end if;
    v_jobs := array(
        select j.id
        from (
            select distinct u.job_id from unnest(p_job_ids, v_jobs_company_ids) u (job_id, company_id)
            where u.company_id is not null
        ) i
        cross join lateral (
            select a.id from article_jobs a where a.id = i.job_id for no key update skip locked
        ) j);

    v_outcomes := array(
        select case
                   when e.jobs_company_id <> e.company_id then 'company_mismatch'
                   when e.company_id is null then 'job_not_found'
                   -- Not locked by us: there and somebody else's, or not there, which is the ledger's to say.
                   when c.id is null
                        and exists (select from company_subscriptions s where s.company_id = e.company_id)
                       then 'company_locked'
                   when e.jobs_company_id is not null and j.id is null then 'job_locked'
               end
        from unnest(p_job_ids, v_company_ids, v_jobs_company_ids)
             with ordinality as e (job_id, company_id, jobs_company_id, n)
        left join (select distinct u.id from unnest(v_companies) u (id)) c on c.id = e.company_id
        left join (select distinct u.id from unnest(v_jobs) u (id)) j on j.id = e.job_id
        order by e.n);
    return query
    select e.n::int, e.outcome,
           case when e.outcome = 'company_mismatch' then
               format('company_id: the event names %s, article_jobs names %s', e.company_id, e.jobs_company_id)
           end,
           null::text
    from unnest(v_outcomes, v_company_ids, v_jobs_company_ids)
         with ordinality as e (outcome, company_id, jobs_company_id, n)
    where e.outcome is not null;

    v_items := array(
        select e.n::int from unnest(v_outcomes) with ordinality as e (outcome, n) where e.outcome is null order by e.n);
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
