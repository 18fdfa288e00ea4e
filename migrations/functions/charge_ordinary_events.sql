-- Charges those completion events of a batch of which nothing special is to be said: the company is known, its row is
-- there and can be locked at once, and it can pay for all of its events in the batch beside what is held for other jobs;
-- the key is new; a row of
-- article_jobs, if there is one, is the company's, and can be locked at once. What is written is what
-- charge_other_events would write. Tells the places in the batch of those that it charged, and of those whose company
-- somebody else has locked: nothing is done about these, nor about all others.
--
-- Why at all: nearly all events are such, and this costs half. Where nothing can be refused there is no key to be looked up
-- and no answer to be made, and balances are a sum.
--
-- Why one key can't be charged twice: a record is inserted under the unique index of the key, with no ON CONFLICT. If the
-- key is there, whoever wrote it, all that this call did is rolled back, and it is done once more without what has such
-- a key: the event, where nothing can be charged any more (the key has its charge, or an earlier event of the batch
-- has the key too); else all of its company's, which are then charged in their order. Record, usage log, balance and
-- job are written by one statement: all or nothing.
--
-- Nobody is waited for, but for a transaction that is inserting the same key. Whatever else goes wrong (a trigger, a type or
-- a CHECK of the application's, a row that moved between two looks) is no reason to charge nobody: nothing is charged
-- here, and charge_other_events finds out what it is; until the end of the transaction, token_billing.fell_back is the error.
--
-- If the caller dies: before COMMIT nothing happened; after it, everything did.
create or replace function charge_ordinary_events(
    p_job_ids uuid[], p_company_ids uuid[], p_article_ids uuid[], p_amounts bigint[],
    p_metadata jsonb[], p_usage_types text[],
    out charged int[], out locked int[]
)
language plpgsql as $$
declare
    v_now timestamptz;
    v_is_repeated boolean;
    -- Of each company.
    v_company_ids uuid[];
    v_places tid[];
    -- What it must have, that all of its events are charged in whatever order they come.
    v_needs numeric[];
    v_has_holds boolean;
    v_monthly bigint[];
    v_purchased bigint[];
    v_period_ends timestamptz[];
    v_is_whole boolean;
begin
    v_is_repeated := (select count(distinct e.job_id) < count(*) from unnest(p_job_ids) as e (job_id));
    for v_try in 1 .. 2 loop
        if v_is_repeated or v_try = 2 then
            select array_agg(case when e.is_other then null else e.company_id end order by e.n) into p_company_ids
            from (
                select e.n, e.company_id,
                       e.copy > 1 or r.status in ('completed', 'compensated')
                           or bool_or(e.company_id is distinct from e.first_company_id or r.status in ('failed', 'pending'))
                              over (partition by e.company_id) as is_other
                from (
                    select e.*, row_number() over same_key as copy, first_value(e.company_id) over same_key as first_company_id
                    from unnest(p_job_ids, p_company_ids) with ordinality as e (job_id, company_id, n)
                    window same_key as (partition by e.job_id order by e.n)
                ) e
                left join lateral (
                    select r.status from token_deduction_records r where r.idempotency_key = e.job_id::text offset 0
                ) r on true
            ) e;
        end if;
        -- What is locked in this block is written in it: locked outside of it, each row would cost a MultiXactId.
        begin
            select array_agg(c.company_id), array_agg(c.place), array_agg(i.amount),
                   array_agg(c.monthly), array_agg(c.purchased), array_agg(c.current_period_end)
            into v_company_ids, v_places, v_needs, v_monthly, v_purchased, v_period_ends
            from (
                select e.company_id, sum(e.amount) as amount
                from unnest(p_company_ids, p_amounts) as e (company_id, amount)
                group by e.company_id
                order by e.company_id
            ) i
            cross join lateral (
                select s.company_id, s.ctid as place, coalesce(s.monthly_quota_balance, 0) as monthly,
                       coalesce(s.purchased_token_balance, 0) as purchased, s.current_period_end
                from company_subscriptions s where s.company_id = i.company_id for no key update skip locked
            ) c;
            -- The statement that charges begins after the locks, and sees what those wrote who held them before.
            v_now := clock_timestamp();
            -- From the end where they are: at the other one are those that were closed, until a VACUUM.
            v_has_holds := exists (
                select from (select from token_holds h where h.status = 'open' order by h.expires_at desc limit 1) h);
            if v_has_holds then
                -- An event may use up its own hold; what it takes beyond that must be left beside all holds.
                v_needs := array(
                    select i.amount + coalesce(h.amount, 0)
                    from unnest(v_company_ids) with ordinality as c (company_id, n)
                    join (
                        select e.company_id, sum(greatest(e.amount - coalesce(h.amount, 0), 0)) as amount
                        from unnest(p_job_ids, p_company_ids, p_amounts) as e (job_id, company_id, amount)
                        left join lateral (
                            select h.amount from token_holds h
                            where h.job_id = e.job_id and h.company_id = e.company_id
                              -- In a form that no index serves: by its key, and not one of all that the company has open.
                              and h.status is not distinct from 'open' and h.expires_at > v_now offset 0
                        ) h on true
                        group by e.company_id
                    ) i on i.company_id = c.company_id
                    cross join lateral (
                        select sum(h.amount) as amount from token_holds h
                        where h.company_id = c.company_id and h.status = 'open' and h.expires_at > v_now
                    ) h
                    order by c.n);
            end if;

            with company as (
                select c.company_id, c.place, c.monthly, c.monthly + c.purchased as balance, c.period_end
                from (
                    select c.company_id, c.place, c.needs, c.purchased, c.period_end,
                           case when c.period_end <= v_now then 0 else c.monthly end as monthly
                    from unnest(v_company_ids, v_places, v_needs, v_monthly, v_purchased, v_period_ends)
                         as c (company_id, place, needs, monthly, purchased, period_end)
                ) c
                where c.monthly >= 0 and c.purchased >= 0 and c.needs <= c.monthly + c.purchased::numeric
            ),
            charge as materialized (
                select e.n, e.job_id, e.company_id, coalesce(e.article_id, j.article_id) as article_id, e.amount,
                       e.metadata, e.usage_type, e.place, e.monthly, e.balance, e.period_end, j.place as job_place,
                       e.balance - sum(e.amount) over so_far::bigint as left_after,
                       nextval('token_ledger_seq') as ledger_seq, gen_random_uuid() as id
                from (
                    select e.*, c.place, c.monthly, c.balance, c.period_end
                    from unnest(p_job_ids, p_company_ids, p_article_ids, p_amounts, p_metadata, p_usage_types)
                         with ordinality as e (job_id, company_id, article_id, amount, metadata, usage_type, n)
                    join company c on c.company_id = e.company_id
                    -- Joined first, and as large as they are: the estimates behind it would have every pair compared.
                    offset 0
                ) e
                left join lateral (
                    select a.company_id, a.article_id, a.ctid as place from article_jobs a
                    where a.id = e.job_id and a.company_id is not null
                    -- By its key, whatever a plan made on an empty table would rather do.
                    offset 0
                ) j on true
                where j.place is null
                   or j.company_id = e.company_id and exists (
                       -- By its place; the id is there for partitioned tables, in which places repeat.
                       select from article_jobs a where a.ctid = j.place and a.id is not distinct from e.job_id
                       for no key update skip locked
                   )
                window so_far as (partition by e.company_id order by e.n rows unbounded preceding)
            ),
            recorded as (
                insert into token_deduction_records (
                    idempotency_key, id, company_id, article_id, amount, status,
                    monthly_deducted, purchased_deducted, balance_before, balance_after, monthly_period_end,
                    ledger_seq, usage_type, created_at, completed_at, metadata)
                select c.job_id::text, c.id, c.company_id, c.article_id, c.amount, 'completed',
                       c.monthly_share, c.amount - c.monthly_share, c.left_after + c.amount, c.left_after,
                       case when c.monthly_share > 0 then c.period_end end,
                       c.ledger_seq, c.usage_type, v_now, v_now, c.metadata
                from (
                    select c.*, least(c.amount, greatest(c.monthly - (c.balance - c.left_after - c.amount), 0)) as monthly_share
                    from charge c
                    order by c.job_id
                ) c
                returning 1
            ),
            logged as (
                insert into token_usage_logs (
                    id, company_id, article_id, token_amount, deduction_record_id, usage_type, metadata, created_at)
                select c.ledger_seq, c.company_id, c.article_id, c.amount, c.id, c.usage_type, c.metadata, v_now
                from charge c
            ),
            spent as (
                update company_subscriptions s
                set monthly_quota_balance = coalesce(s.monthly_quota_balance, 0) - least(c.amount, c.monthly),
                    purchased_token_balance = coalesce(s.purchased_token_balance, 0) - greatest(c.amount - c.monthly, 0),
                    updated_at = v_now
                from (
                    select c.place, c.company_id, c.monthly, sum(c.amount)::bigint as amount
                    from charge c group by c.place, c.company_id, c.monthly
                ) c
                where s.ctid = c.place and s.company_id is not distinct from c.company_id
                returning c.amount
            ),
            told as (
                update article_jobs j
                set status = 'completed', error_message = null, updated_at = v_now
                from charge c
                where j.ctid = c.job_place and j.id is not distinct from c.job_id
                returning 1
            )
            select coalesce(array_agg(c.n::int), '{}'),
                   -- Looked at first, and so written first: where a key is there, least is in vain.
                   count(*) = (select count(*) from recorded)
                       and coalesce(sum(c.amount), 0) = (select coalesce(sum(s.amount), 0) from spent s)
                       and count(c.job_place) = (select count(*) from told)
            into charged, v_is_whole
            from charge c;
            if not v_is_whole then
                raise exception 'a locked row was not where it had been';
            end if;
            if v_has_holds then
                perform close_holds(
                    array_agg(p_job_ids[u.n]), array_agg(p_company_ids[u.n]), array_agg(null::text), v_now)
                from unnest(charged) as u (n);
            end if;
            if cardinality(charged) < cardinality(p_job_ids) then
                locked := array(
                    select e.n::int
                    from unnest(p_company_ids) with ordinality as e (company_id, n)
                    left join unnest(v_company_ids) as c (company_id) on c.company_id = e.company_id
                    where c.company_id is null
                      and exists (select from company_subscriptions s where s.company_id = e.company_id));
            end if;
            return;
        exception
            when unique_violation then null;
            when deadlock_detected or serialization_failure or lock_not_available then raise;
            when others then
                perform set_config('token_billing.fell_back', left(sqlerrm, 1000), true);
                exit;
        end;
    end loop;
    charged := '{}';
    locked := '{}';
end $$;
