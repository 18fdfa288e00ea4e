-- Archives arrivals, all or none; the id of the dead letter of each, in input order. The caller acks the
-- messages after the commit, which is durable: if it dies before, they come again and are counted once too often, never
-- lost.
create or replace function archive_dead_letters(
    p_reasons text[], p_errors text[], p_error_signatures text[], p_bodies bytea[], p_properties jsonb[],
    p_headers jsonb[], p_job_ids uuid[], p_company_ids uuid[], p_article_ids uuid[], p_tokens bigint[],
    p_attempts int[], p_first_failed_at timestamptz[], p_last_failed_at timestamptz[], p_replay_of bigint[]
) returns table (item int, id bigint)
language plpgsql security definer
set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
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
        -- may be anybody's, so the body must be what that dead letter would have sent.
        v_replayed := null;
        select d.id into v_replayed
        from (select * from dead_letters d where d.id = v_arrival.replay_of offset 0) d
        where d.claimed_by is not null
          and coalesce(d.edited_body, d.body) = v_arrival.body;

        -- Never into the one that was replayed, nor into one that is just being replayed: who replays
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
