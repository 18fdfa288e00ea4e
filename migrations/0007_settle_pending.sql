-- Settling what is owed: the sweeper's part of the books.
--
-- `pending` is since when the charge is owed, not since when its record exists: a record that failed last
-- week may have become pending a minute ago, and nobody may call that stale.
--
-- A sweeper takes records by committing `claimed_until` in a short transaction of its own. It never holds
-- their rows while it charges: a charge locks the company first and then its keys, and whoever has the keys
-- first deadlocks with it. If the sweeper dies, the claim runs out, and a later pass takes the record.
--
-- Every write here looks again at "still pending" under the row's lock: whoever settled it first has.

alter table token_deduction_records
    add column pending_since timestamptz,
    add column claimed_until timestamptz,
    -- When the sweeper found that there is no article: tokens given away are summed by day.
    add column written_off_at timestamptz;

drop index idx_token_deduction_status;
create index idx_token_deduction_status
    on token_deduction_records ((coalesce(pending_since, created_at)), idempotency_key)
    where status = 'pending';

-- As in 0003, and now it tells since when.
create or replace function mark_deductions_pending(
    p_idempotency_keys text[], p_company_ids uuid[], p_article_ids uuid[], p_amounts bigint[],
    p_metadata jsonb[], p_usage_types text[], p_job_ids uuid[], p_error_messages text[]
) returns table (idempotency_key text, status text, same_request boolean)
language plpgsql security definer as $$
#variable_conflict use_column
begin
    if array[cardinality(p_company_ids), cardinality(p_article_ids), cardinality(p_amounts), cardinality(p_metadata),
             cardinality(p_usage_types), cardinality(p_job_ids), cardinality(p_error_messages)]
       is distinct from array_fill(coalesce(cardinality(p_idempotency_keys), 0), array[7]) then
        raise exception 'mark_deductions_pending: the arrays differ in length'
            using errcode = 'invalid_parameter_value';
    end if;

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
        -- Owed already: since then.
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

-- The job of a key; NULL: the key is no job's id.
create function job_of(p_idempotency_key text) returns uuid
language sql immutable parallel safe as $$
    select case when p_idempotency_key ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then p_idempotency_key::uuid end
$$;

-- What is known of a pending record.
create type stale_deduction as (
    idempotency_key text,
    company_id uuid,
    article_id uuid,              -- the record's own, or its job's
    job_id uuid,
    amount bigint,
    pending_since timestamptz,
    -- Whether `articles` has it; NULL: not to be told from what is there.
    article_exists boolean
);

-- Pending longer than p_stale_after by this database's clock and in nobody's hands, oldest first, with what
-- `articles` says of them; those after (p_after, p_after_key). An empty `articles` says nothing: it may be
-- that nobody fills it.
create function stale_deductions(
    p_stale_after interval, p_after timestamptz, p_after_key text, p_limit int
) returns setof stale_deduction
language plpgsql stable security definer as $$
declare
    v_articles constant boolean := exists (select from articles);
begin
    return query
    select r.idempotency_key, r.company_id, r.article_id, r.job_id, r.amount, r.pending_since,
           case when r.article_id is not null and v_articles then a.id is not null end
    from (
        select r.idempotency_key, r.company_id, coalesce(r.article_id, j.article_id) as article_id, k.job_id,
               r.amount, coalesce(r.pending_since, r.created_at) as pending_since
        from token_deduction_records r
        cross join lateral (select job_of(r.idempotency_key) as job_id) k
        left join lateral (
            select j.article_id from article_jobs j
            where j.id = k.job_id and j.company_id = r.company_id offset 0
        ) j on true
        where r.status = 'pending'
          and coalesce(r.pending_since, r.created_at) <= clock_timestamp() - p_stale_after
          and (coalesce(r.pending_since, r.created_at), r.idempotency_key)
              > (coalesce(p_after, '-infinity'), coalesce(p_after_key, '') collate "C")
          and (r.claimed_until is null or r.claimed_until <= clock_timestamp())
        order by coalesce(r.pending_since, r.created_at), r.idempotency_key
        limit p_limit
    ) r
    -- One by one through the index, never all articles into a hash.
    left join lateral (select a.id from articles a where a.id = r.article_id limit 1) a on true
    order by r.pending_since, r.idempotency_key;
end $$;

-- Takes the next stale records for p_lease. What somebody is charging at this moment is left to him.
create function claim_stale_deductions(
    p_stale_after interval, p_after timestamptz, p_after_key text, p_limit int, p_lease interval
) returns setof stale_deduction
language plpgsql security definer as $$
declare
    v_stale stale_deduction[];
    v_keys text[];
