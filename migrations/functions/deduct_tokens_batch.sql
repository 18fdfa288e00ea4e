-- Many charges in one transaction; one result per item, in input order. The results equal those of
-- deduct_tokens_atomic called once per item in that order. Nothing else ever lowers a balance.
--
-- Why one key can't be charged twice:
--   1. The company's row is locked first. Charges of one company happen one after the other.
--   2. Only then are the keys looked up, in a statement of its own, so under READ COMMITTED the look
--      sees all that the previous holder of the lock committed.
--   3. The record of a charge is inserted under the unique index of the key. If another company's
--      transaction inserted the same key after our look, ours is missed, all of it is rolled back to
--      the block's start and decided anew, now seeing that record.
-- Record, usage log and balance are written in one transaction: all or nothing (deduct_tokens_segment does it).
--
-- Lock order, everywhere: companies by id, then keys in order, then article_jobs by id.
--
-- If the caller dies: before COMMIT nothing happened; after it, everything did, and the same key
-- answers with the original result for ever. A charge is on disk when its COMMIT returns (commit_durably).
--
-- The arrays are parallel. Of these, only keys, companies and amounts must be without NULLs.
-- p_job_ids names the row of article_jobs to be told of the outcome.
--
-- Planned once: planning anew would take a fifth of a batch's time. A cached plan outlives the sizes that
-- it was made for (one made on empty tables was seen to walk over all keys for each batch), so the only
-- plan left to choose is the one that is good at any size: each key through its index. That is why the
-- lookups are LATERAL, here and in the other functions with these settings.
create or replace function deduct_tokens_batch(
    p_idempotency_keys text[], p_company_ids uuid[], p_article_ids uuid[], p_amounts bigint[],
    p_metadata jsonb[], p_usage_types text[], p_job_ids uuid[]
) returns setof deduction_result
language plpgsql security definer
set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
-- A bitmap would visit each hold that was closed since the last VACUUM, every time; an index scan only once.
set enable_bitmapscan = off
as $$
declare
    v_count constant int := coalesce(cardinality(p_idempotency_keys), 0);
    v_has_holds constant boolean := exists (
        select from (select from token_holds h where h.status = 'open' order by h.expires_at desc limit 1) h);
    v_starts int[];
    v_from int;
    v_to int;
    v_segment record;
    v_results deduction_result[];
    v_job_ids uuid[];
    v_job_company_ids uuid[];
    v_job_messages text[];
    v_refusals jsonb;
