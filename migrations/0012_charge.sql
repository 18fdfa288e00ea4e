-- The functions that charge, for databases that are not ours.
--
-- As in 0003 and 0007 (which say why one key can't be charged twice), and now:
--   * Every spelling of a job is one key; a key with control characters is refused (0008).
--   * A balance that is NULL is no tokens. A company with two rows is an error, and nothing is charged: each row would
--     have paid, or none.
--   * The lock of a single charge is a row (0011).
--   * A charge is on disk when its COMMIT returns, whatever `synchronous_commit` the server, the database, the role or
--     the caller has set: the worker acks the event then, and nobody will send it again. `remote_apply` promises
--     more and stays.
--   * Arrays of more than one dimension are refused.

-- Held to the end of the transaction, so also when the caller is any SQL client's.
create function commit_durably() returns void
language plpgsql as $$
begin
    if current_setting('synchronous_commit') not in ('on', 'remote_apply') then
        perform set_config('synchronous_commit', 'on', true);
    end if;
end $$;

-- canonical_key() of each, in order.
create function canonical_keys(p_keys text[]) returns text[]
language sql immutable parallel safe as $$
    select coalesce(array_agg(canonical_key(k.key) order by k.n), '{}') from unnest(p_keys) with ordinality as k (key, n)
$$;

-- Charges items of which equal keys are equal in everything (deduct_tokens_batch sees to that).
-- Locks the companies, charges, and tells the new outcomes of jobs for update_article_jobs.
create or replace function deduct_tokens_segment(
    p_keys text[], p_company_ids uuid[], p_article_ids uuid[], p_amounts bigint[],
    p_metadata jsonb[], p_usage_types text[], p_job_ids uuid[], p_first_item int,
    out results deduction_result[],
    out job_ids uuid[], out job_company_ids uuid[], out job_messages text[]
)
language plpgsql as $$
declare
    v_now timestamptz;
    v_companies company_balance[];
    v_surplus_rows bigint;
    v_missed_keys bigint;
    v_missed_companies bigint;
begin
    -- Locked before the keys are looked at, and read in the locking statement: the newest committed
    -- balances.
    select array_agg((c.company_id, c.place, c.monthly_quota_balance, c.purchased_token_balance,
                      c.current_period_end)::company_balance),
           count(*) - count(distinct c.company_id)
    into v_companies, v_surplus_rows
    from (select distinct u.id from unnest(p_company_ids) as u (id) order by u.id) i
    cross join lateral (
        -- The columns are the application's: a NULL is no tokens.
        select s.company_id, s.ctid as place, coalesce(s.monthly_quota_balance, 0) as monthly_quota_balance,
               coalesce(s.purchased_token_balance, 0) as purchased_token_balance, s.current_period_end
        from company_subscriptions s where s.company_id = i.id for no key update
    ) c;
    -- Each of them would answer for the company, and pay.
    if v_surplus_rows > 0 then
        raise exception 'company_subscriptions has more than one row for company %',
            (select c.company_id from unnest(v_companies) c group by c.company_id having count(*) > 1 limit 1)
            using errcode = 'cardinality_violation';
    end if;
    -- A quota that expired while we waited for the lock is expired.
    v_now := clock_timestamp();

    with input as materialized (
        select i.key collate "C" as key, i.company_id, i.article_id, i.amount, i.job_id, i.n,
               coalesce(i.metadata, '{}') as metadata,
               coalesce(i.usage_type, 'article_generation') as usage_type
        from unnest(p_keys, p_company_ids, p_article_ids, p_amounts, p_metadata, p_usage_types, p_job_ids)
             with ordinality as i (key, company_id, article_id, amount, metadata, usage_type, job_id, n)
    ),
    -- Copies of one request; ordinarily there are none, and numbering all items would cost a sort.
    copy as materialized (
        select i.n, row_number() over (partition by i.key order by i.n) as occurrence,
               count(*) over (partition by i.key) as occurrences
        from input i
        where i.key in (select key from input group by key having count(*) > 1)
    ),
    existing as materialized (
        select r.*
        from (select distinct i.key from input i order by i.key) i
        cross join lateral (
            select * from token_deduction_records r where r.idempotency_key = i.key for no key update
        ) r
    ),
    company as (
        select c.company_id, c.place, c.purchased, c.current_period_end,
               case when c.current_period_end <= v_now then 0 else c.monthly end as monthly
        from unnest(v_companies) c
    ),
    -- What is known before any arithmetic; NULL: to be charged if the balance allows.
    judged as (
        select i.key, i.company_id, coalesce(i.article_id, e.article_id) as article_id, i.amount, i.metadata,
               i.usage_type, i.job_id, i.n,
               coalesce(r.occurrence, 1) as occurrence, coalesce(r.occurrences, 1) as occurrences,
               e.id as existing_id,
               coalesce(e.retry_count + 1, 0) as try,
               c.place as company_place, c.monthly, c.current_period_end,
               -- An application may have given more than one bigint holds; its neighbours in the batch
               -- must not fail for that.
               c.monthly + least(c.purchased, 9223372036854775807 - greatest(c.monthly, 0)) as opening,
               case
                   -- A key that is its job's id needs no closer look.
                   when i.key is null or (i.key is distinct from i.job_id::text and not is_key(i.key))
                        or i.company_id is null or i.amount is null or i.amount < 1
                       then 'invalid_request'
                   when e.status = 'completed' and e.company_id = i.company_id and e.amount = i.amount
                       then 'charged_before'
                   when e.status = 'completed' then 'idempotency_key_reused'
                   when e.status = 'compensated' then 'already_compensated'
                   when e.company_id <> i.company_id and e.error_code <> 'company_not_found'
                       then 'idempotency_key_reused'
                   when c.company_id is null then 'company_not_found'
               end as verdict
        from input i
        left join copy r on r.n = i.n
        left join existing e on e.idempotency_key = i.key
        left join company c on c.company_id = i.company_id
    ),
    -- The running balance of each company, in input order. A repeated key is counted once.
    running as (
        select j.*,
               tokens_left(case when j.verdict is null and j.occurrence = 1 then j.amount else 0 end, j.opening)
                   over (partition by j.company_id order by j.n rows unbounded preceding) as left_after
        from judged j
    ),
    -- `ledger_seq` is drawn here: under the company's lock, in input order.
    decided as materialized (
        select b.key, b.company_id, b.company_place, b.article_id, b.amount, b.metadata, b.usage_type, b.job_id, b.n,
               b.occurrence, b.existing_id, b.verdict, b.left_before, b.charged, b.is_new_outcome,
               b.try + b.occurrence - 1 as retry_count,
               b.try + b.occurrences - 1 as last_retry_count,
               case when b.charged then 'completed' when b.is_new_outcome then 'failed' end as status,
               case when b.charged then b.monthly_share else 0 end as monthly_deducted,
               case when b.charged then b.amount - b.monthly_share else 0 end as purchased_deducted,
               case when b.charged then b.left_before end as balance_before,
               case when b.charged then b.left_after end as balance_after,
               case when b.charged and b.monthly_share > 0 then b.current_period_end end as monthly_period_end,
               case when b.charged then nextval('token_ledger_seq') end as ledger_seq,
               case when b.is_new_outcome then coalesce(b.existing_id, gen_random_uuid()) end as record_id,
               case when b.charged then null else coalesce(b.verdict, 'insufficient_balance') end as error_code,
               case when b.charged then null
                    when b.verdict is null then
                        format('Not enough tokens: the article needs %s and the company has %s.', b.amount, b.left_before)
                    when b.verdict = 'company_not_found' then
                        format('Company %s has no token subscription.', b.company_id)
               end as error_message
        from (
            select r.*,
                   r.verdict is null and r.occurrence = 1 and r.left_after < r.left_before as charged,
                   r.occurrence = 1 and (r.verdict is null or r.verdict = 'company_not_found') as is_new_outcome,
                   least(r.amount, greatest(r.monthly - (r.opening - r.left_before), 0)) as monthly_share
            from (
                select r.*,
                       coalesce(lag(r.left_after) over (partition by r.company_id order by r.n), r.opening)
                           as left_before
                from running r
            ) r
            order by r.n
        ) b
    ),
    -- A new record, or a try that failed before. Of copies that fail, the text is the first one's. Always through
    -- the index of the key: an UPDATE … FROM could be planned as a walk over all keys. A record that isn't the one
    -- we looked at is not touched, and is missed in the count.
    recorded as (
        insert into token_deduction_records as r (
            idempotency_key, id, company_id, article_id, amount, status,
            monthly_deducted, purchased_deducted, balance_before, balance_after, monthly_period_end,
            ledger_seq, usage_type, error_code, error_message, retry_count, created_at, completed_at, metadata)
        select o.key, o.record_id, o.company_id, o.article_id, o.amount, o.status,
               o.monthly_deducted, o.purchased_deducted, o.balance_before, o.balance_after, o.monthly_period_end,
               o.ledger_seq, o.usage_type, o.error_code, o.error_message,
               case when o.charged then o.retry_count else o.last_retry_count end, v_now,
               case when o.charged then v_now end, o.metadata
        from decided o
        where o.is_new_outcome
        order by o.key
        on conflict (idempotency_key) do update
        set company_id = excluded.company_id, article_id = excluded.article_id, amount = excluded.amount,
            status = excluded.status, monthly_deducted = excluded.monthly_deducted,
            purchased_deducted = excluded.purchased_deducted, balance_before = excluded.balance_before,
            balance_after = excluded.balance_after, monthly_period_end = excluded.monthly_period_end,
            ledger_seq = excluded.ledger_seq, usage_type = excluded.usage_type,
            error_code = excluded.error_code, error_message = excluded.error_message,
            retry_count = excluded.retry_count, completed_at = excluded.completed_at,
            metadata = excluded.metadata
        where r.id = excluded.id
        returning 1
    ),
    logged as (
        insert into token_usage_logs (
            id, company_id, article_id, token_amount, deduction_record_id, usage_type, metadata, created_at)
        select o.ledger_seq, o.company_id, o.article_id, o.amount, o.record_id, o.usage_type, o.metadata, v_now
        from decided o
        where o.charged
        order by o.ledger_seq
    ),
    spent as (
        update company_subscriptions c
        set monthly_quota_balance = coalesce(c.monthly_quota_balance, 0) - s.monthly,
            purchased_token_balance = coalesce(c.purchased_token_balance, 0) - s.purchased,
            updated_at = v_now
        from (
            select o.company_id, o.company_place, sum(o.monthly_deducted)::bigint as monthly,
                   sum(o.purchased_deducted)::bigint as purchased
            from decided o where o.charged group by o.company_id, o.company_place
        ) s
        -- By its place; the id, in a form that no index serves, is there for partitioned tables, in
        -- which places repeat.
        where c.ctid = s.company_place and c.company_id is not distinct from s.company_id
        returning 1
    )
    select array_agg(
        case
            when d.is_new_outcome then (
                p_first_item + d.n - 1, d.charged, false, d.status, d.error_code, d.error_message, d.record_id,
                d.amount, d.monthly_deducted, d.purchased_deducted,
                d.left_before, case when d.charged then d.balance_after else d.left_before end, d.retry_count,
                case when d.error_code = 'insufficient_balance' then d.amount end,
                case when not d.charged then d.left_before end, null)::deduction_result
            -- A copy of what this very call charged.
            when f.charged then (
                p_first_item + d.n - 1, true, true, f.status, null, null, f.record_id, f.amount,
                f.monthly_deducted, f.purchased_deducted, f.balance_before, f.balance_after, f.retry_count,
                null, null, null)::deduction_result
            -- A copy of what failed: tried again, and failed again.
            when f.is_new_outcome then (
                p_first_item + d.n - 1, false, false, f.status, f.error_code, d.error_message, f.record_id, d.amount,
                0, 0, d.left_before, d.left_before, d.retry_count,
                case when d.verdict is null then d.amount end, d.left_before, null)::deduction_result
            when d.verdict = 'charged_before' then (
                p_first_item + d.n - 1, true, true, e.status, null, null, e.id, e.amount,
                e.monthly_deducted, e.purchased_deducted, e.balance_before, e.balance_after, e.retry_count,
                null, null, null)::deduction_result
            when d.verdict = 'invalid_request' then (
                p_first_item + d.n - 1, false, false, null, d.verdict,
                'A key of 1 to 1024 bytes without control characters, a company and an amount of at least 1 are required.', null, d.amount,
                0, 0, null, null, null, null, null, null)::deduction_result
            -- Refused; the record stays as it is.
            else (
                p_first_item + d.n - 1, false, false, e.status, d.verdict,
                case d.verdict
                    when 'already_compensated' then 'This charge was refunded and is never made again.'
                    else format('The key belongs to a request for %s tokens of company %s.', e.amount, e.company_id)
                end, e.id, d.amount, 0, 0, null, null, e.retry_count, null, null, null)::deduction_result
        end order by d.n),
        array_agg(d.job_id order by d.n) filter (where d.is_new_outcome and d.job_id is not null),
        array_agg(d.company_id order by d.n) filter (where d.is_new_outcome and d.job_id is not null),
        array_agg(d.error_message order by d.n) filter (where d.is_new_outcome and d.job_id is not null),
        count(*) filter (where d.is_new_outcome) - (select count(*) from recorded),
        count(distinct d.company_id) filter (where d.charged) - (select count(*) from spent)
    into results, job_ids, job_company_ids, job_messages, v_missed_keys, v_missed_companies
    from decided d
    -- The first of the copies.
    left join decided f on d.occurrence > 1 and f.occurrence = 1 and f.key = d.key
    left join existing e on e.idempotency_key = d.key;

    if v_missed_keys > 0 then
        raise unique_violation using message = 'another transaction recorded one of the keys meanwhile';
    end if;
    if v_missed_companies > 0 then
        raise exception 'a locked company_subscriptions row was not where it had been';
    end if;
end $$;

-- Many charges in one transaction; one result per item, in input order. The results equal those of
-- deduct_tokens_atomic called once per item in that order.
--
-- The arrays are parallel. Of these, only keys, companies and amounts must be without NULLs.
-- p_job_ids names the row of article_jobs to be told of the outcome.
create or replace function deduct_tokens_batch(
    p_idempotency_keys text[], p_company_ids uuid[], p_article_ids uuid[], p_amounts bigint[],
    p_metadata jsonb[], p_usage_types text[], p_job_ids uuid[]
) returns setof deduction_result
language plpgsql security definer as $$
declare
    v_count constant int := coalesce(cardinality(p_idempotency_keys), 0);
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
    -- amount, say): what that item meets depends on how the earlier one fared. Ordinarily there is one.
    select array_agg(i.n order by i.n) into v_starts
    from (
        select i.n, row_number() over same_key > 1
                    and (company_id, article_id, amount, metadata, usage_type, job_id)
                        is distinct from lag((company_id, article_id, amount, metadata, usage_type, job_id))
                                         over same_key as differs
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

-- One charge, for any SQL client. A business outcome is a result, never an exception. A key that is
-- a UUID is the id of a job.
create or replace function deduct_tokens_atomic(
    p_idempotency_key text, p_company_id uuid, p_article_id uuid, p_amount bigint, p_metadata jsonb default '{}'
) returns jsonb
language plpgsql security definer as $$
declare
    v_key constant text := canonical_key(p_idempotency_key) collate "C";
    v_job_id constant uuid := job_of(v_key);
    r deduction_result;
begin
    -- Tells "somebody is at it" from "charged" without waiting. Not what prevents a second charge. Two keys
    -- share a row by a chance of one in 65,536: the caller tries again, as he would have to anyway.
    perform from token_billing_locks
    where slot = (hashtextextended(v_key, 0) & 65535)::int for update skip locked;
    if not found and v_key is not null then
        return jsonb_build_object(
            'success', false, 'idempotent', false, 'status', null, 'error', 'deduction_in_progress',
            'error_message', 'Another transaction is charging this key; try again.', 'deduction_record_id', null,
            'amount', p_amount, 'monthly_deducted', 0, 'purchased_deducted', 0,
            'balance_before', null, 'balance_after', null, 'retry_count', null);
    end if;
    select * into strict r from deduct_tokens_batch(
        array[v_key], array[p_company_id], array[p_article_id], array[p_amount],
        array[p_metadata], array[p_metadata ->> 'usage_type'], array[v_job_id]);
    return to_jsonb(r) - 'item' - 'required' - 'available' - 'job_status_error'
        || case when r.error = 'insufficient_balance'
                then jsonb_build_object('required', r.required, 'available', r.available) else '{}' end
        || case when r.job_status_error is not null
                then jsonb_build_object('job_status_error', r.job_status_error) else '{}' end;
end $$;

-- Records charges that are owed and that nobody has been able to make: the retries are used up. The
-- sweeper settles them. Takes no company lock: that lock may be just what could not be had. A key
-- that was settled meanwhile keeps its record; the caller sees that by the status. One row per item, in
-- input order.
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

do $$
declare
    v_function text;
begin
    foreach v_function in array array[
        'deduct_tokens_batch(text[], uuid[], uuid[], bigint[], jsonb[], text[], uuid[])',
        'deduct_tokens_atomic(text, uuid, uuid, bigint, jsonb)',
        'mark_deductions_pending(text[], uuid[], uuid[], bigint[], jsonb[], text[], uuid[], text[])'
    ] loop
        execute format('alter function %s set search_path = %I, pg_temp', v_function, current_schema());
        execute format('alter function %s set plan_cache_mode = force_generic_plan', v_function);
        execute format('alter function %s set enable_seqscan = off', v_function);
        execute format('alter function %s set jit = off', v_function);
    end loop;
end $$;
revoke execute on function commit_durably(), canonical_keys(text[]) from public;
