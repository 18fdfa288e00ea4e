-- Records charges that nobody has been able to make, though they are due: the retries are used up. The
-- sweeper makes them later. Takes no company lock: that lock may be just what could not be had. A key
-- that was charged meanwhile keeps its record; the caller sees that by the status. One row per item, in
-- input order.
create or replace function mark_deductions_pending(
    p_idempotency_keys text[], p_company_ids uuid[], p_article_ids uuid[], p_amounts bigint[],
    p_metadata jsonb[], p_usage_types text[], p_job_ids uuid[], p_error_messages text[]
) returns table (idempotency_key text, status text, same_request boolean)
language plpgsql security definer
set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
begin
    if array[cardinality(p_company_ids), cardinality(p_article_ids), cardinality(p_amounts), cardinality(p_metadata),
             cardinality(p_usage_types), cardinality(p_job_ids), cardinality(p_error_messages)]
       is distinct from array_fill(coalesce(cardinality(p_idempotency_keys), 0), array[7]) then
        raise exception 'mark_deductions_pending: the arrays differ in length'
            using errcode = 'invalid_parameter_value';
    end if;

    -- UNNEST would take a two-dimensional one element by element, beside the wrong neighbours.
    if 2 <= any (array[
        array_ndims(p_idempotency_keys), array_ndims(p_company_ids), array_ndims(p_article_ids),
        array_ndims(p_amounts), array_ndims(p_metadata), array_ndims(p_usage_types), array_ndims(p_job_ids),
        array_ndims(p_error_messages)
    ]) then
        raise exception 'mark_deductions_pending: an array has more than one dimension'
            using errcode = 'invalid_parameter_value';
    end if;
    perform commit_durably();
    p_idempotency_keys := canonical_keys(p_idempotency_keys);

    -- What is there before what is new, each in order: as a charge does, so that neither deadlocks the other.
    perform from token_deduction_records r
    where r.idempotency_key = any (p_idempotency_keys) order by r.idempotency_key for no key update;
    insert into token_deduction_records as r (
        idempotency_key, company_id, article_id, amount, status, metadata, usage_type, error_code, error_message,
        pending_since)
    select distinct on (i.key collate "C")
           i.key, i.company_id, i.article_id, i.amount, 'pending', coalesce(i.metadata, '{}'),
           coalesce(i.usage_type, 'article_generation'), 'retries_exhausted', i.error_message, clock_timestamp()
    from unnest(p_idempotency_keys, p_company_ids, p_article_ids, p_amounts, p_metadata, p_usage_types,
                p_error_messages)
         as i (key, company_id, article_id, amount, metadata, usage_type, error_message)
    order by i.key collate "C"
    on conflict (idempotency_key) do update
    set status = 'pending', amount = excluded.amount, metadata = excluded.metadata,
        usage_type = excluded.usage_type, article_id = coalesce(excluded.article_id, r.article_id),
        error_code = excluded.error_code, error_message = excluded.error_message,
        -- Pending already: since then.
        pending_since = case r.status when 'pending' then coalesce(r.pending_since, r.created_at)
                                      else excluded.pending_since end,
        claimed_until = case r.status when 'pending' then r.claimed_until end
    where r.status in ('pending', 'failed') and r.company_id = excluded.company_id;

    begin
        perform from article_jobs j where j.id = any (p_job_ids) order by j.id for no key update;
        update article_jobs j
        set status = 'pending_token_deduction', error_message = r.error_message, updated_at = clock_timestamp()
        from unnest(p_idempotency_keys, p_job_ids) as i (key, job_id)
        cross join lateral (
            select * from token_deduction_records r
            where r.idempotency_key = i.key collate "C" and r.status = 'pending' offset 0
        ) r
        where j.id = i.job_id and j.company_id = r.company_id;
    exception when others then
        -- The job's row is the application's: refused or locked, the pending record stands.
        raise warning 'article_jobs refused pending_token_deduction: %', sqlerrm;
    end;

    return query
    select r.idempotency_key, r.status, r.company_id = i.company_id and r.amount = i.amount
    from unnest(p_idempotency_keys, p_company_ids, p_amounts) with ordinality as i (key, company_id, amount, n)
    cross join lateral (
        select * from token_deduction_records r where r.idempotency_key = i.key collate "C" offset 0
    ) r
    order by i.n;
end $$;