begin
    -- One claimer at a time: else all would look at the same oldest ones.
    perform pg_advisory_xact_lock(hashtextextended('token-billing sweeper', 0));
    loop
        v_stale := array(
            select s from stale_deductions(p_stale_after, p_after, p_after_key, p_limit) s
            order by s.pending_since, s.idempotency_key);
        -- By their keys alone, here and below: a plan that was made on an empty table may otherwise walk along all
        -- that is pending for each of them.
        select array_agg(r.idempotency_key) filter (where r.status = 'pending') into v_keys
        from unnest(v_stale) s
        cross join lateral (
            select r.idempotency_key, r.status from token_deduction_records r
            where r.idempotency_key = s.idempotency_key collate "C"
            for no key update skip locked
        ) r;
        exit when v_keys is not null or cardinality(v_stale) = 0;
        -- All of them are being charged: an empty answer would end the pass, so those behind them are looked at.
        p_after := v_stale[cardinality(v_stale)].pending_since;
        p_after_key := v_stale[cardinality(v_stale)].idempotency_key;
    end loop;
    update token_deduction_records r set claimed_until = clock_timestamp() + p_lease
    where r.idempotency_key = any (v_keys);
    return query
    select * from unnest(v_stale) s where s.idempotency_key = any (v_keys)
    order by s.pending_since, s.idempotency_key;
end $$;

-- Charges those of the keys that are still pending, oldest first, each as it stands now; one row for each. Whoever
-- settles one between the look and the charge is found by the charge itself.
create function charge_pending_deductions(p_idempotency_keys text[]) returns table (
    idempotency_key text, success boolean, idempotent boolean, error text, error_message text, amount bigint,
    job_status_error text
)
language plpgsql security definer as $$
#variable_conflict use_column
declare
    v_owed token_deduction_records[];
begin
    v_owed := array(
        select r::token_deduction_records
        from (select distinct u.key collate "C" as key from unnest(p_idempotency_keys) as u (key)) i
        cross join lateral (
            select * from token_deduction_records r where r.idempotency_key = i.key offset 0
        ) r
        where r.status = 'pending'
        order by coalesce(r.pending_since, r.created_at), r.idempotency_key);
    return query
    select o.idempotency_key, d.success, d.idempotent, d.error, d.error_message, d.amount, d.job_status_error
    from deduct_tokens_batch(
        array(select o.idempotency_key from unnest(v_owed) with ordinality o order by o.ordinality),
        array(select o.company_id from unnest(v_owed) with ordinality o order by o.ordinality),
        array(select o.article_id from unnest(v_owed) with ordinality o order by o.ordinality),
        array(select o.amount from unnest(v_owed) with ordinality o order by o.ordinality),
        array(select o.metadata from unnest(v_owed) with ordinality o order by o.ordinality),
        array(select o.usage_type from unnest(v_owed) with ordinality o order by o.ordinality),
        array(select job_of(o.idempotency_key) from unnest(v_owed) with ordinality o order by o.ordinality)) d
    join unnest(v_owed) with ordinality o on o.ordinality = d.item;
end $$;

-- Ends those of the keys that are still pending as failed: the article that was to be paid doesn't exist.
create function write_off_pending_deductions(p_idempotency_keys text[])
    returns table (idempotency_key text, amount bigint, job_status_error text)
language plpgsql security definer as $$
#variable_conflict use_column
declare
    v_keys text[];
    v_written_off token_deduction_records[];
    v_refusals jsonb;
begin
    select array_agg(r.idempotency_key) filter (where r.status = 'pending') into v_keys
    from (select distinct u.key collate "C" as key from unnest(p_idempotency_keys) as u (key) order by 1) i
    cross join lateral (
        select r.idempotency_key, r.status from token_deduction_records r
        where r.idempotency_key = i.key for no key update
    ) r;
    with written_off as (
        update token_deduction_records r
        set status = 'failed', error_code = 'article_not_found', claimed_until = null,
            error_message = 'There is no such article; its tokens were not charged.',
            written_off_at = clock_timestamp()
        where r.idempotency_key = any (v_keys)
        returning r.*
    )
    select array_agg(w::token_deduction_records) into v_written_off from written_off w;
    v_refusals := update_article_jobs(
        array(select job_of(w.idempotency_key) from unnest(v_written_off) w where job_of(w.idempotency_key) is not null),
        array(select w.company_id from unnest(v_written_off) w where job_of(w.idempotency_key) is not null),
        array(select w.error_message from unnest(v_written_off) w where job_of(w.idempotency_key) is not null));
    return query
    select w.idempotency_key, w.amount, v_refusals ->> w.idempotency_key from unnest(v_written_off) w;
end $$;

do $$
declare
    v_function text;
begin
    foreach v_function in array array[
        'mark_deductions_pending(text[], uuid[], uuid[], bigint[], jsonb[], text[], uuid[], text[])',
        'stale_deductions(interval, timestamptz, text, int)',
        'claim_stale_deductions(interval, timestamptz, text, int, interval)',
        'charge_pending_deductions(text[])',
        'write_off_pending_deductions(text[])'
    ] loop
        execute format('alter function %s set search_path = %I, pg_temp', v_function, current_schema());
        execute format('alter function %s set plan_cache_mode = force_generic_plan', v_function);
        execute format('alter function %s set enable_seqscan = off', v_function);
        execute format('alter function %s set jit = off', v_function);
        execute format('revoke execute on function %s from public', v_function);
    end loop;
end $$;
revoke execute on function job_of(text) from public;
