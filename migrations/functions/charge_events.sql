-- Charges completion events, each once: what the worker calls. A row only for an item that is an exception; every item
-- without one was newly charged by this call.
--
-- `outcome`: `charged_before`; `insufficient_balance`, `company_not_found`, `idempotency_key_reused`,
-- `already_compensated`, `company_mismatch`: refused; `job_not_found`: the event names no company, and neither its job's
-- row nor its record is there; `company_locked`, `job_locked`: somebody holds that row, and nothing was done about this
-- item; `charged`: it was, but article_jobs refused the new status.
--
-- p_lock_wait_ms NULL: a company whose row can't be locked at once is skipped. Else each is waited for at most so long,
-- and then the whole call fails (55P03). Jobs are never waited for: whoever waited would hold the company meanwhile.
--
-- Why one key can't be charged twice, and what happens if the caller dies: the two functions that charge say it,
-- charge_ordinary_events and, for all others, deduct_tokens_batch. Nothing here decides about tokens.
create or replace function charge_events(
    p_job_ids uuid[], p_company_ids uuid[], p_article_ids uuid[], p_amounts bigint[],
    p_metadata jsonb[], p_usage_types text[], p_lock_wait_ms int
) returns table (item int, outcome text, error_message text, job_status_error text)
language plpgsql security definer
set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
-- A bitmap would visit each hold that was closed since the last VACUUM, every time; an index scan only once.
set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
    v_charged int[];
    v_locked int[];
    v_others int[];
begin
    perform commit_durably();
    if array_position(p_company_ids, null) is not null then
        select array_agg(e.company_id order by e.n), array_agg(e.article_id order by e.n)
        into p_company_ids, p_article_ids
        from resolve_events(p_job_ids, p_company_ids, p_article_ids) e;
    end if;
    if p_lock_wait_ms is null then
        select e.charged, e.locked into v_charged, v_locked
        from charge_ordinary_events(
            p_job_ids, p_company_ids, p_article_ids, p_amounts, p_metadata, p_usage_types) e;
        if cardinality(v_charged) = cardinality(p_job_ids) then
            return;
        end if;
        return query select u.n, 'company_locked', null::text, null::text from unnest(v_locked) u (n);
    end if;

    v_others := array(
        select n from generate_subscripts(p_job_ids, 1) n
        except select u.n from unnest(v_charged || v_locked) u (n)
        order by 1);
    if v_others = '{}' then
        return;
    end if;
    return query
    select v_others[e.item], e.outcome, e.error_message, e.job_status_error
    from charge_other_events(
        array(select p_job_ids[u.i] from unnest(v_others) with ordinality u (i, n) order by u.n),
        array(select p_company_ids[u.i] from unnest(v_others) with ordinality u (i, n) order by u.n),
        array(select p_article_ids[u.i] from unnest(v_others) with ordinality u (i, n) order by u.n),
        array(select p_amounts[u.i] from unnest(v_others) with ordinality u (i, n) order by u.n),
        array(select p_metadata[u.i] from unnest(v_others) with ordinality u (i, n) order by u.n),
        array(select p_usage_types[u.i] from unnest(v_others) with ordinality u (i, n) order by u.n),
        p_lock_wait_ms) e;
end $$;
