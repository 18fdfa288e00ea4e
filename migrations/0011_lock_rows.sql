-- Locks that need a right: rows of a table instead of advisory locks.
--
-- Why: anybody who may connect may take any advisory lock, and hold it. One `select pg_advisory_lock(…)` stopped
-- the archive. A row of this table is locked by our functions only. And advisory locks live in the server's shared
-- memory, one for each key: 60,000 single charges in one transaction used it up for the whole server. A row's lock is
-- in the row.

create table token_billing_locks (
    -- Of a key: its hash, from 0 to 65535. -1: whoever changes dead letters. -2: whoever claims stale records.
    slot int primary key
);
insert into token_billing_locks select * from generate_series(-2, 65535);
create trigger no_delete before delete on token_billing_locks
    for each statement execute function refuse_change();
create trigger no_truncate before truncate on token_billing_locks
    for each statement execute function refuse_change();

-- Held to the end of the transaction. A statement that changes letters must be a later one: its own look at
-- them has to come after the wait.
create or replace function lock_dead_letters() returns void
language plpgsql security definer as $$
begin
    perform from token_billing_locks where slot = -1 for update;
    if not found then
        raise exception 'token_billing_locks has no row -1' using errcode = 'object_not_in_prerequisite_state';
    end if;
end $$;
revoke execute on function lock_dead_letters() from public;

-- As in 0007, with a lock that needs a right. Takes the next stale records for p_lease. What somebody is charging at
-- this moment is left to him.
create or replace function claim_stale_deductions(
    p_stale_after interval, p_after timestamptz, p_after_key text, p_limit int, p_lease interval
) returns setof stale_deduction
language plpgsql security definer as $$
declare
    v_stale stale_deduction[];
    v_keys text[];
begin
    -- One claimer at a time: else all would look at the same oldest ones.
    perform from token_billing_locks where slot = -2 for update;
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

do $$
declare
    v_function text;
begin
    foreach v_function in array array[
        'lock_dead_letters()',
        'claim_stale_deductions(interval, timestamptz, text, int, interval)'
    ] loop
        execute format('alter function %s set search_path = %I, pg_temp', v_function, current_schema());
        execute format('alter function %s set plan_cache_mode = force_generic_plan', v_function);
        execute format('alter function %s set enable_seqscan = off', v_function);
        execute format('alter function %s set jit = off', v_function);
    end loop;
end $$;