begin
    if array[cardinality(p_company_ids), cardinality(p_article_ids), cardinality(p_amounts),
             cardinality(p_metadata), cardinality(p_usage_types), cardinality(p_job_ids)]
       is distinct from array_fill(v_count, array[6]) then
        raise exception 'deduct_tokens_batch: the arrays differ in length'
            using errcode = 'invalid_parameter_value';
    end if;
    -- UNNEST would take a two-dimensional one element by element, beside the wrong neighbours.
    if 2 <= any (array[
        array_ndims(p_idempotency_keys), array_ndims(p_company_ids), array_ndims(p_article_ids),
        array_ndims(p_amounts), array_ndims(p_metadata), array_ndims(p_usage_types), array_ndims(p_job_ids)
    ]) then
        raise exception 'deduct_tokens_batch: an array has more than one dimension'
            using errcode = 'invalid_parameter_value';
    end if;
    if v_count > 0
       and array[array_lower(p_idempotency_keys, 1), array_lower(p_company_ids, 1), array_lower(p_article_ids, 1),
                 array_lower(p_amounts, 1), array_lower(p_metadata, 1), array_lower(p_usage_types, 1),
                 array_lower(p_job_ids, 1)] is distinct from array_fill(1, array[7]) then
        raise exception 'deduct_tokens_batch: an array does not start at 1'
            using errcode = 'invalid_parameter_value';
    end if;

    perform commit_durably();
    -- A worker's keys are the ids of their jobs, and canonical already.
    if exists (
        select from unnest(p_idempotency_keys, p_job_ids) as i (key, job_id)
        where i.job_id::text is distinct from i.key
    ) then
        p_idempotency_keys := canonical_keys(p_idempotency_keys);
    end if;

    -- A segment ends before an item that uses an earlier key of the batch for something else (another
    -- amount, say): what that item meets depends on how the earlier one fared. Ordinarily there is one. Where tokens are
    -- held each use of a key is a segment's: what is refused ends its hold, and a copy may then be paid for.
    select array_agg(i.n order by i.n) into v_starts
    from (
        select i.n, row_number() over same_key > 1
                    and (v_has_holds
                         or (company_id, article_id, amount, metadata, usage_type, job_id)
                            is distinct from lag((company_id, article_id, amount, metadata, usage_type, job_id))
                                             over same_key) as differs
        from unnest(p_idempotency_keys, p_company_ids, p_article_ids, p_amounts, p_metadata, p_usage_types, p_job_ids)
             with ordinality as i (key, company_id, article_id, amount, metadata, usage_type, job_id, n)
        window same_key as (partition by i.key collate "C" order by i.n)
    ) i
    where i.n = 1 or i.differs;
    if cardinality(v_starts) > 1 then
        -- Segments take their keys in the order of the input. So that this deadlocks with nobody: first all
        -- companies, then all keys that are there, then a claim on each that is new. Nobody else can insert
        -- a key of which an open transaction has inserted a row, even one that it has deleted since.
        perform from company_subscriptions c
        where c.company_id = any (p_company_ids) order by c.company_id for no key update;
        perform from token_deduction_records r
        where r.idempotency_key = any (p_idempotency_keys) order by r.idempotency_key for no key update;
        insert into token_deduction_records (idempotency_key, company_id, amount, status, error_code)
        select i.key, gen_random_uuid(), 1, 'pending', 'claim'
        from (
            select distinct u.key collate "C" as key from unnest(p_idempotency_keys) as u (key)
            where is_key(u.key)
        ) i
        order by i.key
        on conflict (idempotency_key) do nothing;
        delete from token_deduction_records r
        where r.idempotency_key = any (p_idempotency_keys) and r.error_code = 'claim';
    end if;

    for v_try in 1 .. 10 loop
        begin
            v_results := null;
            v_job_ids := null;
            v_job_company_ids := null;
            v_job_messages := null;
            for v_n in 1 .. coalesce(cardinality(v_starts), 0) loop
                v_from := v_starts[v_n];
                v_to := coalesce(v_starts[v_n + 1] - 1, v_count);
                v_segment := deduct_tokens_segment(
                    p_idempotency_keys[v_from:v_to], p_company_ids[v_from:v_to], p_article_ids[v_from:v_to],
                    p_amounts[v_from:v_to], p_metadata[v_from:v_to], p_usage_types[v_from:v_to],
                    p_job_ids[v_from:v_to], v_from);
                v_results := v_results || v_segment.results;
                v_job_ids := v_job_ids || v_segment.job_ids;
                v_job_company_ids := v_job_company_ids || v_segment.job_company_ids;
                v_job_messages := v_job_messages || v_segment.job_messages;
            end loop;
            exit;
        exception when unique_violation then
            -- Another company's transaction recorded one of our keys after our look. Look again.
            if v_try = 10 then raise; end if;
        end;
    end loop;

    v_refusals := update_article_jobs(v_job_ids, v_job_company_ids, v_job_messages);
    if v_refusals is null then
        return query select * from unnest(v_results);
    else
        return query
        select r.item, r.success, r.idempotent, r.status, r.error, r.error_message, r.deduction_record_id, r.amount,
               r.monthly_deducted, r.purchased_deducted, r.balance_before, r.balance_after, r.retry_count,
               r.required, r.available,
               -- Only a new outcome was told to the job.
               case when not r.idempotent and (r.success or r.error in ('insufficient_balance', 'company_not_found'))
                    then v_refusals ->> p_job_ids[r.item]::text end
        from unnest(v_results) r;
    end if;
end $$;
