-- Ends those of the keys that are still pending as failed: the article that was to be paid doesn't exist. "Still
-- pending" is looked at again under the row's lock: whoever charged it first has.
create or replace function write_off_pending_deductions(p_idempotency_keys text[])
    returns table (idempotency_key text, amount bigint, job_status_error text)
language plpgsql security definer
set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
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
    perform close_holds(
        array_agg(job_of(w.idempotency_key)), array_agg(w.company_id), array_agg(w.error_code), clock_timestamp())
    from unnest(v_written_off) w;
    v_refusals := update_article_jobs(
        array(select job_of(w.idempotency_key) from unnest(v_written_off) w where job_of(w.idempotency_key) is not null),
        array(select w.company_id from unnest(v_written_off) w where job_of(w.idempotency_key) is not null),
        array(select w.error_message from unnest(v_written_off) w where job_of(w.idempotency_key) is not null));
    return query
    select w.idempotency_key, w.amount, v_refusals ->> w.idempotency_key from unnest(v_written_off) w;
end $$;
