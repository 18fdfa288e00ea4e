-- Dead letters of charges that were written off are resolved.
--
-- Why: the sweeper finds that there is no article and ends the pending charge as failed. The letter that said
-- "pending" stayed open, and its alarm rang for ever, with nothing left to do.

create or replace view dead_letters_and_money as
select d.*,
       case r.status
           when 'completed' then 'charged'
           when 'compensated' then 'compensated'
           when 'pending' then 'pending'
           else 'never_charged'
       end as money,
       case when r.status in ('completed', 'compensated') then r.amount end as charged_tokens,
       case when r.status in ('completed', 'compensated') then r.company_id end as charged_company_id,
       r.completed_at as charged_at,
       -- The books have settled it: its job was charged, in whatever way. A letter that complains about that
       -- very charge is not settled by it, unless it was edited to ask for something else. Or the charge was pending,
       -- which is what a letter `retries_exhausted` says, and the sweeper found that there is no article.
       case r.status
           when 'completed' then
               d.reason not in ('idempotency_key_reused', 'already_compensated') or d.edited_body is not null
           when 'failed' then
               d.reason = 'retries_exhausted' and r.error_code = 'article_not_found'
           else false
       end as is_settled,
       r.written_off_at
from dead_letters d
left join lateral (
    select * from token_deduction_records r
    where r.idempotency_key = d.job_id::text collate "C" offset 0
) r on true;

-- As in 0005; arrays of more than one dimension are refused, and the commit is durable (0012), since the message is acked
-- after it.
--
-- Archives arrivals, all or none; the id of the letter of each, in input order. The caller acks the
-- messages after the commit: if it dies before, they come again and are counted once too often, never lost.
create or replace function archive_dead_letters(
    p_reasons text[], p_errors text[], p_error_signatures text[], p_bodies bytea[], p_properties jsonb[],
    p_headers jsonb[], p_job_ids uuid[], p_company_ids uuid[], p_article_ids uuid[], p_tokens bigint[],
    p_attempts int[], p_first_failed_at timestamptz[], p_last_failed_at timestamptz[], p_replay_of bigint[]
) returns table (item int, id bigint)
language plpgsql security definer as $$
#variable_conflict use_column
declare
    v_arrival record;
    v_company_id uuid;
    v_replayed bigint;
