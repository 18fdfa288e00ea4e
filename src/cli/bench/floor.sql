-- The least that charging can cost: the rows that charge_events writes, and no question asked.
--
-- Why: a figure for charge_events alone says nothing about how good it is. This locks the companies in order, sums the
-- tokens of each one up, and writes the same rows with the same columns, each table in one statement. It looks up no
-- key, expects none to be there (no ON CONFLICT), and refuses nothing: whoever charged with it would charge twice, or
-- below zero. Only for measuring, in a scratch database.
create function bench_floor(
    p_job_ids uuid[], p_company_ids uuid[], p_article_ids uuid[], p_amounts bigint[],
    p_metadata jsonb[], p_usage_types text[], p_lock_wait_ms int
) returns void
language plpgsql security definer
set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
    v_companies company_balance[];
    v_now timestamptz;
begin
    perform commit_durably();
    -- In a statement of its own: what it returns is the newest committed balance, and its place can be seen below.
    v_companies := array(
        select c
        from (select distinct u.id from unnest(p_company_ids) u (id) order by u.id) i
        cross join lateral (
            select s.company_id, s.ctid, s.monthly_quota_balance, s.purchased_token_balance, s.current_period_end
            from company_subscriptions s where s.company_id = i.id for no key update
        ) c);
    v_now := clock_timestamp();
    -- One sort, by company: for the sums, for `ledger_seq` (which orders the movements of one company) and for the index
    -- of both.
    with charged as materialized (
        select i.*, c.place, c.current_period_end, c.monthly, c.monthly + c.purchased - i.spent as balance_after,
               greatest(least(c.monthly - (i.spent - i.amount), i.amount), 0) as monthly_deducted,
               nextval('token_ledger_seq') as ledger_seq, gen_random_uuid() as record_id
        from (
            select i.*, sum(i.amount) over (partition by i.company_id order by i.n rows unbounded preceding)::bigint as spent
            from unnest(p_job_ids, p_company_ids, p_article_ids, p_amounts, p_metadata, p_usage_types)
                 with ordinality as i (job_id, company_id, article_id, amount, metadata, usage_type, n)
        ) i
        join unnest(v_companies) c on c.company_id = i.company_id
    ),
    recorded as (
        insert into token_deduction_records (
            idempotency_key, id, company_id, article_id, amount, status,
            monthly_deducted, purchased_deducted, balance_before, balance_after, monthly_period_end,
            ledger_seq, usage_type, error_code, error_message, retry_count, created_at, completed_at, metadata)
        select o.job_id::text, o.record_id, o.company_id, o.article_id, o.amount, 'completed',
               o.monthly_deducted, o.amount - o.monthly_deducted, o.balance_after + o.amount, o.balance_after,
               case when o.monthly_deducted > 0 then o.current_period_end end,
               o.ledger_seq, o.usage_type, null, null, 0, v_now, v_now, o.metadata
        from charged o
    ),
    logged as (
        insert into token_usage_logs (
            id, company_id, article_id, token_amount, deduction_record_id, usage_type, metadata, created_at)
        select o.ledger_seq, o.company_id, o.article_id, o.amount, o.record_id, o.usage_type, o.metadata, v_now
        from charged o
    ),
    spent as (
        update company_subscriptions c
        set monthly_quota_balance = c.monthly_quota_balance - s.monthly,
            purchased_token_balance = c.purchased_token_balance - s.purchased,
            updated_at = v_now
        from (
            select o.place, sum(o.monthly_deducted)::bigint as monthly,
                   sum(o.amount - o.monthly_deducted)::bigint as purchased
            from charged o group by o.place
        ) s
        where c.ctid = s.place
    )
    update article_jobs j
    set status = 'completed', error_message = null, updated_at = v_now
    from charged o
    where j.id = o.job_id and j.company_id = o.company_id;
end $$;
