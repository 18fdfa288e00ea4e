-- Holds tokens of a company for a job that is about to begin: charges of other jobs leave them alone. Once per job: the
-- same again gives the hold that is there. Never raises for a business outcome.
--
-- `success`, `idempotent`, `error`, `hold`. Errors: `insufficient_balance` with `required` and `available`;
-- `company_not_found`; `hold_differs`: the job has an open hold of another company or amount; `already_charged`,
-- `already_compensated`; `invalid_request`.
--
-- Whoever holds or charges locks the company's row first, so between the look at what is left and the hold nobody takes it.
-- A hold that was released or has expired is no hold: the job may be held for again.
--
-- Waits a quarter of a second at most for whoever has locked the company (55P03): somebody sits before the screen, and
-- others want the connection.
--
-- If the caller dies: before COMMIT nothing happened; after it, the same call again gives this hold.
create or replace function hold_tokens(
    p_job_id uuid, p_company_id uuid, p_amount bigint, p_expires_after interval
) returns jsonb
language plpgsql security definer
set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off set lock_timeout = 250
-- A bitmap would visit each hold that was closed since the last VACUUM, every time; an index scan only once.
set enable_bitmapscan = off
as $$
declare
    v_now timestamptz;
    v_balance numeric;
    v_available numeric;
    v_status text;
    v_hold token_holds;
begin
    if p_job_id is null or p_company_id is null or p_amount is null or p_amount < 1
       or p_expires_after is null or p_expires_after <= interval '0' then
        return jsonb_build_object('success', false, 'error', 'invalid_request');
    end if;
    perform commit_durably();
    select case when s.current_period_end <= clock_timestamp() then 0 else coalesce(s.monthly_quota_balance, 0) end::numeric
           + coalesce(s.purchased_token_balance, 0)
    into v_balance
    from company_subscriptions s where s.company_id = p_company_id for no key update;
    if not found then
        return jsonb_build_object('success', false, 'error', 'company_not_found');
    end if;
    -- Those who had the lock before have committed: what they charged and held is seen from here on.
    v_now := clock_timestamp();
    select r.status into v_status from token_deduction_records r where r.idempotency_key = p_job_id::text collate "C";
    if v_status in ('completed', 'compensated') then
        return jsonb_build_object('success', false, 'error',
            case v_status when 'completed' then 'already_charged' else 'already_compensated' end);
    end if;
    select * into v_hold from token_holds h where h.job_id = p_job_id for update;
    if v_hold.status = 'open' and v_hold.expires_at > v_now then
        if v_hold.company_id = p_company_id and v_hold.amount = p_amount then
            return jsonb_build_object('success', true, 'idempotent', true, 'hold', to_jsonb(v_hold));
        end if;
        return jsonb_build_object('success', false, 'error', 'hold_differs');
    end if;
    v_available := v_balance - (
        select coalesce(sum(h.amount), 0) from token_holds h
        where h.company_id = p_company_id and h.status = 'open' and h.expires_at > v_now);
    if v_available < p_amount then
        return jsonb_build_object('success', false, 'error', 'insufficient_balance', 'required', p_amount,
            'available', greatest(v_available, 0));
    end if;
    insert into token_holds as h (job_id, company_id, amount, expires_at)
    values (p_job_id, p_company_id, p_amount, v_now + p_expires_after)
    on conflict (job_id) do update
    set company_id = excluded.company_id, amount = excluded.amount, status = 'open', created_at = excluded.created_at,
        expires_at = excluded.expires_at, closed_at = null, reason = null
    where h.status <> 'open' or h.expires_at <= v_now
    returning * into v_hold;
    if not found then
        -- Somebody held for this job meanwhile, of another company: this one's row is locked by us.
        return jsonb_build_object('success', false, 'error', 'hold_differs');
    end if;
    return jsonb_build_object('success', true, 'idempotent', false, 'hold', to_jsonb(v_hold));
end $$;