begin
    if array[cardinality(p_errors), cardinality(p_error_signatures), cardinality(p_bodies), cardinality(p_properties),
             cardinality(p_headers), cardinality(p_job_ids), cardinality(p_company_ids), cardinality(p_article_ids),
             cardinality(p_tokens), cardinality(p_attempts), cardinality(p_first_failed_at),
             cardinality(p_last_failed_at), cardinality(p_replay_of)]
       is distinct from array_fill(coalesce(cardinality(p_reasons), 0), array[13]) then
        raise exception 'archive_dead_letters: the arrays differ in length' using errcode = 'invalid_parameter_value';
    end if;
    -- UNNEST would take a two-dimensional one element by element, beside the wrong neighbours.
    if 2 <= any (array[
        array_ndims(p_reasons), array_ndims(p_errors), array_ndims(p_error_signatures),
        array_ndims(p_bodies), array_ndims(p_properties), array_ndims(p_headers), array_ndims(p_job_ids),
        array_ndims(p_company_ids), array_ndims(p_article_ids), array_ndims(p_tokens),
        array_ndims(p_attempts), array_ndims(p_first_failed_at), array_ndims(p_last_failed_at),
        array_ndims(p_replay_of)
    ]) then
        raise exception 'archive_dead_letters: an array has more than one dimension'
            using errcode = 'invalid_parameter_value';
    end if;
    perform commit_durably();
    perform lock_dead_letters();

    -- OFFSET 0 below: a plan is made once, perhaps while the table is empty, and kept. Only one is possible so:
    -- by the index of the id or of the body.
    for v_arrival in
        select * from unnest(
            p_reasons, p_errors, p_error_signatures, p_bodies, p_properties, p_headers, p_job_ids, p_company_ids,
            p_article_ids, p_tokens, p_attempts, p_first_failed_at, p_last_failed_at, p_replay_of)
        with ordinality as a (
            reason, error, error_signature, body, properties, headers, job_id, company_id,
            article_id, tokens, attempts, first_failed_at, last_failed_at, replay_of, n)
        order by n
    loop
        item := v_arrival.n;
        id := null;
        -- A replay that came back: whatever its replayer has come to, it was sent. The header that says so
        -- may be anybody's, so the body must be what that letter would have sent.
        v_replayed := null;
        select d.id into v_replayed
        from (select * from dead_letters d where d.id = v_arrival.replay_of offset 0) d
        where d.claimed_by is not null
          and coalesce(d.edited_body, d.body) = v_arrival.body;

        -- Never into the letter that was replayed, nor into one that is just being replayed: who replays
        -- would mark that one as sent, and this failure with it. Nor into an edited one, which may stand for
        -- another job now.
        update dead_letters d
        set occurrences = d.occurrences + 1, error = v_arrival.error, error_signature = v_arrival.error_signature,
            attempts = v_arrival.attempts,
            first_failed_at = least(d.first_failed_at, v_arrival.first_failed_at),
            last_failed_at = greatest(d.last_failed_at, v_arrival.last_failed_at),
            last_arrived_at = clock_timestamp(), last_arrival = nextval('dead_letter_arrival_seq')
        where d.id = (
            select max(t.id)
            from (select * from dead_letters t where t.body_sha256 = sha256(v_arrival.body) offset 0) t
            where t.state = 'open' and t.reason = v_arrival.reason
              and t.edited_body is null and t.id is distinct from v_replayed
              and (t.claimed_until is null or t.claimed_until <= clock_timestamp()))
        returning d.id into id;

        if id is null then
            v_company_id := v_arrival.company_id;
            if v_company_id is null and v_arrival.job_id is not null then
                select j.company_id into v_company_id from article_jobs j where j.id = v_arrival.job_id;
            end if;
            insert into dead_letters (
                reason, error, error_signature, body, properties, headers, job_id, company_id, article_id, tokens,
                attempts, first_failed_at, last_failed_at, last_arrival)
            values (
                v_arrival.reason, v_arrival.error, v_arrival.error_signature, v_arrival.body, v_arrival.properties,
                v_arrival.headers, v_arrival.job_id, v_company_id, v_arrival.article_id, v_arrival.tokens,
                v_arrival.attempts, v_arrival.first_failed_at, v_arrival.last_failed_at,
                nextval('dead_letter_arrival_seq'))
            returning dead_letters.id into id;
        end if;

        update dead_letters d
        set state = case d.state when 'open' then 'replayed' else d.state end,
            replayed_at = coalesce(d.replayed_at, clock_timestamp()),
            claimed_until = null,
            failed_again_as = archive_dead_letters.id
        where d.id = v_replayed;
        return next;
    end loop;

    if cardinality(p_reasons) > 0 then
        perform pg_notify('token_billing_dead_letters', '');
    end if;
end $$;

do $$
declare
    v_function constant text :=
        'archive_dead_letters(text[], text[], text[], bytea[], jsonb[], jsonb[], uuid[], uuid[], uuid[], bigint[], '
        'int[], timestamptz[], timestamptz[], bigint[])';
    v_definer regprocedure;
begin
    execute format('alter function %s set search_path = %I, pg_temp', v_function, current_schema());
    execute format('alter function %s set plan_cache_mode = force_generic_plan', v_function);
    execute format('alter function %s set enable_seqscan = off', v_function);
    execute format('alter function %s set jit = off', v_function);

    -- Row level security of the application's that hides a company from our functions must be an error, and not
    -- "this company doesn't exist".
    for v_definer in
        select p.oid::regprocedure from pg_proc p
        where p.pronamespace = current_schema()::regnamespace and p.prosecdef
          and p.proname in (
              'archive_dead_letters', 'charge_pending_deductions', 'claim_stale_deductions', 'credit_tokens',
              'deduct_tokens_atomic', 'deduct_tokens_batch', 'mark_deductions_pending', 'refund_tokens',
              'settle_dead_letters', 'stale_deductions', 'write_off_pending_deductions')
    loop
        execute format('alter function %s set row_security = off', v_definer);
    end loop;
end $$;
