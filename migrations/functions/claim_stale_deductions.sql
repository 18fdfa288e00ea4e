-- Takes the next stale records for p_lease. What somebody is charging at this moment is left alone.
--
-- The claim is committed in a short transaction of its own. A sweeper never holds records' rows while it charges: a
-- charge locks the company first and then its keys, and whoever has the keys first deadlocks with it. If the sweeper
-- dies, the claim runs out, and a later pass takes the record.
create or replace function claim_stale_deductions(
    p_stale_after interval, p_after timestamptz, p_after_key text, p_limit int, p_lease interval
) returns setof stale_deduction
language plpgsql security definer
set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
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
