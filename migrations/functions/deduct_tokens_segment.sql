-- Charges items of which equal keys are equal in everything (deduct_tokens_batch sees to that, and says why none is
-- charged twice). Locks the companies, charges, and tells the new outcomes of jobs for update_article_jobs.
--
-- The application's tables may not be as ours would be: a balance that is NULL is no tokens; a company with two rows is
-- an error, and nothing is charged: each row would have paid, or none.
--
-- What is held for a job, others don't get: an item is charged if what is left beside the holds of other jobs suffices.
-- When its turn is over its own hold ends, whatever came of it: so at each item's turn what is held for others is known
-- before anything is decided.
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
    -- Of each company, and of each item for its own job; NULL: nothing is held of anybody.
    v_held bigint[];
    v_own_holds bigint[];
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
    if exists (
        select from (select from token_holds h where h.status = 'open' order by h.expires_at desc limit 1) h)
    then
        v_held := array(
            -- Sums stay far inside a bigint.
            select least(coalesce(h.amount, 0), 1000000000000000000)
            from unnest(v_companies) with ordinality as c
            cross join lateral (
                select sum(h.amount) as amount from token_holds h
                where h.company_id = c.company_id and h.status = 'open' and h.expires_at > v_now
            ) h
            order by c.ordinality);
        v_own_holds := array(
            -- Of several keys of one job, the first has it.
            select case when row_number() over (partition by i.job_id order by i.n) = 1
                        then least(coalesce(h.amount, 0), 1000000000000000000) else 0 end
            from (
                select coalesce(i.job_id, job_of(i.key)) as job_id, i.company_id, i.n
                from unnest(p_keys, p_job_ids, p_company_ids) with ordinality as i (key, job_id, company_id, n)
            ) i
            left join lateral (
                select h.amount from token_holds h
                where h.job_id = i.job_id and h.company_id = i.company_id
                  -- In a form that no index serves: by its key, and not one of all that the company has open.
                  and h.status is not distinct from 'open' and h.expires_at > v_now offset 0
            ) h on true
            order by i.n);
    end if;

    with input as materialized (
        select i.key collate "C" as key, i.company_id, i.article_id, i.amount, i.job_id, i.n,
               coalesce(i.own_hold, 0) as own_hold, coalesce(i.metadata, '{}') as metadata,
               coalesce(i.usage_type, 'article_generation') as usage_type
        from unnest(p_keys, p_company_ids, p_article_ids, p_amounts, p_metadata, p_usage_types, p_job_ids, v_own_holds)
             with ordinality as i (key, company_id, article_id, amount, metadata, usage_type, job_id, own_hold, n)
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
        select c.company_id, c.place, c.purchased, c.current_period_end, coalesce(c.held, 0) as held,
               case when c.current_period_end <= v_now then 0 else c.monthly end as monthly
        from unnest(v_companies, v_held) as c (company_id, place, monthly, purchased, current_period_end, held)
    ),
    -- What is known before any arithmetic; NULL: to be charged if the balance allows.
    judged as (
        select i.key, i.company_id, coalesce(i.article_id, e.article_id) as article_id, i.amount, i.metadata,
               i.usage_type, i.job_id, i.n, i.own_hold, c.held,
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
               tokens_left_beside(case when j.verdict is null and j.occurrence = 1 then j.amount else 0 end, j.opening, j.held_for_others)
                   over (partition by j.company_id order by j.n rows unbounded preceding) as left_after
        from (
            select j.*,
                   j.held - (sum(case when j.verdict is null and j.occurrence = 1 then j.own_hold else 0 end)
                       over (partition by j.company_id order by j.n rows unbounded preceding))::bigint as held_for_others
            from judged j
        ) j
    ),
    -- `ledger_seq` is drawn here: under the company's lock, in input order.
    decided as materialized (
        select b.key, b.company_id, b.company_place, b.article_id, b.amount, b.metadata, b.usage_type, b.job_id, b.n,
               b.occurrence, b.existing_id, b.verdict, b.left_before, b.held_for_others, b.charged, b.is_new_outcome,
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
                        format('Not enough tokens: the article needs %s and the company has %s', b.amount, b.left_before)
                        || case when b.held_for_others > 0
                                then format(', of which %s are held for other articles.', b.held_for_others) else '.' end
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
                case when d.charged then null
                     when d.held_for_others > 0 then greatest(d.left_before - d.held_for_others, 0)
                     else d.left_before end,
                null)::deduction_result
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
                'A key of 1 to 1024 bytes without control characters, a company and an amount of at least 1 are required.',
                null, d.amount, 0, 0, null, null, null, null, null, null)::deduction_result
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
    if v_own_holds is not null then
        perform close_holds(
            array_agg(coalesce(p_job_ids[i.n], job_of(p_keys[i.n])) order by i.n), array_agg(p_company_ids[i.n] order by i.n),
            array_agg(r.error order by i.n), v_now)
        from unnest(results) as r
        cross join lateral (select r.item - p_first_item + 1 as n) i
        where not r.idempotent and (r.success or r.error = 'insufficient_balance');
    end if;
end $$;
