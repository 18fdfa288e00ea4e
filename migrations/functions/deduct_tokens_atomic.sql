-- One charge, for any SQL client. A business outcome is a result, never an exception. A key that is
-- a UUID, however it is spelled, is the id of a job.
create or replace function deduct_tokens_atomic(
    p_idempotency_key text, p_company_id uuid, p_article_id uuid, p_amount bigint, p_metadata jsonb default '{}'
) returns jsonb
language plpgsql security definer
set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
    v_key constant text := canonical_key(p_idempotency_key) collate "C";
    v_job_id constant uuid := job_of(v_key);
    r deduction_result;
begin
    -- Tells "somebody is at it" from "charged" without waiting. Not what prevents a second charge. Two keys
    -- share a row by a chance of one in 65,536: the caller tries again, as it would have to anyway.
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
